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

"""Multiple-choice questions from a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_u2.data.fingerprint import fingerprint
from monai_u2.synthesis.questions import check_question, checked_number
from monai_u2.synthesis.report_lines import Statement
from monai_u2.synthesis.rules import Problem
from monai_u2.synthesis.stage import Outcome, Row, Stage, first_problem, lines_of, numbered_report, tagged
from monai_u2.synthesis.structured import NUMBER, TEXT, array_schema, object_schema

LETTERS = "ABCD"


class MultipleChoiceStage(Stage):
    """Asks for questions with one right and three wrong options; these get letters in an order of their own.

    Args:
        num_questions: for each report.
        language: see :class:`Stage`.
        min_overlap: see :class:`Stage`.

    Raises:
        InputError: for less than one.
    """

    name, reads, writes = "multiple_choice", "reports", "multiple_choice"

    def __init__(self, num_questions: int = 3, language: str = "en", min_overlap: float = 0.6) -> None:
        super().__init__(language, min_overlap)
        self.num_questions = checked_number("num_questions", num_questions)

    def prompt_values(self) -> dict[str, Any]:
        return {**super().prompt_values(), "number": self.num_questions}

    def schema(self, row: Mapping[str, Any]) -> dict[str, Any]:
        item = object_schema(question=TEXT, right=TEXT, wrong=array_schema(TEXT), lines=array_schema(NUMBER))
        return object_schema(questions=array_schema(item))

    def material(self, row: Mapping[str, Any]) -> str:
        return tagged(report=numbered_report(row))

    def read(self, row: Row, answer: Mapping[str, Any]) -> Outcome:
        outcome = Outcome()
        if not answer["questions"]:
            outcome.add(row, Problem("empty", "no question"))
        for place, item in enumerate(answer["questions"]):
            made = {**row, "row": f"{row['row']}-m{place:02d}", **_lettered(item, row["row"])}
            problem = Problem("too_many") if place >= self.num_questions else self._check(item, row)
            outcome.add(made, problem)
        return outcome

    def _check(self, item: Mapping[str, Any], row: Row) -> Problem | None:
        options = [item["right"], *item["wrong"]]
        return (
            check_options(options)
            or first_problem(
                check_question(self, item["question"].strip(), item["lines"], row),
                self.check_wording(" ".join(options), row),
            )
            or self.rule(Statement(item["right"], tuple(item["lines"])), lines_of(row))
        )

    def placeholder(self, row: Row) -> tuple[list[Row], str]:
        text = '{"question": "Which lobe holds the nodule?", "right": "The right upper lobe", "lines": [1]}' * 2
        return [row] * self.num_questions, text * self.num_questions


def check_options(options: Sequence[str]) -> Problem | None:
    """Check that there are four options, none empty and none twice."""
    different = {option.strip().lower() for option in options} - {""}
    return Problem("bad_options", "; ".join(options)) if not len(options) == len(different) == len(LETTERS) else None


def choices_of(options: Sequence[str]) -> list[str]:
    """Return options with their letters, as they stand below the question: `A. Right upper lobe`."""
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options)]


def with_choices(question: str, options: Sequence[str]) -> str:
    """Return a question with its options below it."""
    return "\n".join([question, *choices_of(options)])


def _lettered(item: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return question with options, answer and lines; the options' order follows from a hash alone."""
    options = [option.strip() for option in dict.fromkeys([item["right"], *item["wrong"]])]
    options.sort(key=lambda option: fingerprint(key, item["question"], option))
    right = next((choice for choice in choices_of(options) if choice[3:] == item["right"].strip()), "")
    question = with_choices(item["question"].strip(), options)
    return {"question": question, "options": options, "answer": right, "citations": item["lines"]}
