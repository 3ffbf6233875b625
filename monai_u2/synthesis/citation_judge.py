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

"""A model's check of citations, beside or in place of the one by words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_u2.exceptions import InputError
from monai_u2.synthesis.report_lines import Statement, split_statements
from monai_u2.synthesis.rules import Problem
from monai_u2.synthesis.stage import Outcome, Row, Stage, lines_of
from monai_u2.synthesis.structured import YES_NO, array_schema, object_schema


class CitationJudgeStage(Stage):
    """Asks of each statement that cites whether its lines support it; keeps a row when all are affirmed.

    Args:
        after: label of the stage whose rows are judged.
        stream: "questions" or "report_thinking".

    Raises:
        InputError: for another stream.
    """

    name = "citation_judge"

    def __init__(self, after: str, stream: str = "questions") -> None:
        super().__init__()
        self.label = f"{after}_citations"
        self.needs = ("thinking_after",) if stream == "report_thinking" else ("thinking", "answer")
        if stream not in ("questions", "report_thinking"):
            raise InputError(f"stream is {stream!r}; expected questions or report_thinking.")
        self.reads = self.writes = stream

    def schema(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return object_schema(supported=array_schema(YES_NO))

    def material(self, row: Mapping[str, Any]) -> str:
        lines = {line.number: line.text for line in lines_of(row)}
        parts = []
        for place, statement in enumerate(_statements(row), start=1):
            cited = " ".join(lines[number] for number in statement.cited if number in lines)
            parts.append(f"{place}. Statement: {statement.text}\n   Lines: {cited}")
        return "\n".join(parts)

    def read(self, row: Row, answer: Mapping[str, Any]) -> Outcome:
        outcome, statements = Outcome(), _statements(row)
        if len(answer["supported"]) != len(statements):
            problem: Problem | None = Problem("wrong_schema", f"{len(answer['supported'])} of {len(statements)} judged")
        else:
            refused = [s.text for s, supported in zip(statements, answer["supported"]) if not supported]
            problem = Problem("judged_unsupported", refused[0]) if refused else None
        outcome.add(row, problem)
        return outcome

    def placeholder(self, row: Row) -> tuple[list[Row], str]:
        return [row], "true, " * len(_statements(row))


def _statements(row: Mapping[str, Any]) -> list[Statement]:
    texts = [row[key] for key in ("thinking", "answer", "thinking_after") if row.get(key)]
    return [statement for text in texts for statement in split_statements(text) if statement.cited]
