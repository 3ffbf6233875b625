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

from __future__ import annotations

import logging

import pytest

from monai_u2.exceptions import InputError
from monai_u2.metrics import match_cases

REFERENCES = [
    {"id": "a", "report": "A cyst.", "patient": "p1"},
    {"id": "b", "report": "A stone.", "patient": "p1"},
    {"id": "c", "report": "Normal."},
]


def _predictions(**reports: str) -> list[dict[str, str]]:
    return [{"id": case, "report": report} for case, report in reports.items()]


def test_cases_come_in_the_references_order() -> None:
    matched = match_cases(_predictions(c="C", a="A", b="B"), REFERENCES)
    assert matched.ids == ["a", "b", "c"] and matched.reports == ["A", "B", "C"]
    assert matched.references == ["A cyst.", "A stone.", "Normal."]
    assert matched.patients == ["p1", "p1", "c"]
    assert matched.empty_reports == matched.missing_references == matched.other_scripts == []


def test_different_ids_are_listed_for_both_sides() -> None:
    with pytest.raises(InputError, match=r"Predictions only: 2 \(x, y\). References only: 1 \(c\)"):
        match_cases(_predictions(a="A", b="B", x="X", y="Y"), REFERENCES)


def test_long_lists_are_counted() -> None:
    more = [{"id": f"m{number}", "report": "M"} for number in range(30)]
    with pytest.raises(InputError, match=r"Predictions only: 30 \(m0, .* and 10 more\). References only: none"):
        match_cases(_predictions(a="A", b="B", c="C") + more, REFERENCES)


def test_duplicates_are_named() -> None:
    twice = _predictions(a="A", b="B", c="C")
    with pytest.raises(InputError, match=r"predictions: ids that are there more than once: 1 \(b\)"):
        match_cases([*twice, twice[1]], REFERENCES)
    with pytest.raises(InputError, match=r"references: ids that are there more than once: 1 \(a\)"):
        match_cases(twice, [*REFERENCES, REFERENCES[0]])


def test_empty_reports_stay_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        matched = match_cases(_predictions(a="A", b=" \n", c=""), REFERENCES)
    assert matched.ids == ["a", "b", "c"] and matched.empty_reports == ["b", "c"]
    assert "empty reports, scored as such: 2 (b, c)" in caplog.text


def test_references_without_a_text_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    references = [REFERENCES[0], {"id": "b", "report": "Not given."}, {"id": "c", "report": " "}]
    with caplog.at_level(logging.WARNING):
        matched = match_cases(_predictions(a="A", b="B", c="C"), references)
    assert matched.ids == ["a"] and matched.missing_references == ["b", "c"]
    assert "left out: 2 (b, c)" in caplog.text
    with pytest.raises(InputError, match="none of the 2 references has a text"):
        match_cases(_predictions(b="B", c="C"), references[1:])


def test_other_scripts_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        matched = match_cases(_predictions(a="Zyste von 3 mm, größer.", b="左肾结石 5 mm。", c="12 × 3"), REFERENCES)
    assert matched.other_scripts == ["b"] and "左" not in caplog.text


def test_reports_in_another_language_are_named(caplog: pytest.LogCaptureFixture) -> None:
    english = "There is a nodule in the right upper lobe. The heart is normal and not enlarged."
    german = "Es zeigt sich kein Pleuraerguss. Die Leber ist unauffällig und nicht vergrößert."
    references = [{"id": case, "report": text} for case, text in zip("abcd", (english, english, german, english))]
    with caplog.at_level(logging.WARNING):
        matched = match_cases(_predictions(a=german, b="Rundherd rechts.", c=german, d="右肺上叶结节。"), references)
    assert matched.other_languages == ["a"] and matched.other_scripts == ["d"]
    assert "reports in another language than their references: 1 (a)" in caplog.text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"report": "A"}, "predictions, entry 1: 'id' is NoneType"),
        ({"id": "a"}, "predictions, entry 1: 'report' is NoneType"),
        ({"id": "a", "report": 3}, "predictions, entry 1: 'report' is int"),
    ],
)
def test_entries_must_be_whole(entry: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_cases([entry], REFERENCES)


def test_ids_may_be_numbers() -> None:
    assert match_cases([{"id": 7, "report": "A"}], [{"id": "7", "report": "B"}]).ids == ["7"]


def test_a_patient_that_is_null_is_none() -> None:
    references = [reference | {"patient": None} for reference in REFERENCES]
    assert match_cases(_predictions(a="A", b="B", c="C"), references).patients == ["a", "b", "c"]
    assert match_cases(_predictions(a="A"), [{"id": "a", "report": "B", "patient": 7}]).patients == ["7"]


@pytest.mark.parametrize(
    ("patient", "told"), [(["p"], "list"), (True, "bool|True"), (" ", "' '"), (float("nan"), "nan")]
)
def test_a_patient_that_is_no_name_is_refused(patient: object, told: str) -> None:
    with pytest.raises(InputError, match=f"references, case a: 'patient' is ({told}); expected a number or a string"):
        match_cases(_predictions(a="A"), [{"id": "a", "report": "B", "patient": patient}])
