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

import json
from typing import Any

import jsonschema
import pytest

from monai_u2.judges import SIGNIFICANT_ERRORS
from monai_u2.judges.chat_format import INSTRUCTIONS, RESPONSE_SCHEMA, chat_messages, parse_chat_answer


def answer(**lists: Any) -> dict[str, Any]:
    names = ("matched_findings", *SIGNIFICANT_ERRORS, "insignificant_errors")
    return {"explanation": "why", **{name: [] for name in names}, **lists}


def test_lists_are_counted() -> None:
    lists = {name: ["x"] * count for count, name in enumerate(SIGNIFICANT_ERRORS, start=1)}
    content = answer(matched_findings=["a", "b"], insignificant_errors=["c"], **lists)
    jsonschema.validate(content, RESPONSE_SCHEMA)
    errors = parse_chat_answer(f"\n {json.dumps(content)} \n", "stop")
    assert errors.status == "ok" and errors.explanation == "why"
    assert [getattr(errors, name) for name in SIGNIFICANT_ERRORS] == [1, 2, 3, 4, 5, 6]
    assert (errors.matched, errors.insignificant) == (2, 1)


WHOLE = json.dumps(answer(matched_findings=['a "b" {c}']))


def test_every_cut_is_truncated() -> None:
    statuses = {length: parse_chat_answer(WHOLE[:length], "stop").status for length in range(1, len(WHOLE))}
    assert set(statuses.values()) == {"truncated"}
    assert parse_chat_answer(WHOLE, "length").status == "truncated"
    assert parse_chat_answer(WHOLE, None).status == "ok"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "The candidate is good.",
        f"```json\n{WHOLE}\n```",
        WHOLE + " and so on",
        "[]",
        "null",
        json.dumps({"matched_findings": []}),
        json.dumps(answer(other=[])),
        json.dumps(answer(matched_findings=2)),
        json.dumps(answer(matched_findings=[1])),
        json.dumps(answer(missing_finding="effusion")),
        json.dumps(answer(explanation=None)),
    ],
)
def test_what_was_not_asked_for_is_unparsable(content: str) -> None:
    errors = parse_chat_answer(content, "stop")
    assert errors.status == "unparsable" and errors.score is None and errors.explanation


def test_a_refusal_is_no_judgement() -> None:
    assert parse_chat_answer(None, "stop").status == "failed"
    assert parse_chat_answer(WHOLE, "content_filter").status == "failed"


def test_the_instructions_name_every_list() -> None:
    for name in RESPONSE_SCHEMA["properties"]:
        assert name in INSTRUCTIONS
    texts = [message["content"] for message in chat_messages("REFERENCE TEXT", "CANDIDATE TEXT")]
    assert "REFERENCE TEXT" in texts[1] and "CANDIDATE TEXT" in texts[1] and texts[0] == INSTRUCTIONS
