# Copyright (c) monai_u2 contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from __future__ import annotations

import pytest

from monai_u2.data import parse_shard, take_shard
from monai_u2.exceptions import InputError


@pytest.mark.parametrize(("text", "shard"), [(None, (1, 1)), ("1/1", (1, 1)), (" 16/16", (16, 16)), ("03/16", (3, 16))])
def test_shards_are_read(text: str | None, shard: tuple[int, int]) -> None:
    assert parse_shard(text) == shard


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1.5/4"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected a share such as 3/16"):
        parse_shard(text)


@pytest.mark.parametrize("count", [1, 3, 7, 12])
def test_shards_hold_everything_once(count: int) -> None:
    items = list(range(10))
    shards = [take_shard(items, (index, count)) for index in range(1, count + 1)]
    assert sorted(item for shard in shards for item in shard) == items
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
