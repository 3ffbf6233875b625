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

"""From a report's text to labels of a user's own list, by searching their words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from monai_u2.exceptions import InputError

_SENTENCE_END = re.compile(r"(?<!\d)\.|\.(?!\d)|[;?!\n]+")
_CLAUSE_END = re.compile(r"\b(?:but|however|except|although)\b|\bthere (?:is|are)\b", re.IGNORECASE)
_PART_END = re.compile(r",|\band\b|\bwith\b", re.IGNORECASE)
_DENIED_BEFORE = re.compile(r"\b(?:no|not|without|neither|nor|never|absence of|negative for|free of)\b", re.IGNORECASE)
_DENIED_AFTER = re.compile(r"\s+(?:is|are|was|were)\s+(?:not\b|absent\b|excluded\b)", re.IGNORECASE)


class FindingList:
    """Searches a report for the findings of a list.

    A label is a kind of finding (`"pericardial effusion"`) or a kind and a place (`"pleural effusion, right"`). A label
    is stated where its kind's words stand in a sentence without being denied, and its place's words with them. Case and
    a plural s don't matter; other wordings aren't known, so give the words that the reports use.

    Args:
        labels: the list.

    Raises:
        InputError: for an empty list, an empty label or one that is there twice.

    Example::

        >>> FindingList(["pleural effusion, right", "pleural effusion, left"])("Small right pleural effusion.")
        ['pleural effusion, right']
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self.labels = tuple(labels)
        if not self.labels:
            raise InputError("the list of findings is empty; expected labels such as 'pleural effusion, right'.")
        self._places: dict[str, dict[str, re.Pattern[str]]] = {}
        for label in self.labels:
            kind, _, place = (part.strip() for part in label.partition(","))
            if not kind or self.labels.count(label) > 1:
                what = "is empty" if not kind else f"is there {self.labels.count(label)} times"
                raise InputError(f"finding label {label!r} {what}; expected each finding once.")
            self._places.setdefault(kind, {})[label] = _words(place)
        self._kinds = {kind: _words(kind) for kind in self._places}

    def __call__(self, text: str) -> list[str]:
        """Return the labels that a text states, in the list's order."""
        found: set[str] = set()
        for sentence in _SENTENCE_END.split(text):
            for clause in _CLAUSE_END.split(sentence):
                parts = self._parts(clause)
                for index, (start, part) in enumerate(parts):
                    # a part without a place takes that of the next part, else of the one before
                    nearby = [p for _, p in (parts[index], *parts[index + 1 :], *reversed(parts[:index]))]
                    for kind, mention in self._mentions(part):
                        if not _is_denied(clause, start + mention.start(), start + mention.end()):
                            found.update(self._placed(kind, nearby))
        return [label for label in self.labels if label in found]

    def _mentions(self, text: str) -> list[tuple[str, re.Match[str]]]:
        return [(kind, mention) for kind, pattern in self._kinds.items() for mention in pattern.finditer(text)]

    def _parts(self, clause: str) -> list[tuple[int, str]]:
        """Split a clause at "and", "with" and commas wherever both neighbors name a finding; with their starts."""
        parts = [(0, clause)]
        for separator in _PART_END.finditer(clause):
            start = parts[-1][0]
            before, after = clause[start : separator.start()], clause[separator.end() :]
            following = _PART_END.search(after)
            next_piece = after[: following.start()] if following else after
            if self._mentions(before) and self._mentions(next_piece):
                parts[-1] = (start, before)
                parts.append((separator.end(), after))
        return parts

    def _placed(self, kind: str, parts: list[str]) -> list[str]:
        """Return the kind's labels whose place stands in the first part that has any; no place is everywhere."""
        for part in parts:
            labels = [label for label, place in self._places[kind].items() if place.search(part)]
            if labels:
                return labels
        return []


def _words(words: str) -> re.Pattern[str]:
    """Return the pattern of some words, with an optional plural; of no words, one that fits anywhere."""
    pattern = r"\s+".join(map(re.escape, words.split()))
    return re.compile(rf"\b{pattern}(?:e?s)?\b" if pattern else "", re.IGNORECASE)


def _is_denied(clause: str, start: int, end: int) -> bool:
    return bool(_DENIED_BEFORE.search(clause, 0, start) or _DENIED_AFTER.match(clause, end))
