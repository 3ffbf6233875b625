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

"""Shares of a piece of work, so that several processes or machines do it together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from monai_u2.exceptions import InputError

Item = TypeVar("Item")


def parse_shard(text: str | None) -> tuple[int, int]:
    """Read "3/16", the third of sixteen shares, as ``(3, 16)``; None is the only share, ``(1, 1)``.

    Raises:
        InputError: when the text is none of these.
    """
    if text is None:
        return 1, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"shard is {text!r}; expected a share such as 3/16, from 1/16 to 16/16.")
    return int(match[1]), int(match[2])


def take_shard(items: Sequence[Item], shard: tuple[int, int]) -> list[Item]:
    """Return the items of one share: every n-th, so that neighbors of like size are spread."""
    index, count = shard
    return list(items[index - 1 :: count])
