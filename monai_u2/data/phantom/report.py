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

"""The phantom's language: reports, and questions with short answers, from a small grammar.

A report has one line for each region, in a fixed order, and the impression::

    FINDINGS:
    Lungs: There is a 20 mm nodule in the right upper lobe.
    Pleura: No pleural effusion.
    ...
    IMPRESSION:
    Nodule in the right upper lobe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from monai_u2.data.phantom.cases import draw_case
from monai_u2.data.phantom.findings import (
    FINDING_KINDS,
    FINDING_LABELS,
    SEED,
    SPLIT_RANGES,
    PhantomCase,
    PhantomFinding,
    finding_label,
    finding_locations,
)
from monai_u2.data.phantom.geometry import Draws
from monai_u2.exceptions import InputError

REPORT_QUESTIONS: tuple[str, ...] = (
    "Describe the findings of this CT.",
    "Write a report for this CT.",
    "What does this CT show?",
)
"""Questions for the whole report; the first is the default."""

REGIONS: tuple[str, ...] = ("Lungs", "Pleura", "Heart and vessels", "Liver", "Spleen", "Kidneys", "Bones")

# Region, finding kinds, and what is said when none of them is there; a region is read in this order.
_PARTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Lungs", ("lung nodule", "consolidation"), "The lungs are clear."),
    ("Pleura", ("pleural effusion",), "No pleural effusion."),
    ("Heart and vessels", ("cardiomegaly",), "The heart is normal in size."),
    ("Heart and vessels", ("aortic aneurysm",), "The aorta is normal in caliber."),
    ("Liver", ("hypodense liver lesion", "hyperdense liver lesion"), "The liver is unremarkable."),
    ("Spleen", ("splenomegaly",), "The spleen is normal in size."),
    ("Kidneys", ("kidney stone", "hydronephrosis", "renal cyst"), "The kidneys are unremarkable."),
    ("Bones", ("vertebral fracture",), "No fracture is seen."),
)

# Which of two wordings is taken follows from the place.
_SENTENCES: dict[str, tuple[str, ...]] = {
    "lung nodule": ("There is a {size} mm nodule in the {place}.", "A {size} mm nodule is seen in the {place}."),
    "consolidation": (
        "There is a {size} mm consolidation in the {place}.",
        "A {size} mm consolidation is seen in the {place}.",
    ),
    "pleural effusion": (
        "There is a {severity} {place} pleural effusion.",
        "A {severity} pleural effusion is seen on the {place}.",
    ),
    "cardiomegaly": ("The heart is enlarged.",),
    "aortic aneurysm": ("There is a {size} mm aneurysm of the abdominal aorta.",),
    "hypodense liver lesion": (
        "There is a {size} mm hypodense lesion in the {place} of the liver.",
        "A {size} mm hypodense lesion is seen in the {place} of the liver.",
    ),
    "hyperdense liver lesion": (
        "There is a {size} mm hyperdense lesion in the {place} of the liver.",
        "A {size} mm hyperdense lesion is seen in the {place} of the liver.",
    ),
    "splenomegaly": ("The spleen is enlarged to {size} mm.",),
    "kidney stone": (
        "There is a {size} mm stone in the {place} kidney.",
        "A {size} mm stone is seen in the {place} kidney.",
    ),
    "hydronephrosis": (
        "There is {severity} hydronephrosis of the {place} kidney.",
        "{severity} hydronephrosis is seen in the {place} kidney.",
    ),
    "renal cyst": (
        "There is a {size} mm cyst in the {place} kidney.",
        "A {size} mm cyst is seen in the {place} kidney.",
    ),
    "vertebral fracture": (
        "There is a {severity} vertebral fracture in the {place}.",
        "A {severity} vertebral fracture is seen in the {place}.",
    ),
}

_IMPRESSIONS: dict[str, str] = {
    "lung nodule": "Nodule in the {place}.",
    "consolidation": "Consolidation in the {place}.",
    "pleural effusion": "Pleural effusion on the {place}.",
    "cardiomegaly": "Cardiomegaly.",
    "aortic aneurysm": "Aneurysm of the abdominal aorta.",
    "hypodense liver lesion": "Hypodense lesion in the {place} of the liver.",
    "hyperdense liver lesion": "Hyperdense lesion in the {place} of the liver.",
    "splenomegaly": "Splenomegaly.",
    "kidney stone": "Stone in the {place} kidney.",
    "hydronephrosis": "Hydronephrosis of the {place} kidney.",
    "renal cyst": "Cyst in the {place} kidney.",
    "vertebral fracture": "Vertebral fracture in the {place}.",
}
_NORMAL_IMPRESSION = "Normal CT of the chest and abdomen."

_REGION_QUESTIONS = ("What is seen in the {region}?", "Describe the {region}.")
_PRESENCE_QUESTIONS = ("Is there {name}?", "Does this CT show {name}?")
_PLACE_PRESENCE_QUESTIONS = ("Is there {name} {where}?", "Does this CT show {name} {where}?")
_PLACE_QUESTION = "Where is the {bare}?"
_SIZE_QUESTION = "How large is the {bare}?"
# Shares that let about half of the answers be yes, of questions with a place and of those without: a question about a
# finding that is there, in a place, comes with one about a place where it isn't, whose answer is no; one about an
# absent finding, whose answer is no anyway, names a place four times less often.
_ASKED_PRESENT = 0.66
_ASKED_IN_A_PLACE = 0.6

# Names with an article, as they stand in a question.
_NAMES: dict[str, str] = {
    "lung nodule": "a lung nodule",
    "consolidation": "a consolidation",
    "pleural effusion": "a pleural effusion",
    "cardiomegaly": "cardiomegaly",
    "aortic aneurysm": "an aneurysm of the abdominal aorta",
    "hypodense liver lesion": "a hypodense liver lesion",
    "hyperdense liver lesion": "a hyperdense liver lesion",
    "splenomegaly": "splenomegaly",
    "kidney stone": "a kidney stone",
    "hydronephrosis": "hydronephrosis",
    "renal cyst": "a renal cyst",
    "vertebral fracture": "a vertebral fracture",
}


@dataclass(frozen=True)
class PhantomReport:
    """A report and what each of its sentences rests on.

    Args:
        text: the whole report.
        sentences: dicts of ``text``, ``section`` ("FINDINGS" or "IMPRESSION"), ``region`` (one of :data:`REGIONS`, None
            in the impression) and ``findings`` (indexes into ``case.findings``, [] for a normal sentence).
    """

    text: str
    sentences: list[dict[str, Any]]

    def region_text(self, region: str) -> str:
        """Return the sentences about one region."""
        return _join(self.sentences, region)


def write_report(case: PhantomCase) -> PhantomReport:
    """Write the report of a case.

    The same findings are always said in the same words: what differs between two reports can be seen in the images.
    """
    sentences: list[dict[str, Any]] = []
    impression: list[dict[str, Any]] = []
    for region, kinds, normal in _PARTS:
        found = _findings_of(case, kinds)
        if not found:
            sentences.append(_sentence(normal, "FINDINGS", region, []))
        for index, finding in found:
            wordings = _SENTENCES[finding.kind]
            text = _fill(wordings[FINDING_LABELS.index(finding.label) % len(wordings)], finding)
            sentences.append(_sentence(text, "FINDINGS", region, [index]))
            impression.append(_sentence(_fill(_IMPRESSIONS[finding.kind], finding), "IMPRESSION", None, [index]))
    if not impression:
        impression.append(_sentence(_NORMAL_IMPRESSION, "IMPRESSION", None, []))
    lines = [f"{region}: {_join(sentences, region)}" for region in REGIONS]
    text = "\n".join(["FINDINGS:", *lines, "IMPRESSION:", _join(impression, None)])
    return PhantomReport(text, sentences + impression)


def ask_questions(case: PhantomCase, count: int) -> list[dict[str, str]]:
    """Return ``count`` questions with answers about regions and single findings of a case, no question twice.

    Of the questions whether something is there, also in one place, asked of a patient with findings, about half are
    answered by yes. The first questions stay the same when more are asked for.

    Returns:
        dicts of ``question``, ``answer`` and ``kind`` ("region", "presence", "side", "location" or "size").

    Raises:
        InputError: when more questions are asked for than there are different ones.
    """
    draws = Draws([SEED, case.number, 3])
    report = write_report(case)
    asked: dict[str, dict[str, str]] = {}
    for _ in range(100 + 50 * count):
        if len(asked) == count:
            return list(asked.values())
        if draws.chance(0.4):
            region = draws.pick(REGIONS)
            question = draws.pick(_REGION_QUESTIONS).format(region=region.lower())
            entries = [(question, report.region_text(region), "region")]
        else:
            entries = _ask_finding(case, draws)
        for question, answer, kind in entries:
            if len(asked) < count:
                asked.setdefault(question, {"question": question, "answer": answer, "kind": kind})
    if len(asked) < count:
        raise InputError(
            f"questions per case: {count} is more than the phantom has for case {case.number}; ask for fewer"
        )
    return list(asked.values())


def grammar_texts(n: int, seed: int) -> list[str]:
    """Return texts to train a tokenizer on: reports, questions and answers of ``n`` training cases.

    ``seed`` picks the cases; of each there are four questions beside the report.
    """
    draws = Draws([SEED, SPLIT_RANGES["test"][1], seed])
    texts: list[str] = list(REPORT_QUESTIONS)
    first, end = SPLIT_RANGES["train"]
    for _ in range(n):
        case = draw_case(int(draws.uniform(first, end)))
        texts.append(write_report(case).text)
        for entry in ask_questions(case, 4):
            texts += [entry["question"], entry["answer"]]
    return texts


def all_sentences() -> Iterator[tuple[str, list[str]]]:
    """Yield every sentence of the findings and impressions with the labels that it states, sizes set to 20 mm."""
    for label in FINDING_LABELS:
        kind, _, location = label.partition(", ")
        severities = ("small", "moderate", "large") if kind == "pleural effusion" else ("mild", "moderate", "severe")
        for severity in severities:
            finding = PhantomFinding(label, kind, location or None, (0.0, 0.0, 0.0), 20.0, severity)
            for pattern in (*_SENTENCES[kind], _IMPRESSIONS[kind]):
                yield _fill(pattern, finding), [label]
    for _, _, normal in _PARTS:
        yield normal, []
    yield _NORMAL_IMPRESSION, []


def _findings_of(case: PhantomCase, kinds: tuple[str, ...]) -> list[tuple[int, PhantomFinding]]:
    """Return index and finding of some kinds, in the order of the label list."""
    found = [(index, finding) for index, finding in enumerate(case.findings) if finding.kind in kinds]
    return sorted(found, key=lambda item: FINDING_LABELS.index(item[1].label))


def _join(sentences: list[dict[str, Any]], region: str | None) -> str:
    return " ".join(sentence["text"] for sentence in sentences if sentence["region"] == region)


def _sentence(text: str, section: str, region: str | None, findings: list[int]) -> dict[str, Any]:
    return {"text": text, "section": section, "region": region, "findings": findings}


def _fill(pattern: str, finding: PhantomFinding) -> str:
    text = pattern.format(size=_rounded_size(finding), place=finding.location, severity=finding.severity)
    return text[0].upper() + text[1:]


def _rounded_size(finding: PhantomFinding) -> int | None:
    """Return the size rounded to 5 mm, as reports give it."""
    return None if finding.size_mm is None else max(5, int(finding.size_mm / 5.0 + 0.5) * 5)


def _where(location: str) -> str:
    """Return the place as an answer gives it: "on the right", "in the right upper lobe"."""
    return f"on the {location}" if location in ("right", "left") else f"in the {location}"


def _ask_finding(case: PhantomCase, draws: Draws) -> list[tuple[str, str, str]]:
    """Ask where a finding is, how large, whether it is there (in this place); give questions, answers and kinds."""
    present = sorted({finding.kind for finding in case.findings}, key=FINDING_KINDS.index)
    absent = [kind for kind in FINDING_KINDS if kind not in present]
    if present and draws.chance(0.35):
        return [_ask_detail(case, draws.pick(present), draws)]
    kind = draws.pick(present) if present and draws.chance(_ASKED_PRESENT) else draws.pick(absent)
    locations = finding_locations(kind)
    if locations and draws.chance(_ASKED_IN_A_PLACE if kind in present else _ASKED_IN_A_PLACE / 4):
        return _ask_place(case, kind, locations, draws)
    question = draws.pick(_PRESENCE_QUESTIONS).format(name=_NAMES[kind])
    if kind not in present:
        return [(question, "No.", "presence")]
    where = (
        " and ".join(_where(str(finding.location)) for _, finding in _findings_of(case, (kind,))) if locations else ""
    )
    return [(question, f"Yes, {where}." if where else "Yes.", "presence")]


def _ask_detail(case: PhantomCase, kind: str, draws: Draws) -> tuple[str, str, str]:
    """Ask for the place or the size of a finding that is there."""
    found = [finding for _, finding in _findings_of(case, (kind,))]
    bare = _NAMES[kind].removeprefix("an ").removeprefix("a ")
    if finding_locations(kind) and (len(found) > 1 or draws.chance(0.6)):
        places = " and ".join(str(finding.location) for finding in found)
        return _PLACE_QUESTION.format(bare=bare), f"{places[0].upper()}{places[1:]}.", "location"
    if kind == "cardiomegaly":  # has neither
        return draws.pick(_PRESENCE_QUESTIONS).format(name=_NAMES[kind]), "Yes.", "presence"
    severity = found[0].severity
    answer = f"{severity.capitalize()}." if severity else f"About {_rounded_size(found[0])} mm."
    return _SIZE_QUESTION.format(bare=bare), answer, "size"


def _ask_place(case: PhantomCase, kind: str, locations: tuple[str, ...], draws: Draws) -> list[tuple[str, str, str]]:
    """Ask for a finding in one place; one that is there also in a place where it isn't, so that the answer takes the
    place."""
    taken = [location for location in locations if finding_label(kind, location) in case.labels]
    free = [location for location in locations if location not in taken]
    places = [draws.pick(taken), draws.pick(free)] if taken and free else [draws.pick(locations)]
    if draws.chance(0.5):
        places.reverse()
    pattern = draws.pick(_PLACE_PRESENCE_QUESTIONS)
    return [
        (pattern.format(name=_NAMES[kind], where=_where(place)), "Yes." if place in taken else "No.", "side")
        for place in places
    ]
