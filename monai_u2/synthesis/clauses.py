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

"""What the clauses of a sentence state, deny or call normal, by rules for English and Chinese."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from monai_u2.synthesis.wording import CJK, ORGANS, content_words, finding_words, sides, stems

# words that stand where a statement of its own begins: "no effusion, mild cardiomegaly"
_DEGREES = (
    "mild|moderate|severe|small(?! bowel)|large(?! bowel)|minimal|trace|tiny|slight|subtle|marked|few|several|multiple"
)
_VERBS = (
    "is|are|was|were|has|have|shows?|demonstrates?|appears?|measures?|remains?|contains?|seen|noted|identified|present"
)
_SEEN = (
    "seen|identified|visuali[sz]ed|demonstrated|present|noted|found|detected|appreciated|evident|visible|observed|shown"
)
_SENTENCE_END = re.compile(r"(?<!\d)\.|\.(?!\d)|[;!?。；！？\n]")
_BREAK = re.compile(
    r",?\s*\b(?:but|however|except(?:ing)?(?: for)?|although|though|while|whereas|yet|apart from|aside from|other than|"
    r"with the exception of|besides)\b|但|，",
    re.IGNORECASE,
)
_AND = re.compile(
    rf"\band\s+(?=(?:there|the|an?|{_DEGREES})\b|\d)|\bwith\s+(?=(?:an?|{_DEGREES})\b|\d)|,(?!\d)", re.IGNORECASE
)
_WITH = re.compile(r"\bwith\b(?! no\b)", re.IGNORECASE)
_OWN_SUBJECT = re.compile(r"\s*(?:and\s+)?(?:there|the|this|these|an?)\b|\s*(?:and\s+)?\d", re.IGNORECASE)
_OWN_DEGREE = re.compile(rf"\s*(?:and\s+)?(?:{_DEGREES})\b", re.IGNORECASE)
_VERB = re.compile(rf"\b(?:{_VERBS})\b", re.IGNORECASE)
_EXISTENCE = re.compile(rf"(?:\b(?:is|are|was|were|has been|have been)\s+)?\b(?:{_SEEN})\b[^,]*$", re.IGNORECASE)
_LISTED = re.compile(r"\b(?:or|nor|and)\b", re.IGNORECASE)
_LISTED_VERB = re.compile(rf"\b(?:or|nor|and)\b.*\b(?:{_VERBS})\b", re.IGNORECASE)

# what stands before a denial is not denied by it: "a nodule without calcification"
_DENIAL = re.compile(
    r"\b(?:no|not|without|neither|nor|never|denies|(?:absence|lack|none) of|negative for|free (?:of|from))\b|"
    r"未见|没有|未发现|未显示|无|(?<!肺)不(?![均规清张全])",
    re.IGNORECASE,
)
# here it is: "a nodule is not seen"
_DENIED_BEFORE = re.compile(
    rf"\b(?:not|no longer|never)\s+(?:be\s+|been\s+)?(?:\w+ly\s+)?(?:{_SEEN})\b|"
    r"(?<!not )(?<!cannot be )(?<!not be )\b(?:excluded|ruled out)\b|\babsent\b|\bnegative\b(?! for)|"
    r"\b(?:none|no|not)\s*$",
    re.IGNORECASE,
)
# "no change of the nodule": there is one
_NO_CHANGE = re.compile(
    r"\b(?:no|without)\s+(?:\w+\s+){0,2}?(?:change|growth|progression|increase|decrease)s?\b(?:\s+in\s+(?:the\s+)?size\b)?"
    r"(?:\s+(?:of|in|to)\b)?|\b(?:has|have|is|are)\s+not\s+(?:\w+ly\s+)?(?:changed|grown|increased|decreased)\b",
    re.IGNORECASE,
)
# a denial's words end at one of these: "no nodule in the lungs" denies the nodule, not the lungs
_DENIAL_ENDS = re.compile(
    r"\b(?:in|at|on|within|with|is|are|was|were|there|which|this|larger than|greater than)\b", re.IGNORECASE
)
_NORMAL = re.compile(
    r"\b(?:normal(?:ly)?|unremarkable|clear|intact|patent|preserved|natural|(?:is|are|was|were) open|"
    r"well[- ](?:expanded|aerated|inflated|ventilated|opacified|distended|preserved))\b|"
    r"正常|清晰|通畅|居中|光滑|对称|(?<!不)均匀",
    re.IGNORECASE,
)
_NOT_NORMAL = re.compile(
    r"\bnot\s+(?:\w+ly\s+)?(normal|unremarkable|clear|intact|patent|preserved|natural|open)\b", re.IGNORECASE
)
# what a sentence may say of an organ without stating a finding: "heart size, contours of the mediastinum"
_NEUTRAL = stems(
    """
    additionally appearance appearances assessed assessment attenuation bilateral both caliber calibre configuration
    contour contours contrast course density enhance enhancement evaluated evaluation examined expected great
    homogeneous imaged included intravenous limited limits lumen major margins midline morphology otherwise outline
    part parts portion portions position range regular remainder remaining rest shape silhouette size sizes smooth
    spaces space symmetric symmetrical symmetrically system thickness tract tree uniform views visualised visualized
    volume volumes window
    """
)
# names no finding by itself, but does with its organ: "enlarged heart", "lesion of the liver"
_GENERAL = stems(
    """
    abnormality abnormalities abnormal area areas change changes dilatation dilated dilation disease enlarged
    enlargement focus foci increased lesion lesions process thickened thickening widened
    """
)
_DEGREE_WORDS = stems(
    """
    acute appreciable definite diffuse few focal gross large major marked mild minimal minor moderate multiple new
    pathological pathologic several severe significant slight small subtle suspicious tiny trace
    """
)


@dataclass(frozen=True)
class Clause:
    """A part of a sentence.

    Args:
        text: what is stated, denied or called normal.
        state: "stated", "denied" or "normal".
        place: further words that say where: those around what is denied, and the label before a colon.
    """

    text: str
    state: str
    place: str = ""


@lru_cache(maxsize=4096)
def split_clauses(text: str) -> tuple[Clause, ...]:
    """Split a text into what it states, what it denies and what it calls normal."""
    clauses: list[Clause] = []
    for sentence in _SENTENCE_END.split(text):
        label, _, rest = sentence.rpartition(":")
        if not content_words(rest):
            label, rest = "", f"{label} {rest}"
        for part in _BREAK.split(rest):
            clauses += [replace(clause, place=f"{clause.place} {label}") for clause in _clauses_of(part)]
    return tuple(clauses)


def denied_words(text: str) -> set[str]:
    """Return the stems of the content words that a text denies."""
    return {word for clause in split_clauses(text) if clause.state == "denied" for word in content_words(clause.text)}


def is_positive(text: str) -> bool:
    """Whether a sentence of a report states a finding: some clause of it is neither denied nor normal."""
    return any(clause.state == "stated" and finding_words(clause.text) - _NEUTRAL for clause in split_clauses(text))


def changed_claims(source: str, text: str) -> set[str]:
    """Return what one of two reports states and the other one denies, or calls normal.

    The same finding on another side is another one. Organs count where one that was normal isn't any more, and another
    one became normal. Synonyms aren't known: what only one of the reports has a word for isn't compared.
    """
    stated, denied = _claims(source, "stated"), _claims(source, "denied")
    stated_there, denied_there = _claims(text, "stated"), _claims(text, "denied")
    found = (denied - stated) & (stated_there - denied_there)
    lost = (stated - denied) & (denied_there - stated_there)
    # pairs of characters may be places
    changed = found | lost if found and lost else {word for word in found | lost if not CJK.search(word)}
    normal, ill = _organs(source, "normal"), _organs(source, "stated")
    normal_there, ill_there = _organs(text, "normal"), _organs(text, "stated")
    fallen, healed = (normal - ill) & (ill_there - normal_there), (ill - normal) & (normal_there - ill_there)
    return changed | (fallen | healed if fallen and healed else set())


def claimed_sides(text: str) -> set[str]:
    """Return the sides of a report; "both lungs are clear" and "no bilateral effusion" name none."""
    found: set[str] = set()
    for clause in split_clauses(text):
        named = sides(f"{clause.text} {clause.place}")
        found |= named if clause.state == "stated" or len(named) == 1 else set()
    return found


def _claims(text: str, state: str) -> set[str]:
    """Return what is stated or denied: words of findings, and these with their side or organ."""
    claims: set[str] = set()
    for clause in split_clauses(text):
        if clause.state != state:
            continue
        whole = f"{clause.text} {clause.place}"
        words = finding_words(clause.text) - _NEUTRAL - _DEGREE_WORDS
        general = words & _GENERAL
        claims |= words - _GENERAL
        claims |= {f"{side} {word}" for side in sides(whole) for word in words - general}
        claims |= {f"{organ} {word}" for organ in content_words(whole) & ORGANS for word in general}
    return claims


def _organs(text: str, state: str) -> set[str]:
    """Return the organs of clauses that are normal, or that state a finding."""
    found: set[str] = set()
    for clause in split_clauses(text):
        if clause.state == state and (state == "normal" or finding_words(clause.text) - _NEUTRAL):
            found |= content_words(clause.text) & ORGANS
    return found


def _clauses_of(part: str) -> list[Clause]:
    """Split what stands between two breaks at commas, denials, and words that begin a statement of its own."""
    clauses: list[Clause] = []
    denied = False  # whether a list that is denied goes on
    for piece in _pieces(_NOT_NORMAL.sub(r"abnormal, not \1", _NO_CHANGE.sub(" ", part))):
        if denied and not _DENIAL.search(piece) and _goes_on(piece):
            clauses.append(_denied_clause(piece))
            continue
        if _DENIED_BEFORE.search(piece):
            clauses.append(Clause(_DENIED_BEFORE.sub(" ", piece), "denied"))
            denied = False
            continue
        before, *scopes = _DENIAL.split(piece)
        if scopes and CJK.search(before) and "见" not in before:  # the place stands before: "胸腔无积液"
            before = ""
        for said in _WITH.split(before):
            clauses.append(Clause(said, "normal" if _NORMAL.search(said) else "stated"))
        clauses += [_denied_clause(scope, before) for scope in scopes]
        denied = bool(scopes)
    return clauses


def _pieces(part: str) -> list[str]:
    """Split at commas and at "and" before a subject of its own; a list before its verb stays whole."""
    pieces: list[str] = []
    for piece in filter(str.strip, _AND.split(part)):
        if pieces and _LISTED_VERB.search(piece) and _is_list(pieces[-1]):
            while pieces and _is_list(pieces[-1]):
                piece = f"{pieces.pop()}, {piece}"
        pieces.append(piece)
    return pieces


def _is_list(piece: str) -> bool:
    """Whether a piece may be the beginning of a list: "nodules, masses and effusions are absent"."""
    own = re.match(rf"\s*(?:there|an?|{_DEGREES})\b|\s*\d", piece, re.IGNORECASE)
    return not (own or _VERB.search(piece) or _DENIAL.search(piece) or _NORMAL.search(piece))


def _goes_on(piece: str) -> bool:
    """Whether a piece behind a comma belongs to the list that is denied before it: "no nodule, mass or effusion"."""
    if _OWN_SUBJECT.match(piece) or _NORMAL.search(piece):
        return False
    if _OWN_DEGREE.match(piece) and not re.search(r"\bor\b", piece):
        return False
    verb = _VERB.search(piece)
    return verb is None or bool(_LISTED.search(piece[: verb.start()]) and _EXISTENCE.search(piece))


def _denied_clause(scope: str, before: str = "") -> Clause:
    end = _DENIAL_ENDS.search(scope)
    denied = scope[: end.start()] if end else scope
    return Clause(denied, "denied", f"{before} {scope[len(denied) :]}")
