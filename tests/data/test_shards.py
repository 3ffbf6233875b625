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

"""Shares of the cases."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from monai_u2.data import process_shard
from monai_u2.exceptions import InputError


def test_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert process_shard() == (0, 1)
    assert process_shard(1, 3) == process_shard("2/3") == (1, 3)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert process_shard() == (1, 2) and process_shard(0, 1) == (0, 1)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 4)
    monkeypatch.setattr(dist, "get_world_size", lambda: 5)
    assert process_shard() == (4, 5)


@pytest.mark.parametrize(
    "arguments", [(2, 2), (-1, 2), (0, 0), (1, None), (None, 2), ("17/16",), ("0/16",), ("3",), ("-1/2",), ("1/2", 2)]
)
def test_shards_that_do_not_fit(arguments: tuple[int | str | None, ...]) -> None:
    with pytest.raises(InputError, match="expected"):
        process_shard(*arguments)
