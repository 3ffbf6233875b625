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

"""Stage 3: only proper questions with right answers are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_u2.synthesis.rules import Problem
from monai_u2.synthesis.stage import Outcome, Row, Stage, numbered_report, tagged
from monai_u2.synthesis.structured import TEXT, YES_NO, object_schema


class FilterStage(Stage):
    """Asks whether a question is proper and its answer right; keeps a row only when both are affirmed."""

    name, reads, writes = "filter", "questions", "questions"
    needs = ("answer",)

    def schema(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return object_schema(reason=TEXT, proper_question=YES_NO, right_answer=YES_NO)

    def material(self, row: Mapping[str, Any]) -> str:
        return tagged(report=numbered_report(row), question=row["question"], answer=row["answer"])

    def read(self, row: Row, answer: Mapping[str, Any]) -> Outcome:
        outcome = Outcome()
        if not answer["proper_question"]:
            outcome.add(row, Problem("improper_question", answer["reason"]))
        elif not answer["right_answer"]:
            outcome.add(row, Problem("wrong_answer", answer["reason"]))
        else:
            outcome.add(row, None)
        return outcome

    def placeholder(self, row: Row) -> tuple[list[Row], str]:
        return [row], '{"reason": "line 1 says so, one look decides", "proper_question": true, "right_answer": true}'
