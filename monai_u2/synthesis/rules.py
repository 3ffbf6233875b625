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

"""Rules that reject what a model wrote, each with a reason."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from monai_u2.synthesis.clauses import denied_words, is_positive
from monai_u2.synthesis.language import is_other_language
from monai_u2.synthesis.report_lines import ReportLine, Statement, split_statements
from monai_u2.synthesis.wording import (
    comparison,
    content_words,
    finding_words,
    numbers,
    sides,
)

REASONS: dict[str, str] = {
    "empty_report": "the report has no sentence",
    "refusal": "the model or its server refused",
    "truncated": "the answer was cut off",
    "not_json": "the answer isn't JSON",
    "wrong_schema": "the answer hasn't the keys and types asked for",
    "empty": "a text or a list in the answer is empty",
    "other_language": "the text is in another language than asked for",
    "vacuous": "the reasoning hardly refers to what the report says",
    "missing_citation": "a statement about the report cites no line",
    "malformed_citation": "something in brackets is no list of line numbers",
    "unknown_line": "a cited line doesn't exist",
    "unsupported": "the cited lines don't say it",
    "wrong_number": "a number isn't in the cited lines",
    "contradiction": "the cited lines say the opposite: another side, or denied and stated",
    "comparison": "a comparison with an earlier examination that the report doesn't make",
    "uncovered_finding": "a finding of the report is cited nowhere",
    "anatomical_order": "the findings aren't in the order of the regions",
    "duplicate": "the same again",
    "too_many": "more than asked for",
    "mentions_report": "a question to an image speaks of the report",
    "improper_question": "the filter calls the question improper",
    "wrong_answer": "the filter calls the answer wrong",
    "judged_unsupported": "the judge finds a statement that its lines don't support",
    "changed_numbers": "other numbers than in the source",
    "changed_sides": "other sides than in the source",
    "changed_denials": "states what the source denies or calls normal, or the reverse",
    "changed_citations": "other citations than in the source",
    "bad_options": "the options aren't different texts with one right among them",
}
"""Why a row is rejected."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a text: a key of :data:`REASONS`, and where."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class CitationRule:
    """Checks the statements of a text against the report lines that they cite.

    Args:
        min_overlap: least share of a statement's content words that its lines must have, 0 to 1; 0 leaves that to a
            judge.
        lengths_only: of the numbers, check only those in mm and cm.
    """

    min_overlap: float = 0.6
    lengths_only: bool = False

    def __call__(self, statement: Statement, lines: Sequence[ReportLine]) -> Problem | None:
        """Return what is wrong with a statement that cites, None for nothing."""
        if statement.malformed:
            return Problem("malformed_citation", statement.text)
        unknown = [number for number in statement.cited if not 1 <= number <= len(lines)]
        if unknown:
            return Problem("unknown_line", f"line {unknown[0]} of {len(lines)}: {statement.text}")
        texts = [lines[number - 1].text for number in statement.cited]
        return self._opposite(statement, texts) or self._missing(statement, texts)

    def _opposite(self, statement: Statement, texts: list[str]) -> Problem | None:
        said, source = sides(statement.text), set().union(*map(sides, texts))
        if said - source and source:
            return Problem("contradiction", f"{_listed(said)} for {_listed(source)}: {statement.text}")
        words, denied = finding_words(statement.text), denied_words(statement.text)
        having = [(content_words(text), denied_words(text)) for text in texts]
        for word in sorted(words):
            in_lines = [word in line_denied for line_words, line_denied in having if word in line_words]
            if in_lines and (all(in_lines) if word not in denied else not any(in_lines)):
                return Problem("contradiction", f"{'denied' if word in denied else 'stated'}: {statement.text}")
        return None

    def _missing(self, statement: Statement, texts: list[str]) -> Problem | None:
        source = " \n ".join(texts)
        odd = numbers(statement.text, lengths_only=self.lengths_only) - numbers(source)
        if odd:
            return Problem("wrong_number", f"{_listed(odd)}: {statement.text}")
        if sides(statement.text) - sides(source):
            return Problem("unsupported", f"no side in the lines: {statement.text}")
        words = content_words(statement.text)
        if not words or not self.min_overlap:
            return None
        if len(words & content_words(source)) / len(words) < self.min_overlap:
            return Problem("unsupported", f"not in the lines: {_listed(words - content_words(source))}")
        for number, text in zip(statement.cited, texts):
            if not words & content_words(text):
                return Problem("unsupported", f"line {number} has nothing of it: {statement.text}")
        return None


def check_cited_text(
    text: str, lines: Sequence[ReportLine], rule: CitationRule, *, every_statement: bool, question: str = ""
) -> Problem | None:
    """Check the citations of a whole text.

    Args:
        text: with citations such as `[3]` and `[3, 5]`.
        lines: the report's lines.
        rule: checks each statement that cites.
        every_statement: each statement but "Yes." must cite; else those that say more of the report than the question
            does.
        question: what the text answers.

    Returns:
        the first problem, None for none.
    """
    report = " \n ".join(line.text for line in lines)
    asked, known = content_words(question), content_words(report)
    statements = split_statements(text)
    for statement in statements:
        if statement.cited or statement.malformed:
            problem = rule(statement, lines)
            if problem:
                return problem
        else:
            said = content_words(statement.text)
            odd = numbers(statement.text) - numbers(question), sides(statement.text) - sides(question)
            if (every_statement and said) or len((said - asked) & known) >= 2 or any(odd):
                return Problem("missing_citation", statement.text)
    if not any(statement.cited for statement in statements):
        return Problem("missing_citation", "no line is cited")
    return None


def check_language(text: str, language: str) -> Problem | None:
    """Reject a text in another language."""
    return Problem("other_language", f"expected {language}") if is_other_language(text, language) else None


_NO_COMPARISON = re.compile(
    r"\b(?:comparison|prior (?:study|studies|exam\w*))\s*:\s*(?:none|no\b[^.\n]*|not available|n/a)\.?", re.IGNORECASE
)


def check_comparison(text: str, report: str, language: str) -> Problem | None:
    """Reject words that compare with an earlier examination where the report doesn't: it may be the first one."""
    report = _NO_COMPARISON.sub("", report)
    if any(comparison(report, known) for known in ("en", "zh")):
        return None
    words = comparison(text, language)
    return Problem("comparison", words) if words else None


def check_substance(thinking: str, lines: Sequence[ReportLine]) -> Problem | None:
    """Reject reasoning of which less than a third of the sentences has a content word of the report."""
    known = content_words(" \n ".join(line.text for line in lines))
    statements = split_statements(thinking)
    grounded = sum(bool(content_words(statement.text) & known) for statement in statements)
    if grounded < max(1, len(statements) / 3):
        return Problem("vacuous", f"{grounded} of {len(statements)} sentences refer to the report")
    return None


def check_coverage(text: str, lines: Sequence[ReportLine]) -> Problem | None:
    """Reject a text that cites some finding of the report nowhere."""
    cited = {number for statement in split_statements(text) for number in statement.cited}
    for line in lines:
        if line.number not in cited and is_positive(line.text):
            return Problem("uncovered_finding", f"line {line.number}: {line.text}")
    return None


def _listed(values: Set[str]) -> str:
    return ", ".join(sorted(values))
