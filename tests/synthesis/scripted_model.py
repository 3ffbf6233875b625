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

"""A chat model by rules, that knows the stages' prompts: for tests of the synthesis."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from monai_u2.synthesis.report_thinking import REGIONS
from monai_u2.synthesis.wording import is_positive

_LINE = re.compile(r"^\[(\d+)\] (.*)$", re.MULTILINE)
_PHANTOM_REGIONS = {
    "Lungs": "Lungs and airways",
    "Pleura": "Pleura",
    "Heart and vessels": "Heart and vessels",
    "Liver": "Liver and bile ducts",
    "Spleen": "Spleen",
    "Kidneys": "Kidneys and urinary tract",
    "Bones": "Bones and soft tissues",
}


def stage_of(body: dict[str, Any]) -> str:
    return body["response_format"]["json_schema"]["name"]


def digest(body: dict[str, Any]) -> str:
    """A name for a request that doesn't depend on when it comes."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def script(body: dict[str, Any]) -> tuple[str, str]:
    """Answer any stage well."""
    stage = stage_of(body)
    return f"{stage} {digest(body)}", json.dumps(answer(stage, body["messages"][1]["content"]))


def answer(stage: str, text: str) -> dict[str, Any]:
    lines = [(int(number), line) for number, line in _LINE.findall(_between(text, "report"))]
    if stage == "questions":
        asked = [{"question": f"What is seen in place {n} of the image?", "lines": [n]} for n, _ in lines[:2]]
        return {"questions": asked}
    if stage == "answers":
        number = int(re.search(r"place (\d+)", _between(text, "question"))[1])
        line = dict(lines)[number]
        thinking = f"{_cited(line, number)} This is what the image is asked for, as {_cited(line, number)}"
        return {"thinking": thinking, "answer": _cited(line, number)}
    if stage == "filter":
        return {"reason": "It agrees.", "proper_question": True, "right_answer": True}
    if stage == "refine":
        return {"thinking": _between(text, "answer") + " " + _between(text, "answer")}
    if stage == "report_thinking":
        return _report_thinking(lines)
    if stage == "citation_judge":
        return {"supported": [True] * text.count("Statement: ")}
    raise AssertionError(stage)


def _report_thinking(lines: list[tuple[int, str]]) -> dict[str, Any]:
    findings, region = [], REGIONS[0]
    for number, line in lines:
        name = line.partition(":")[0]
        region = _PHANTOM_REGIONS.get(name, region)
        if is_positive(line):
            findings.append({"region": region, "statement": _cited(line, number)})
    number, line = lines[-1]
    findings = findings or [{"region": REGIONS[1], "statement": _cited(lines[0][1], lines[0][0])}]
    return {"findings": findings, "impression": [_cited(line, number)], "follow_up": [f"Follow-up by CT [{number}]."]}


def _cited(line: str, number: int) -> str:
    return f"{line.rstrip('.')} [{number}]."


def _between(text: str, name: str) -> str:
    return re.search(rf"<{name}>\n(.*?)\n</{name}>", text, re.DOTALL)[1]
