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

"""What a synthesis will cost, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from monai_u2.chat_client import ChatClient

_CHARACTERS_PER_TOKEN = 4.0  # of English; an ideograph is about one token


def count_tokens(text: str) -> int:
    """Return about how many tokens a text has: one for four characters, one for each ideograph."""
    wide = sum(ord(character) >= 0x2E80 for character in text)
    return math.ceil(wide + (len(text) - wide) / _CHARACTERS_PER_TOKEN)


def total_estimate(stages: Mapping[str, Mapping[str, int]], client: ChatClient) -> dict[str, Any]:
    """Return the stages' estimates with their sum and, where prices are known, their price.

    Args:
        stages: by label, `requests`, `prompt_tokens` and `completion_tokens` that are still to come.
        client: knows the prices, and the largest number of tokens of an answer.
    """
    sums = {
        name: sum(stage[name] for stage in stages.values())
        for name in ("requests", "prompt_tokens", "completion_tokens")
    }
    longest = next((client.options[name] for name in _LIMITS if name in client.options), None)
    at_most = None if longest is None else sums["requests"] * longest
    price = client.price(sums["prompt_tokens"], sums["completion_tokens"])
    total = {**sums, "completion_tokens_at_most": at_most, "price": price}
    if at_most is not None:
        total["price_at_most"] = client.price(sums["prompt_tokens"], at_most)
    return {"stages": dict(stages), "total": total}


_LIMITS: Sequence[str] = ("max_completion_tokens", "max_tokens")
