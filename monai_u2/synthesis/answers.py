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

"""Stage 2: an answer and the thinking that leads to it, for each question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_u2.synthesis.report_lines import split_statements
from monai_u2.synthesis.rules import Problem, check_cited_text, check_substance
from monai_u2.synthesis.stage import Outcome, Row, Stage, first_problem, lines_of, numbered_report, tagged
from monai_u2.synthesis.structured import TEXT, object_schema

LONG_THINKING = "The upper lobe of the right lung holds a nodule of 20 mm [1]. The other lobes are clear [2]. " * 4


class AnswerStage(Stage):
    """Asks for thinking and answer; both cite the report's lines, and every citation is checked."""

    name, reads, writes = "answers", "questions", "questions"
    gives = ("thinking", "answer")

    def schema(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return object_schema(thinking=TEXT, answer=TEXT)

    def material(self, row: Mapping[str, Any]) -> str:
        return tagged(report=numbered_report(row), question=row["question"])

    def read(self, row: Row, answer: Mapping[str, Any]) -> Outcome:
        made = {**row, "thinking": answer["thinking"].strip(), "answer": answer["answer"].strip()}
        outcome = Outcome()
        problem = check_thinking(self, made["thinking"], row) or self._check_answer(made["answer"], row)
        outcome.add({**made, "citations": cited_lines(made["thinking"], made["answer"])}, problem)
        return outcome

    def _check_answer(self, answer: str, row: Row) -> Problem | None:
        return self.check_wording(answer, row) or check_cited_text(
            answer, lines_of(row), self.rule, every_statement=True, question=row["question"]
        )

    def placeholder(self, row: Row) -> tuple[list[Row], str]:
        answer = "Yes, a solid nodule of 20 mm in the right upper lobe [1]."
        return [{**row, "thinking": LONG_THINKING, "answer": answer, "citations": [1]}], LONG_THINKING + answer


def check_thinking(stage: Stage, thinking: str, row: Mapping[str, Any]) -> Problem | None:
    """Check the thinking about a question: wording, substance, citations."""
    lines = lines_of(row)
    return first_problem(
        stage.check_wording(thinking, row),
        check_substance(thinking, lines),
        check_cited_text(thinking, lines, stage.rule, every_statement=False, question=row["question"]),
    )


def cited_lines(*texts: str) -> list[int]:
    """Return the numbers of all lines that texts cite."""
    return sorted({number for text in texts for statement in split_statements(text) for number in statement.cited})
