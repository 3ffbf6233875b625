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

"""A chat model by rules, that knows the stages' prompts and plants errors where it is told: for tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from monai_u2.data.fingerprint import fingerprint
from monai_u2.synthesis.clauses import is_positive
from monai_u2.synthesis.report_thinking import REGIONS

Plan = Callable[[str, str], str]  # from a stage and its material to what is done with it

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

PLANTED = {
    "wrong citation": "unknown_line",
    "contradiction": "contradiction",
    "vacuous": "vacuous",
    "comparison": "comparison",
    "german": "other_language",
}
"""What is planted in texts, and the reason that it is to be rejected for."""

VACUOUS = "Let me think about this step by step. I have considered everything. The report gives the answer [1]."
COMPARED = "The findings are unchanged since the previous examination."
GERMAN = "Das ist der Befund, und es wird keine Kontrolle mit der Aufnahme von heute gebraucht."


def stage_of(body: dict[str, Any]) -> str:
    """Name of the stage that asks."""
    return body["response_format"]["json_schema"]["name"]


def well(stage: str, material: str) -> str:
    """Nothing is planted."""
    return "well"


def scripted(plan: Plan = well) -> Callable[[dict[str, Any]], tuple[str, str]]:
    """A script for the server: answers every stage well, except where the plan says what to plant."""

    def script(body: dict[str, Any]) -> tuple[str, str]:
        stage, material = stage_of(body), body["messages"][1]["content"]
        return fingerprint(body), json.dumps(answer(stage, material, plan(stage, material)))

    return script


def answer(stage: str, text: str, planted: str = "well") -> dict[str, Any]:
    """A stage's answer to its material."""
    if stage == "citation_judge":
        return {"supported": [True] * text.count("Statement: ")}
    lines = [(int(number), line) for number, line in _LINE.findall(_between(text, "report"))]
    if stage == "questions":
        asked = [{"question": f"What is seen in place {n} of the image?", "lines": [n]} for n, _ in lines[:2]]
        return {"questions": asked}
    if stage == "filter":
        proper, right = planted != "improper", planted != "wrong"
        return {"reason": "It was compared.", "proper_question": proper, "right_answer": right}
    if stage == "report_thinking":
        return _report_thinking(lines, planted)
    number = int(re.search(r"place (\d+)", _between(text, "question"))[1])
    said = planted_in(planted, dict(lines)[number], number)
    if stage == "refine":
        return {"thinking": said}
    return {"thinking": said, "answer": cited(dict(lines)[number], number)}


def planted_in(planted: str, line: str, number: int) -> str:
    """Thinking about a line, with an error or without."""
    said = cited(line, number)
    if planted == "wrong citation":
        return cited(line, 99)
    if planted == "contradiction":
        return cited(contradicted(line), number)
    if planted == "vacuous":
        return VACUOUS
    if planted == "comparison":
        return f"{said} {COMPARED}"
    if planted == "german":
        return f"{GERMAN} {said}"
    return f"{said} This is what the image is asked for, as {said}"


def contradicted(line: str) -> str:
    """The opposite of a phantom's line: the other side, or denied and stated exchanged."""
    if re.search(r"\b(?:left|right)\b", line):
        other = {"left": "right", "right": "left"}
        return re.sub(r"\b(?:left|right)\b", lambda match: other[match[0]], line)
    if "No " in line:
        return line.replace("No ", "There is a ")
    if re.search(r"\b(?:is|are)\b", line):
        return re.sub(r"\b(is|are)\b", r"\1 not", line, count=1)
    return f"No {line[0].lower()}{line[1:]}"


def cited(line: str, number: int) -> str:
    """A line with its citation."""
    return f"{line.rstrip('.')} [{number}]."


def _report_thinking(lines: list[tuple[int, str]], planted: str) -> dict[str, Any]:
    findings, region = [], REGIONS[0]
    for number, line in lines:
        name = line.partition(":")[0]
        region = _PHANTOM_REGIONS.get(name, region)
        if is_positive(line):
            findings.append({"region": region, "statement": cited(line, number)})
    number, line = lines[-1]
    impression = [cited(line, number)]
    if not findings:
        findings = [{"region": REGIONS[1], "statement": cited(lines[0][1], 1)}]
    if planted == "uncovered":
        findings, impression = findings[:1], impression if len(findings) > 1 else [cited(lines[0][1], 1)]
    if planted == "disorder":
        findings = [{"region": REGIONS[-1], "statement": cited(lines[0][1], 1)}, *findings]
    if planted == "uncited":
        impression = [line]
    return {"findings": findings, "impression": impression, "follow_up": [f"Follow-up by CT in 3 months [{number}]."]}


def _between(text: str, name: str) -> str:
    return re.search(rf"<{name}>\n(.*?)\n</{name}>", text, re.DOTALL)[1]
