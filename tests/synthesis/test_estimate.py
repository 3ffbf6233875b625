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

"""Guesses of tokens and prices."""

from __future__ import annotations

from typing import Any

import pytest

from monai_u2.chat_client import ChatClient
from monai_u2.synthesis.estimate import count_tokens, total_estimate


def test_tokens() -> None:
    assert count_tokens("") == 0 and count_tokens("abcde") == 2 and count_tokens("右肺结节 20 mm") == 4 + 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"price": None, "completion_tokens_at_most": None}),
        ({"options": {"max_tokens": 100}}, {"price": None, "completion_tokens_at_most": 300, "price_at_most": None}),
        ({"prompt_price": 1.0, "completion_price": 1e6}, {"price": 12.00003, "completion_tokens_at_most": None}),
    ],
)
def test_totals(options: dict[str, Any], expected: dict[str, Any]) -> None:
    client = ChatClient("http://localhost/v1", "m", api_key_variable=None, **options)
    stages = {"a": {"requests": 1, "prompt_tokens": 10, "completion_tokens": 4}}
    stages["b"] = {"requests": 2, "prompt_tokens": 20, "completion_tokens": 8}
    total = total_estimate(stages, client)["total"]
    assert total == {"requests": 3, "prompt_tokens": 30, "completion_tokens": 12, **expected}
