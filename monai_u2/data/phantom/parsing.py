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

"""From a report's text to finding labels: the rule-based reader of the phantom's grammar.

It also reads what a model trained on this grammar may write: other cases, several places in a sentence, a report that
breaks off, findings that are denied.
"""

from __future__ import annotations

import re

from monai_u2.data.phantom.findings import FINDING_KINDS, FINDING_LABELS, finding_label, finding_locations

_MENTIONS: dict[str, str] = {
    "lung nodule": r"nodules?",
    "consolidation": r"consolidations?",
    "pleural effusion": r"effusions?",
    "cardiomegaly": r"cardiomegaly|heart is (?:\w+ )?enlarged|enlarged heart",
    "aortic aneurysm": r"aneurysms?|aorta is (?:\w+ )?dilated|dilated (?:abdominal )?aorta",
    "hypodense liver lesion": r"hypodense",
    "hyperdense liver lesion": r"hyperdense",
    "splenomegaly": r"splenomegaly|spleen is (?:\w+ )?enlarged|enlarged spleen",
    "kidney stone": r"stones?",
    "hydronephrosis": r"hydronephrosis",
    "renal cyst": r"cysts?",
    "vertebral fracture": r"fractures?",
}
_MENTION = re.compile(
    "|".join(rf"(?P<k{i}>\b(?:{_MENTIONS[kind]})\b)" for i, kind in enumerate(FINDING_KINDS)), re.IGNORECASE
)
_SENTENCE_END = re.compile(r"(?<!\d)\.|\.(?!\d)|[;?!\n]+")
_CLAUSE_END = re.compile(r"\b(?:but|however|except|although)\b|,?\s*\bthere (?:is|are)\b", re.IGNORECASE)
_PART_END = re.compile(r",|\band\b|\bwith\b", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:no|not|without|neither|nor|never|absent|negative|excluded|free of)\b", re.IGNORECASE)
_PLACE = re.compile(
    r"\b(?P<side>right|left|both|bilateral)\b|\b(?P<level>upper|middle|lower)\b|\b(?P<spine>thoracic|lumbar)\b",
    re.IGNORECASE,
)
_FINDINGS_SECTION = re.compile(r"\bfindings\s*:(.*?)(?:\bimpression\s*:|\Z)", re.IGNORECASE | re.DOTALL)


def parse_findings(text: str) -> list[str]:
    """Return the sorted, unique labels of the findings that a text states.

    Where the text has a FINDINGS section only that section is read: the impression repeats it, and a model that
    contradicts itself there is judged by its findings. Any other text is read as a whole. A finding that needs a place
    and has none, or one that the finding can't take, gives no label.

    Args:
        text: a report, a part of one, or any text in the style of :mod:`monai_u2.data.phantom.report`.
    """
    section = _FINDINGS_SECTION.search(text)
    if section is not None:
        text = section.group(1)
    labels: set[str] = set()
    for sentence in _SENTENCE_END.split(text):
        # "no" and "there is no" reach up to the next "but" or "there is"
        for clause in _clauses(sentence):
            labels.update(_read_clause(clause))
    return sorted(labels)


def _clauses(sentence: str) -> list[str]:
    """Split a sentence where a negation ends; "there is" stays with what follows it."""
    starts = [0, *(match.start() for match in _CLAUSE_END.finditer(sentence)), len(sentence)]
    return [sentence[start:end] for start, end in zip(starts, starts[1:], strict=False)]


def _read_clause(clause: str) -> list[str]:
    negation = _NEGATION.search(clause)
    labels: list[str] = []
    parts = _parts(clause[: negation.start()] if negation else clause)
    if negation and _denies_before(clause, negation):
        return []
    for index, part in enumerate(parts):
        # A part without a place takes that of the next part, else of the one before: "cyst and stone in the kidney".
        nearby = [part, *parts[index + 1 :], *reversed(parts[:index])]
        for mention in _MENTION.finditer(part):
            kind = FINDING_KINDS[int(str(mention.lastgroup)[1:])]
            labels += _labels_of(kind, nearby)
    return labels


def _denies_before(clause: str, negation: re.Match[str]) -> bool:
    """Tell whether a negation stands behind what it denies ("a nodule is not seen")."""
    return _MENTION.search(clause, negation.end()) is None and negation.group().lower() in ("not", "absent", "excluded")


def _parts(clause: str) -> list[str]:
    """Split a clause at "and", "with" and commas wherever both neighbors name a finding of their own."""
    parts: list[str] = []
    for piece in _PART_END.split(clause):
        if parts and not (_MENTION.search(piece) and _MENTION.search(parts[-1])):
            parts[-1] = f"{parts[-1]} and {piece}"
        else:
            parts.append(piece)
    return parts


def _labels_of(kind: str, parts: list[str]) -> list[str]:
    if not finding_locations(kind):
        return [kind]
    for part in parts:
        labels = [
            label for label in (finding_label(kind, place) for place in _places(kind, part)) if label in FINDING_LABELS
        ]
        if labels:
            return labels
    return []


def _places(kind: str, text: str) -> list[str]:
    """Return the places in a text, in the words that this kind of finding uses."""
    places: list[str] = []
    sides: list[str] = []
    used = False  # whether a level has been read since the last side
    for match in _PLACE.finditer(text):
        if match["spine"]:
            places.append(f"{match['spine'].lower()} spine")
        elif match["side"]:
            side = match["side"].lower()
            both = side in ("both", "bilateral")
            new = ["right", "left"] if both else [side]
            sides = new if used or both else [*sides, *new]
            used = False
            if kind.endswith("liver lesion"):
                places += [f"{side} lobe" for side in new]
            elif kind not in ("lung nodule", "consolidation"):
                places += new
        else:
            used = True
            if kind in ("lung nodule", "consolidation"):
                places += [f"{side} {match['level'].lower()} lobe" for side in sides]
    return places
