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

"""Reports sentence by sentence, with the findings that agree with another report and those that don't."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from monai_u2.exceptions import InputError
from monai_u2.metrics.labels import Labeller

WRONG_MARKS: tuple[str, ...] = ("missed", "false")
"""What a finding is that only the reference, or only the generated report, states."""

# an end as the parsers of findings see it: a dot between digits is none
_SENTENCE_END = re.compile(r"(?:(?<!\d)\.|\.(?!\d)|[;?!])+\s*")
_HEADING = re.compile(r"\s*[^\W\d][^.:;?!]{0,40}:(?=\s|\Z)")


@dataclass(frozen=True)
class Mark:
    """A finding that a sentence states.

    Args:
        kind: "matched", "missed", "false", or "uncounted" (the sentence states it by itself, but the metrics, which
            read the whole report, don't count it).
        label: the finding.
    """

    kind: str
    label: str


@dataclass(frozen=True)
class MarkedSentence:
    """A sentence of a report; heading and text together are what stands there.

    Args:
        heading: "Lungs:" at the start of a line, "" where there is none.
        text: the rest, with the white space behind it.
        marks: the findings that it states.
    """

    heading: str
    text: str
    marks: tuple[Mark, ...] = ()


def mark_report(
    report: str,
    parse_findings: Labeller | None = None,
    *,
    counted: Collection[str] = (),
    other: Collection[str] = (),
    wrong: str = "false",
) -> list[list[MarkedSentence]]:
    """Split a report into lines of sentences and mark the findings of each; no character is lost but line breaks.

    Args:
        report: the text.
        parse_findings: from a sentence to the labels that it states; None marks nothing.
        counted: labels of the whole report.
        other: labels of the report that it is compared with.
        wrong: one of :data:`WRONG_MARKS`, for labels that aren't in ``other``.

    Raises:
        InputError: for another ``wrong``.
    """
    if wrong not in WRONG_MARKS:
        raise InputError(f"wrong is {wrong!r}; expected one of {', '.join(WRONG_MARKS)}.")

    def marks(sentence: str) -> tuple[Mark, ...]:
        labels = sorted(set(parse_findings(sentence))) if parse_findings is not None else []
        kinds = ["uncounted" if label not in counted else "matched" if label in other else wrong for label in labels]
        return tuple(map(Mark, kinds, labels))

    lines = []
    for line in report.splitlines():
        starts = [0, *(end.end() for end in _SENTENCE_END.finditer(line)), len(line)]
        sentences = [line[start:end] for start, end in zip(starts, starts[1:]) if start < end]
        headings = [_HEADING.match(sentence) for sentence in sentences[:1]] + [None] * len(sentences[1:])
        lines.append(
            [
                MarkedSentence(
                    heading.group() if heading else "", sentence[heading.end() if heading else 0 :], marks(sentence)
                )
                for sentence, heading in zip(sentences, headings)
            ]
        )
    return lines
