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

"""The strict reading of the text that a GREEN model writes (https://arxiv.org/abs/2405.03595)."""

from __future__ import annotations

import re

from monai_u2.judges.base import SIGNIFICANT_ERRORS, FindingErrors

_EXPLANATION = "explanation"
_COUNTED = ("clinically significant errors", "clinically insignificant errors", "matched findings")
_HEADER = re.compile(rf"\[\s*({'|'.join((_EXPLANATION, *_COUNTED))})\s*\]\s*:?", re.IGNORECASE)
_LETTER = re.compile(r"(?:^|(?<=[\s.;。；]))\(([a-f])\)", re.IGNORECASE)
_DIGIT = re.compile(r"^[ \t]*\(([1-6])\)", re.MULTILINE)
_NOTHING = re.compile(
    r"(?:none|nil|n/a|no(?:\s+\w+){0,4}\s+(?:errors?|findings?))(?:\s+\w+){0,3}[\s.。]*", re.IGNORECASE
)
_BARE_COUNT = re.compile(r"(\d+)[ \t]*[.。．]?[ \t]*(?:\n|$)")
_NAMED_COUNT = re.compile(
    r"(\d+)\s+(?:(?:clinically|matched|significant|insignificant)\s+){0,2}(?:findings?|errors?)\b", re.IGNORECASE
)
_COUNT = re.compile(r"(\d+)\s*[.。．;；:：](?!\d)")
_NUMBERED_ITEM = re.compile(r"\s*(\d+)[.)](?!\d)\s*\S")


class _Unreadable(Exception):
    """The text isn't in GREEN's format; the status says in what way."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def parse_green(text: str) -> FindingErrors:
    """Read the text of a GREEN model::

        [Explanation]: …
        [Clinically Significant Errors]:
        (a) False report of a finding in the candidate: 0.
        (b) Missing a finding present in the reference: 2. first; second
        [Clinically Insignificant Errors]:
        None.
        [Matched Findings]:
        3. first; second; third

    The counts are what counts, as in GREEN: "2. …", "2", "3 findings", or the length of a list that numbers its items
    from 1. Kinds of errors that aren't named have none. The names after the letters and the findings may be in any
    language; the sections' names are GREEN's.

    Args:
        text: what the model wrote, without the prompt.

    Returns:
        the counts; with status "truncated" where the last sections are missing or the last is empty, "unparsable" where
        another section is missing or doubled, or a count can't be told.
    """
    plain = re.sub(r"\*\*|```|</s>|<unk>", "", text).replace("\r\n", "\n").strip()
    try:
        sections = _sections(plain)
        significant = _error_counts(sections[_COUNTED[0]], _COUNTED[0])
        insignificant = _error_counts(sections[_COUNTED[1]], _COUNTED[1])
        if not sections[_COUNTED[2]]:
            raise _Unreadable("truncated", "the text breaks off at the matched findings")
        matched = _count(sections[_COUNTED[2]], _COUNTED[2])
    except _Unreadable as error:
        return FindingErrors(status=error.status, explanation=str(error))
    return FindingErrors(
        matched=matched,
        insignificant=sum(insignificant),
        explanation=sections[_EXPLANATION],
        **dict(zip(SIGNIFICANT_ERRORS, significant)),
    )


def _sections(text: str) -> dict[str, str]:
    """Return the text of each section; what stands before the first counted one is the explanation."""
    headers = list(_HEADER.finditer(text))
    names = [header[1].lower() for header in headers]
    for name in names:
        if names.count(name) > 1:
            raise _Unreadable("unparsable", f"the section [{name}] is there {names.count(name)} times")
    missing = [name for name in _COUNTED if name not in names]
    if missing:
        broken_off = bool(names) and missing == list(_COUNTED[-len(missing) :])
        reason = f"no section [{missing[0]}]"
        raise _Unreadable("truncated" if broken_off else "unparsable", reason)
    ends = [header.start() for header in headers[1:]] + [len(text)]
    sections = {name: text[header.end() : end].strip() for name, header, end in zip(names, headers, ends)}
    sections.setdefault(_EXPLANATION, text[: headers[0].start()].lstrip(": \n").strip())
    return sections


def _error_counts(section: str, name: str) -> list[int]:
    """Return the counts of the six kinds of errors."""
    counts = [0] * len(SIGNIFICANT_ERRORS)
    if _NOTHING.fullmatch(section):
        return counts
    # GREEN numbers the kinds by letters, the chat model that it was trained on sometimes by digits
    markers = list(_LETTER.finditer(section)) or list(_DIGIT.finditer(section))
    if not markers or section[: markers[0].start()].strip():
        raise _Unreadable("unparsable", f"the section [{name}] doesn't list errors by (a) to (f)")
    ends = [marker.start() for marker in markers[1:]] + [len(section)]
    seen = set()
    for marker, end in zip(markers, ends):
        kind = "abcdef123456".index(marker[1].lower()) % 6
        entry = re.match(r"[^:：\n]*[:：](.*)", section[marker.end() : end], re.DOTALL)
        if entry is None or kind in seen:
            what = "has no count" if entry is None else "is there twice"
            raise _Unreadable("unparsable", f"{marker[0].strip()} of the section [{name}] {what}")
        seen.add(kind)
        counts[kind] = _count(entry[1].strip(), f"{name}, {marker[0].strip()}")
    return counts


def _count(text: str, where: str) -> int:
    """Return the count with which a list of findings begins."""
    if _NOTHING.fullmatch(text):
        return 0
    for pattern in (_BARE_COUNT, _NAMED_COUNT):
        stated = pattern.match(text)
        if stated:
            return int(stated[1])
    items = [_NUMBERED_ITEM.match(item) for item in re.split(r"[;；\n]", text)]
    numbers = [int(item[1]) for item in items if item]
    if len(numbers) > 1 and numbers == list(range(1, len(numbers) + 1)):
        return len(numbers)
    stated = _COUNT.match(text)
    if stated is None:
        raise _Unreadable("unparsable", f"no count in [{where}]: {text[:60]!r}")
    return int(stated[1])
