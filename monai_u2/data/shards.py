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

"""Which share of a work is a process's own."""

from __future__ import annotations

import os
import re

from monai_u2.exceptions import InputError


def parse_shard(text: str | None) -> tuple[int, int]:
    """Read "3/16", the third of sixteen shares, as (3, 16); None is the only share, (1, 1).

    Raises:
        InputError: for any other text.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", "1/1" if text is None else str(text))
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"shard is {text!r}; expected a share such as 3/16, from 1/16 to 16/16.")
    return int(match[1]), int(match[2])


def process_shard(shard: int | str | None = None, num_shards: int | None = None) -> tuple[int, int]:
    """Return which share of the cases this process takes, of how many.

    Args:
        shard: number of the share from 0 on as processes are numbered, or a text such as "3/16" for the third of
            sixteen, see :func:`parse_shard`; None takes the rank of `torch.distributed`, else that of `torchrun`.
        num_shards: number of shares, or None likewise, or where `shard` says it.

    Raises:
        InputError: when one is given without the other, or they don't fit.
    """
    if isinstance(shard, str):
        if num_shards is not None:
            raise InputError(
                f"shard is {shard!r} and num_shards is {num_shards}; expected a text such as '3/16' and no num_shards, "
                "or two numbers."
            )
        number, num_shards = parse_shard(shard)
        shard = number - 1
    if (shard is None) != (num_shards is None):
        raise InputError(f"shard is {shard} and num_shards is {num_shards}; expected both, or neither.")
    if shard is None or num_shards is None:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        shard, num_shards = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= shard < num_shards:
        raise InputError(f"shard is {shard} of {num_shards}; expected 0 to {num_shards - 1}.")
    return shard, num_shards
