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

"""Stage 5: the thinking of a whole report, section by section."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from monai_u2.synthesis.answers import cited_lines
from monai_u2.synthesis.report_lines import ReportLine
from monai_u2.synthesis.rules import CitationRule, Problem, check_cited_text, check_coverage
from monai_u2.synthesis.stage import Outcome, Row, Stage, lines_of, numbered_report, tagged
from monai_u2.synthesis.structured import TEXT, array_schema, object_schema

REGIONS = (
    "Neck",
    "Lungs and airways",
    "Pleura",
    "Heart and vessels",
    "Mediastinum and lymph nodes",
    "Chest wall",
    "Liver and bile ducts",
    "Spleen",
    "Pancreas",
    "Adrenal glands",
    "Kidneys and urinary tract",
    "Stomach and bowel",
    "Pelvis",
    "Peritoneum and abdominal vessels",
    "Bones and soft tissues",
)
"""Regions in the order in which findings are to be told, from head to foot, bones last."""

SECTIONS = ("Findings", "Impression", "Follow-up rationale")
"""Sections of the thinking."""


class ReportThinkingStage(Stage):
    """Asks for the thinking behind a report in three sections, findings by region.

    Rows of questions of the same report, as `notes`, are given along with the report. `thinking_before` is their
    thinking, one after the other, `thinking_after` the text of the three sections.
    """

    name, reads, writes = "report_thinking", "reports", "report_thinking"
    gives = ("thinking_after",)

    def schema(self, row: Mapping[str, Any]) -> dict[str, Any]:
        finding = object_schema(region={"type": "string", "enum": list(REGIONS)}, statement=TEXT)
        texts = array_schema(TEXT)
        return object_schema(findings=array_schema(finding), impression=texts, follow_up=texts)

    def prompt_values(self) -> dict[str, Any]:
        return {**super().prompt_values(), "regions": ", ".join(REGIONS)}

    def material(self, row: Mapping[str, Any]) -> str:
        notes = "\n\n".join(
            f"Question: {note['question']}\nThinking: {note['thinking']}\nAnswer: {note['answer']}"
            for note in row.get("notes", [])
        )
        return tagged(report=numbered_report(row), **({"notes": notes} if notes else {}))

    def read(self, row: Row, answer: Mapping[str, Any]) -> Outcome:
        findings = [f"{finding['region']}: {finding['statement'].strip()}" for finding in answer["findings"]]
        sections = tuple("\n".join(texts) for texts in (findings, answer["impression"], answer["follow_up"]))
        thinking = "\n".join(f"{title}:\n{text}" for title, text in zip(SECTIONS, sections))
        made = {
            **{key: value for key, value in row.items() if key != "notes"},
            "thinking_before": "\n".join(note["thinking"] for note in row.get("notes", [])),
            "thinking_after": thinking,
            "citations": cited_lines(*sections),
        }
        outcome = Outcome()
        outcome.add(made, self._check(answer, sections, row))
        return outcome

    def _check(self, answer: Mapping[str, Any], sections: tuple[str, ...], row: Row) -> Problem | None:
        for title, text in zip(SECTIONS, sections):
            if not text.strip():
                return Problem("empty", title)
            problem = self.check_wording(text, row)
            if problem:
                return problem
        lines = lines_of(row)
        statements = [finding["statement"] for finding in answer["findings"]]
        problem = self._check_statements([*statements, *answer["impression"]], lines, self.rule)
        # what is to be done isn't in the report, but what it rests on is
        problem = problem or self._check_statements(answer["follow_up"], lines, CitationRule(0.0, lengths_only=True))
        if problem:
            return problem
        order = [REGIONS.index(finding["region"]) for finding in answer["findings"]]
        for first, second in pairwise(order):
            if first > second:
                return Problem("anatomical_order", f"{REGIONS[second]} after {REGIONS[first]}")
        return check_coverage("\n".join(sections[:2]), lines)

    def _check_statements(self, statements: list[str], lines: list[ReportLine], rule: CitationRule) -> Problem | None:
        for statement in statements:
            problem = check_cited_text(statement, lines, rule, every_statement=True)
            if problem:
                return problem
        return None

    def placeholder(self, row: Row) -> tuple[list[Row], str]:
        text = "\n".join(f'{{"region": "Lungs and airways", "statement": "{line.text} [9]"}}' for line in lines_of(row))
        return [{**row, "thinking_before": "", "thinking_after": text}], 2 * text
