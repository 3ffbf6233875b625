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

"""Paraphrases of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_u2.synthesis.clauses import changed_claims, claimed_sides, is_positive
from monai_u2.synthesis.questions import checked_number
from monai_u2.synthesis.rules import Problem
from monai_u2.synthesis.stage import Outcome, Row, Stage, lines_of, tagged
from monai_u2.synthesis.structured import TEXT, array_schema, object_schema
from monai_u2.synthesis.wording import numbers


class RewriteStage(Stage):
    """Asks for reports that say the same in other words.

    Numbers, sides, what is denied and the number of sentences with findings must stay.

    Args:
        num_rewritings: for each report.
        language: see :class:`Stage`.
        min_overlap: see :class:`Stage`.

    Raises:
        InputError: for less than one.
    """

    name, reads, writes = "rewriting", "reports", "rewritten"

    def __init__(self, num_rewritings: int = 3, language: str = "en", min_overlap: float = 0.6) -> None:
        super().__init__(language, min_overlap)
        self.num_rewritings = checked_number("num_rewritings", num_rewritings)

    def prompt_values(self) -> dict[str, Any]:
        return {**super().prompt_values(), "number": self.num_rewritings}

    def schema(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return object_schema(rewritings=array_schema(TEXT))

    def material(self, row: Mapping[str, Any]) -> str:
        return tagged(report=row["report"])

    def read(self, row: Row, answer: Mapping[str, Any]) -> Outcome:
        outcome = Outcome()
        if not answer["rewritings"]:
            outcome.add(row, Problem("empty", "no rewriting"))
        seen = {_plain(row["report"])}
        for place, text in enumerate(answer["rewritings"]):
            made = {**row, "row": f"{row['row']}-r{place:02d}", "report": text.strip(), "source_report": row["report"]}
            problem = Problem("too_many") if place >= self.num_rewritings else self.check_wording(text, row)
            problem = problem or compare_content(row["report"], text)
            if problem is None and _plain(text) in seen:
                problem = Problem("duplicate")
            if problem is None and _findings(text, made) != _findings(row["report"], row):
                problem = Problem("uncovered_finding", "another number of sentences with findings")
            seen.add(_plain(text))
            outcome.add(made, problem)
        return outcome

    def placeholder(self, row: Row) -> tuple[list[Row], str]:
        return [{**row, "source_report": row["report"]}] * self.num_rewritings, row["report"] * self.num_rewritings


def compare_content(source: str, text: str) -> Problem | None:
    """Check that two texts have the same numbers and sides, and that none denies what the other one states."""
    odd = numbers(source) ^ numbers(text)
    if odd:
        return Problem("changed_numbers", ", ".join(sorted(odd)))
    if claimed_sides(source) != claimed_sides(text):
        return Problem("changed_sides")
    odd = changed_claims(source, text)
    return Problem("changed_denials", ", ".join(sorted(odd))) if odd else None


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _findings(text: str, row: Mapping[str, Any]) -> int:
    return sum(is_positive(line.text) for line in lines_of({**row, "report": text}))
