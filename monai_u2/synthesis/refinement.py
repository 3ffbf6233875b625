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

"""Stage 4: the thinking again, better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_u2.synthesis.answers import LONG_THINKING, check_thinking, cited_lines
from monai_u2.synthesis.stage import Outcome, Row, Stage, numbered_report, tagged
from monai_u2.synthesis.structured import TEXT, object_schema


class RefineStage(Stage):
    """Asks for clearer thinking with the same answer, checked like the first; that one is kept as `thinking_draft`."""

    name, reads, writes = "refine", "questions", "questions"
    needs = ("thinking", "answer")

    def schema(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return object_schema(thinking=TEXT)

    def material(self, row: Mapping[str, Any]) -> str:
        texts = {name: row[name] for name in ("question", "answer", "thinking")}
        return tagged(report=numbered_report(row), **texts)

    def read(self, row: Row, answer: Mapping[str, Any]) -> Outcome:
        thinking = answer["thinking"].strip()
        made = {**row, "thinking_draft": row["thinking"], "thinking": thinking}
        outcome = Outcome()
        made["citations"] = cited_lines(thinking, row["answer"])
        outcome.add(made, check_thinking(self, thinking, row))
        return outcome

    def placeholder(self, row: Row) -> tuple[list[Row], str]:
        return [{**row, "thinking": LONG_THINKING}], LONG_THINKING
