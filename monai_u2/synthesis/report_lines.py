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

"""Reports in numbered lines, and texts that cite them."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADING = re.compile(
    r"^\W*(findings?|impressions?|conclusions?|technique|comparison|indication|history|recommendations?|检查所见|影像所见|"
    r"所见|诊断意见|印象|结论)\s*[:：]\s*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？；])\s*")
_ABBREVIATION = re.compile(r"(?:^\W*\d{1,2}|\b(?:approx|ca|cf|dr|e\.g|i\.e|incl|max|min|vs))\.$", re.IGNORECASE)
_LATE_CITATION = re.compile(r"([.!?。！？；])\s*((?:\[[^\[\]]*\]\s*)+)")
_BRACKETS = re.compile(r"\s*\[([^\[\]]*)\]")
_NUMBERS = re.compile(r"\s*\d+\s*(?:[,，;]\s*\d+\s*)*")


@dataclass(frozen=True)
class ReportLine:
    """A sentence of a report.

    Args:
        number: from 1 on, as it is cited.
        text: the sentence.
        section: its heading in lower case, None where there is none.
    """

    number: int
    text: str
    section: str | None = None


@dataclass(frozen=True)
class Statement:
    """A sentence of a text that cites.

    Args:
        text: the sentence without citations.
        cited: line numbers, in order.
        malformed: something in brackets with a digit that is no list of line numbers.
    """

    text: str
    cited: tuple[int, ...] = ()
    malformed: bool = False


def split_report(report: str) -> list[ReportLine]:
    """Split a report into its sentences; headings become the section of what follows."""
    lines: list[ReportLine] = []
    section = None
    for paragraph in report.splitlines():
        heading = HEADING.match(paragraph)
        if heading:
            section, paragraph = heading[1].lower(), paragraph[heading.end() :]
        lines += [ReportLine(len(lines) + 1 + i, text, section) for i, text in enumerate(_sentences(paragraph))]
    return lines


def numbered_text(lines: list[ReportLine]) -> str:
    """Return the lines as a prompt shows them: `[1] The lungs are clear.`"""
    return "\n".join(f"[{line.number}] {line.text}" for line in lines)


def split_statements(text: str) -> list[Statement]:
    """Split a text into sentences and the lines that each one cites; a citation behind the full stop counts too."""
    statements = []
    for paragraph in text.splitlines():
        for sentence in _sentences(_LATE_CITATION.sub(_moved_forward, paragraph)):
            cited: list[int] = []
            malformed = False
            for content in _BRACKETS.findall(sentence):
                if _NUMBERS.fullmatch(content):
                    cited += [int(number) for number in re.findall(r"\d+", content)]
                elif any(letter.isdigit() for letter in content):
                    malformed = True
            statements.append(Statement(_BRACKETS.sub("", sentence).strip(), tuple(dict.fromkeys(cited)), malformed))
    return statements


def without_citations(text: str) -> str:
    """Return a text without its citations."""
    return "\n".join(
        _BRACKETS.sub(lambda match: "" if _NUMBERS.fullmatch(match[1]) else match[0], line).strip()
        for line in text.splitlines()
    )


def _moved_forward(match: re.Match[str]) -> str:
    return f" {match[2].rstrip()}{match[1]} "


def _sentences(paragraph: str) -> list[str]:
    sentences: list[str] = []
    for piece in _SENTENCE_END.split(paragraph.strip()):
        if sentences and _ABBREVIATION.search(sentences[-1]):
            sentences[-1] += f" {piece}"
        elif re.search(r"\w", piece):
            sentences.append(piece)
    return sentences
