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

"""Predictions and references of the same cases, matched by their ids."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai_u2.data.language import detect_language
from monai_u2.data.records import QUESTION_KINDS
from monai_u2.exceptions import InputError

MISSING_REFERENCES: tuple[str, ...] = ("", "not given")
"""References that are none, in lower case and without a full stop ("Not given." of CT-RATE)."""

_SHOWN = 20
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MatchedCases:
    """Reports with their references, in the references' order.

    Args:
        ids: id of each case.
        reports: generated reports.
        references: reference reports.
        patients: patient of each case: the references' `patient`, else the id.
        empty_reports: ids of cases with an empty report; they are scored as such.
        missing_references: ids of cases left out, since their reference is one of :data:`MISSING_REFERENCES`.
        other_scripts: ids of cases whose report or reference is mostly in another script than Latin: text metrics that
            read English words say nothing of them.
        other_languages: ids of the other cases whose report is in another language than its reference, as far as
            :func:`monai_u2.data.detect_language` tells: short texts and some languages pass.
    """

    ids: list[str]
    reports: list[str]
    references: list[str]
    patients: list[str]
    empty_reports: list[str]
    missing_references: list[str]
    other_scripts: list[str]
    other_languages: list[str]


def match_cases(predictions: Iterable[Mapping[str, Any]], references: Iterable[Mapping[str, Any]]) -> MatchedCases:
    """Match predictions with references by their `id`.

    Args:
        predictions: objects with `id` and `report`.
        references: objects with `id`, `report` and, where several cases are one patient's, `patient`.

    Raises:
        InputError: for an entry without them, an id that is there twice, ids that only one side has, a patient that
            isn't as :func:`name_or_default` expects, or when no case is left.
    """
    predicted, expected = _by_id(predictions, "predictions"), _by_id(references, "references")
    alone = [case for case in predicted if case not in expected], [case for case in expected if case not in predicted]
    if any(alone):
        raise InputError(
            "predictions and references are of different cases. "
            f"Predictions only: {listed_ids(alone[0])}. References only: {listed_ids(alone[1])}. "
            "Give both for the same ids."
        )
    missing = [case for case, entry in expected.items() if is_missing(entry["report"])]
    ids = [case for case in expected if case not in set(missing)]
    if not ids:
        raise InputError(f"none of the {len(missing)} references has a text; expected 1 or more.")
    pairs = {case: (predicted[case]["report"], expected[case]["report"]) for case in ids}
    latin = {case: texts for case, texts in pairs.items() if all(map(_is_latin, texts))}
    other_scripts = [case for case in ids if case not in latin]
    matched = MatchedCases(
        ids=ids,
        reports=[predicted[case]["report"] for case in ids],
        references=[expected[case]["report"] for case in ids],
        patients=[name_or_default(expected[case], "patient", case, f"references, case {case}") for case in ids],
        empty_reports=[case for case in ids if not predicted[case]["report"].strip()],
        missing_references=missing,
        other_scripts=other_scripts,
        other_languages=[case for case, texts in latin.items() if _differ_in_language(*texts)],
    )
    for what, cases in (
        ("empty reports, scored as such", matched.empty_reports),
        ("references without a text, left out", missing),
        ("cases in another script than Latin", other_scripts),
        ("reports in another language than their references", matched.other_languages),
    ):
        if cases:
            logger.warning("%s: %s", what, listed_ids(cases))
    return matched


def is_missing(reference: str) -> bool:
    """Whether a reference is one of :data:`MISSING_REFERENCES`."""
    return _normalized(reference) in MISSING_REFERENCES


def name_or_default(entry: Mapping[str, Any], key: str, default: str, where: str) -> str:
    """What an entry calls something of its case (`patient`, `kind`), as a string; the default where it is missing or
    null.

    Args:
        entry: the entry.
        key: key of the name.
        default: what the case has without.
        where: which entry, for the message.

    Raises:
        InputError: when it isn't a number or a string that says something: "", NaN or a list in the place of a missing
            name would make one patient of all cases.
    """
    value = entry.get(key)
    if value is None:
        return default
    is_name = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if not is_name or value != value or not str(value).strip():
        shown = f"{value!r}" if is_name else type(value).__name__
        raise InputError(
            f"{where}: {key!r} is {shown}; expected a number or a string that isn't empty. Leave it out where it isn't "
            "known."
        )
    return str(value)


def case_kind(entry: Mapping[str, Any]) -> str:
    """Kind of question of a reference, "report" without.

    Raises:
        InputError: as :func:`name_or_default`.
    """
    return name_or_default(entry, "kind", QUESTION_KINDS[0], f"references, case {entry['id']}")


def listed_ids(ids: Sequence[object]) -> str:
    """Number and names of cases for a message: the first 20, and how many more."""
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"{len(ids)} ({', '.join(map(str, ids[:_SHOWN]))}{more})" if ids else "none"


def _by_id(entries: Iterable[Mapping[str, Any]], name: str) -> dict[str, Mapping[str, Any]]:
    entries = list(entries)
    for place, entry in enumerate(entries, start=1):
        for key in ("id", "report"):
            if not isinstance(entry.get(key), str) and not (key == "id" and isinstance(entry.get(key), int)):
                raise InputError(
                    f"{name}, entry {place}: {key!r} is {type(entry.get(key)).__name__}; expected a string."
                )
    counts = Counter(str(entry["id"]) for entry in entries)
    if twice := [case for case, count in counts.items() if count > 1]:
        raise InputError(f"{name}: ids that are there more than once: {listed_ids(twice)}. Keep one entry of each.")
    return {str(entry["id"]): entry for entry in entries}


def _normalized(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".").strip()


def _differ_in_language(report: str, reference: str) -> bool:
    found = {detect_language(report), detect_language(reference)}
    return len(found) == 2 and None not in found


def _is_latin(text: str) -> bool:
    """Whether at least half of the letters are Latin, or there is none."""
    letters = Counter(character for character in text if character.isalpha())
    latin = sum(count for letter, count in letters.items() if unicodedata.name(letter, "").startswith("LATIN"))
    return 2 * latin >= letters.total()
