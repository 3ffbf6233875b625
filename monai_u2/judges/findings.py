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

"""The rule-based judge: findings are read from both texts and compared."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from monai_u2.data.fingerprint import fingerprint
from monai_u2.exceptions import InputError
from monai_u2.judges.base import FindingErrors, Judge
from monai_u2.judges.finding_list import FindingList

_SENTENCE_END = re.compile(r"(?<!\d)\.|\.(?!\d)|[;?!\n]+")
_NUMBER = r"\d+(?:\.\d+)?"
_MEASUREMENT = re.compile(rf"((?:{_NUMBER}\s*[x×]\s*)*{_NUMBER})\s*(mm|cm)\b", re.IGNORECASE)
_DEGREES = {
    **dict.fromkeys(("minimal", "tiny", "trace", "slight", "small", "mild"), 1),
    "moderate": 2,
    **dict.fromkeys(("large", "severe", "marked", "massive"), 3),
}
_DEGREE = re.compile(rf"\b(?:{'|'.join(_DEGREES)})\b", re.IGNORECASE)


def _rules_of(parser: Callable[..., Any]) -> Any:
    """JSON value that tells parsers apart: labels of a list, the name of this package's parsers, the code of others."""
    if isinstance(parser, FindingList):
        return list(parser.labels)
    if isinstance(parser, functools.partial):
        return [_rules_of(parser.func), repr(parser.args), repr(sorted(parser.keywords.items()))]
    defined = parser if hasattr(parser, "__qualname__") else type(parser)
    name = f"{getattr(defined, '__module__', '')}.{defined.__qualname__}"
    if name.startswith("monai_u2."):
        return name
    try:
        return [name, inspect.getsource(defined)]
    except (OSError, TypeError):  # of what was typed in, or compiled
        return name


class FindingsJudge(Judge):
    """Compares the findings that two reports state. It works offline and costs nothing.

    A label is a kind (`"cardiomegaly"`) or a kind and a place (`"pleural effusion, right"`). A label of both reports
    matches; the same kind in another place is a wrong location, one for one; what is left is false or missing. Two
    reports without any finding match in that (one match), since a normal report is right where nothing is there.

    Where both reports give a matched finding a size in mm or cm, or a degree ("small", "moderate", "severe"), a size
    off by more than `size_tolerance` and another degree are a wrong severity; a size that differs by less is an
    insignificant error. The finding still counts as matched: it was seen. Comparisons with earlier examinations aren't
    read.

    Args:
        parser: from a text to the labels of the findings that it states, such as
            :func:`monai_u2.data.phantom.parse_findings`.
        labels: in its place, a list of labels to search for, see :class:`FindingList`.
        size_tolerance: share of the reference's size by which a size may differ.

    Raises:
        InputError: when there is neither a parser nor a list, or both; when the list isn't one.

    Example::

        >>> judge = FindingsJudge(labels=["pleural effusion, right", "pleural effusion, left"])
        >>> judge("Right pleural effusion.", "Left pleural effusion.").wrong_location
        1
    """

    name = "findings"

    def __init__(
        self,
        parser: Callable[[str], Iterable[str]] | None = None,
        labels: Sequence[str] | None = None,
        size_tolerance: float = 0.25,
    ) -> None:
        if (parser is None) == (labels is None):
            raise InputError(
                f"FindingsJudge has {'neither a parser nor' if parser is None else 'both a parser and'} a list of "
                "labels; expected one of them. Give it, or where no parser reads the reports another judge, such as "
                "configs/judges/chat.json or green.json."
            )
        self.parser = FindingList(labels) if parser is None else parser
        self.size_tolerance = size_tolerance
        self.version = f"1+{fingerprint(_rules_of(self.parser), size_tolerance)[:8]}"

    def reason_not_to_judge(self, references: Sequence[str]) -> str | None:
        """No reference states a finding that the parser reads: any text in which it reads none would score 1."""
        if any(list(self.parser(reference)) for reference in references):
            return None
        return (
            f"the judge reads no finding in any of {len(references)} references, so that any text in which it reads "
            "none would score 1: they are all normal, or in words that its parser doesn't know; give a parser or judge "
            "that reads them, or cases with findings"
        )

    def _judge(self, pairs: list[tuple[str, str]]) -> list[FindingErrors]:
        return [self._compare(reference, candidate) for reference, candidate in pairs]

    def _compare(self, reference: str, candidate: str) -> FindingErrors:
        there, named = sorted(set(self.parser(reference))), sorted(set(self.parser(candidate)))
        if not there and not named and candidate.strip():
            return FindingErrors(matched=1, explanation="matched: no finding")
        matched = [label for label in there if label in named]
        missing = [label for label in there if label not in named]
        false = [label for label in named if label not in there]
        moved = _same_kind(missing, false)
        for right, wrong in moved:
            missing.remove(right)
            false.remove(wrong)
        severe, slight = self._compare_severities(matched, reference, candidate)
        told = {
            "matched": matched,
            "missing": missing,
            "false": false,
            "wrong location": [f"{wrong} instead of {right}" for right, wrong in moved],
            "wrong severity": severe,
            "insignificant": slight,
        }
        return FindingErrors(
            matched=len(matched),
            false_finding=len(false),
            missing_finding=len(missing),
            wrong_location=len(moved),
            wrong_severity=len(severe),
            insignificant=len(slight),
            explanation=". ".join(f"{what}: {'; '.join(items)}" for what, items in told.items() if items),
        )

    def _compare_severities(self, matched: list[str], reference: str, candidate: str) -> tuple[list[str], list[str]]:
        """Return what is wrong with the matched findings' sizes and degrees, significantly and insignificantly."""
        severe, slight = [], []
        if not matched:
            return severe, slight
        there, named = self._severities(reference), self._severities(candidate)
        for label in matched:
            right, stated = there.get(label, _Severity()), named.get(label, _Severity())
            told = f"{label}: {stated} instead of {right}"
            off = abs(stated.size_mm - right.size_mm) if stated.size_mm and right.size_mm else 0.0
            if off > self.size_tolerance * (right.size_mm or 0.0) or _differ(stated.degree, right.degree):
                severe.append(told)
            elif off:
                slight.append(told)
        return severe, slight

    def _severities(self, text: str) -> dict[str, _Severity]:
        """Return size and degree of each finding, from the first sentence that speaks of it alone and gives one."""
        found: dict[str, _Severity] = {}
        for sentence in _SENTENCE_END.split(text):
            severity = _severity(sentence)
            labels = set(self.parser(sentence)) if severity != _Severity() else set()
            if len(labels) == 1:
                found.setdefault(labels.pop(), severity)
        return found


@dataclass(frozen=True)
class _Severity:
    """Size (mm) and degree (1 to 3) of a finding, None where a text doesn't give exactly one."""

    size_mm: float | None = None
    degree: int | None = None

    def __str__(self) -> str:
        words = [] if self.size_mm is None else [f"{self.size_mm:g} mm"]
        words += [] if self.degree is None else [("small or mild", "moderate", "large or severe")[self.degree - 1]]
        return ", ".join(words) or "no size"


def _severity(sentence: str) -> _Severity:
    sizes = [
        max(float(number) for number in re.findall(_NUMBER, numbers)) * (10.0 if unit.lower() == "cm" else 1.0)
        for numbers, unit in _MEASUREMENT.findall(sentence)
    ]
    degrees = {_DEGREES[word.lower()] for word in _DEGREE.findall(sentence)}
    return _Severity(size_mm=sizes[0] if len(sizes) == 1 else None, degree=degrees.pop() if len(degrees) == 1 else None)


def _differ(first: int | None, second: int | None) -> bool:
    return first is not None and second is not None and first != second


def _same_kind(missing: list[str], false: list[str]) -> list[tuple[str, str]]:
    """Return (missing, false) labels of one kind, one for one, in the lists' order."""
    moved = []
    left = list(false)
    for label in missing:
        other = next((name for name in left if _kind(name) == _kind(label)), None)
        if other is not None:
            left.remove(other)
            moved.append((label, other))
    return moved


def _kind(label: str) -> str:
    return label.partition(",")[0].strip()
