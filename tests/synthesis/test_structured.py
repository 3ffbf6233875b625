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

"""A model's JSON by its schema."""

from __future__ import annotations

import pytest

from monai_u2.chat_client import ChatAnswer
from monai_u2.synthesis.structured import NUMBER, TEXT, YES_NO, array_schema, object_schema, parse_answer

SCHEMA = object_schema(text=TEXT, right=YES_NO, lines=array_schema(NUMBER), items=array_schema(object_schema(a=TEXT)))
GOOD = '{"text": "t", "right": true, "lines": [1, 2], "items": [{"a": "b"}]}'


@pytest.mark.parametrize("text", [GOOD, f"\n{GOOD}\n", f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```"])
def test_good_answers(text: str) -> None:
    content, problem = parse_answer(ChatAnswer(text=text, finish_reason="stop"), SCHEMA)
    assert problem is None and content["lines"] == [1, 2] and content["items"] == [{"a": "b"}]


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        (None, "stop", "refusal"),
        (GOOD, "content_filter", "refusal"),
        (GOOD, "length", "truncated"),
        (GOOD[:20], "stop", "truncated"),
        (GOOD[:-1], "stop", "truncated"),
        ("I can't help with that.", "stop", "not_json"),
        (f"Here it is: {GOOD}", "stop", "not_json"),
        (GOOD.replace('"t"', r'"x \ud83d y"'), "stop", "not_json"),
        (GOOD.replace("[1, 2]", "[" + "1" * 5000 + "]"), "stop", "not_json"),
        ("[]", "stop", "wrong_schema"),
        (GOOD.replace("true", '"yes"'), "stop", "wrong_schema"),
        (GOOD.replace("[1, 2]", "[true]"), "stop", "wrong_schema"),
        (GOOD.replace("[1, 2]", '["1"]'), "stop", "wrong_schema"),
        (GOOD.replace('"t"', "null"), "stop", "wrong_schema"),
        (GOOD.replace('"a"', '"c"'), "stop", "wrong_schema"),
        (GOOD.replace("}]}", '}], "more": 1}'), "stop", "wrong_schema"),
    ],
)
def test_answers_that_are_not_what_was_asked_for(text: str | None, finish_reason: str, reason: str) -> None:
    content, problem = parse_answer(ChatAnswer(text=text, finish_reason=finish_reason), SCHEMA)
    assert content == {} and problem.reason == reason


def test_values_of_a_list() -> None:
    schema = object_schema(region={"type": "string", "enum": ["Lungs", "Liver"]})
    assert parse_answer(ChatAnswer(text='{"region": "Liver"}'), schema)[1] is None
    assert parse_answer(ChatAnswer(text='{"region": "liver"}'), schema)[1].detail == "region is none of Lungs, Liver"
