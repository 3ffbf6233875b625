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

"""Stage 1: questions from a report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from monai_u2.exceptions import InputError
from monai_u2.synthesis.report_lines import without_citations
from monai_u2.synthesis.rules import Problem
from monai_u2.synthesis.stage import Outcome, Row, Stage, lines_of, numbered_report, tagged
from monai_u2.synthesis.structured import NUMBER, TEXT, array_schema, object_schema

_SPEAKS_OF_REPORT = re.compile(r"\b(?:report(?:s|ed)?|lines? \d+|radiologist|impression)\b|报告|第\d+行", re.IGNORECASE)


class QuestionStage(Stage):
    """Asks for questions that a reader of the image could be asked, each with the report lines that answer it.

    Args:
        num_questions: for each report.
        language: see :class:`Stage`.
        min_overlap: see :class:`Stage`.

    Raises:
        InputError: for less than one question.
    """

    name, reads, writes = "questions", "reports", "questions"

    def __init__(self, num_questions: int = 5, language: str = "en", min_overlap: float = 0.6) -> None:
        super().__init__(language, min_overlap)
        self.num_questions = checked_number("num_questions", num_questions)

    def prompt_values(self) -> dict[str, Any]:
        return {**super().prompt_values(), "number": self.num_questions}

    def schema(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return object_schema(questions=array_schema(object_schema(question=TEXT, lines=array_schema(NUMBER))))

    def material(self, row: Mapping[str, Any]) -> str:
        return tagged(report=numbered_report(row))

    def read(self, row: Row, answer: Mapping[str, Any]) -> Outcome:
        outcome = Outcome()
        if not answer["questions"]:
            outcome.add(row, Problem("empty", "no question"))
        seen: set[str] = set()
        for place, item in enumerate(answer["questions"]):
            question = item["question"].strip()
            made = {**row, "row": f"{row['row']}-{place:02d}", "question": question, "question_lines": item["lines"]}
            problem = Problem("too_many") if place >= self.num_questions else self._check(question, item["lines"], row)
            if problem is None and question.lower() in seen:
                problem = Problem("duplicate", question)
            seen.add(question.lower())
            outcome.add(made, problem)
        return outcome

    def _check(self, question: str, cited: list[int], row: Row) -> Problem | None:
        return check_question(self, question, cited, row)

    def placeholder(self, row: Row) -> tuple[list[Row], str]:
        question = "Is there a nodule in the right upper lobe, and how large?"
        rows = [
            {**row, "row": f"{row['row']}-{place:02d}", "question": question, "question_lines": [1]}
            for place in range(self.num_questions)
        ]
        return rows, f'{{"question": "{question}", "lines": [1]}}' * self.num_questions


def check_question(stage: Stage, question: str, cited: list[int], row: Row) -> Problem | None:
    """Check a question's wording and the lines that answer it."""
    problem = stage.check_wording(question, row)
    if problem:
        return problem
    if _SPEAKS_OF_REPORT.search(question) or question != without_citations(question):
        return Problem("mentions_report", question)
    if not cited:
        return Problem("missing_citation", question)
    number = len(lines_of(row))
    unknown = [line for line in cited if not 1 <= line <= number]
    return Problem("unknown_line", f"line {unknown[0]} of {number}: {question}") if unknown else None


def checked_number(name: str, value: int) -> int:
    """Return a number of things from 1 on, or raise an :class:`InputError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}; expected a number from 1 on.")
    return value
