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

import re
from typing import Any

import pytest

from monai_u2.data import (
    CT_RATE_LABELS,
    check_batch_size,
    check_finding_labels,
    check_mixture,
    check_training_cases,
    conversation_lengths,
    group_by_image,
    presence_questions,
    validation_reports,
)
from monai_u2.data.mixture import drawn_kinds
from monai_u2.exceptions import InputError

LABELS = ["lung nodule, right upper lobe", "lung nodule, left upper lobe", "Cardiomegaly"]


@pytest.fixture
def cases() -> list[dict[str, Any]]:
    """Kinds of the first case: report (twice, once by default) and presence; of the second: region."""
    records = [
        {"image": "private/name/a.nii.gz", "question": "1", "answer": "x", "findings": ["Cardiomegaly"]},
        {"image": "private/name/a.nii.gz", "question": "2", "answer": "x", "kind": "report"},
        {"image": "private/name/a.nii.gz", "question": "3", "answer": "x", "kind": "presence"},
        {"image": "private/name/b.nii.gz", "question": "4", "answer": "x", "kind": "region"},
    ]
    return group_by_image([{"findings": ["Cardiomegaly"], **record} for record in records])


def test_data_that_fits_is_returned_as_it_is(cases: list[dict[str, Any]]) -> None:
    before = [dict(case) for case in cases]
    assert check_mixture(cases, {"report": 1, "region": 0.5, "size": 0}) is cases
    assert check_batch_size(cases, 2) is cases
    assert check_finding_labels(cases, LABELS) is cases
    assert cases == before


def test_kind_without_a_record(cases: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError) as caught:
        check_mixture(cases, {"report": 0.5, "size": 0.25, "region": 0.25})
    assert str(caught.value) == (
        "the data has no record of the kind 'size', which has the weight 0.25 in the mixture of questions; its kinds "
        "are: report (2), presence (1), region (1). Add records of this kind, or set its weight to 0."
    )
    with pytest.raises(InputError, match=r"no record of the kind 'report', .*; its kinds are: none\."):
        check_mixture([], {"report": 1})


def test_case_of_which_nothing_can_be_drawn(cases: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError) as caught:
        check_mixture(cases, {"report": 1.0, "presence": 1.0, "region": 0.0})
    assert str(caught.value) == (
        "b.nii.gz: its records are of the kinds: region (1); expected at least one of report, presence, the kinds with "
        "a weight. Give one of its kinds a weight, or drop its records."
    )


def test_all_checks_of_a_training(cases: list[dict[str, Any]]) -> None:
    weights = {"report": 1.0, "region": 1.0}
    assert check_training_cases(cases, LABELS, weights, 2) is cases
    for arguments, message in (
        ((LABELS[:1], weights, 2), "'Cardiomegaly' is not among"),
        ((LABELS, {"size": 1.0}, 2), "no record of the kind 'size'"),
        ((LABELS, weights, 3), "batch_size is 3"),
    ):
        with pytest.raises(InputError, match=message):
            check_training_cases(cases, *arguments)


@pytest.mark.parametrize("key", ["findings", "lesion_mask"])
def test_cases_with_and_without_targets_do_not_mix(cases: list[dict[str, Any]], key: str) -> None:
    cases[0][key] = []
    cases[1].pop(key, None)
    with pytest.raises(InputError) as caught:
        check_training_cases(cases, LABELS, {"report": 1, "region": 1}, 1)
    assert str(caught.value).startswith(f"b.nii.gz and 0 more of 2 cases have no {key!r}, the others do; a batch")
    cases[0].pop(key)
    assert check_training_cases(cases, LABELS, {"report": 1, "region": 1}, 1) is cases


def test_validation_takes_whole_reports_with_findings() -> None:
    report = {"image": "private/a.nii.gz", "question": "1", "answer": "x", "findings": ["Cardiomegaly"]}
    region = {**report, "kind": "region"}
    assert validation_reports([report, region], LABELS) == [report]
    with pytest.raises(InputError, match=r"no record of the kind 'report'; its kinds are: region \(1\)\."):
        validation_reports([region], LABELS)
    with pytest.raises(InputError, match=r"^a.nii.gz: its report has no 'findings'"):
        validation_reports([{key: value for key, value in report.items() if key != "findings"}], LABELS)
    with pytest.raises(InputError, match="'Cardiomegaly' is not among"):
        validation_reports([report], LABELS[:1])


def test_kinds_that_are_drawn() -> None:
    assert drawn_kinds({"report": 2, "region": 0.0, "size": 0.5}) == {"report": 2.0, "size": 0.5}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"report": 1.0, "size": -0.5}, "weight of the kind 'size' is -0.5; expected a number, 0 or more"),
        ({"size": float("inf")}, "weight of the kind 'size' is inf; expected a number"),
        ({"size": float("nan")}, "weight of the kind 'size' is nan; expected a number"),
        ({"size": "0.5"}, "weight of the kind 'size' is '0.5'; expected a number"),
        ({"size": True}, "weight of the kind 'size' is True; expected a number"),
        ({"report": 0.0, "size": 0}, "weights {'report': 0.0, 'size': 0} hold none above 0"),
        ({}, "weights {} hold none above 0"),
    ],
)
def test_weights_that_are_none(cases: list[dict[str, Any]], weights: dict[str, Any], message: str) -> None:
    for call in (drawn_kinds, lambda weights: check_mixture(cases, weights)):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(weights)


def test_fewer_cases_than_a_batch(cases: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError) as caught:
        check_batch_size(cases, 3)
    assert str(caught.value) == (
        "batch_size is 3, but the data has 2 cases; expected at least as many cases as a batch holds. Lower "
        "--batch_size, or add cases."
    )
    with pytest.raises(InputError, match="batch_size is 2, but the data has 1 case;"):
        check_batch_size(cases[:1], 2)


def test_finding_that_is_no_label() -> None:
    cases = [
        {"image": "private/name/a.nii.gz", "findings": LABELS},
        {"image": "private/name/b.nii.gz"},
        {"image": "private/name/c.nii.gz", "findings": ["Cardiomegaly", "Lung nodule, right upper lobes"]},
    ]
    with pytest.raises(InputError) as caught:
        check_finding_labels(cases, LABELS)
    assert str(caught.value) == (
        "c.nii.gz: its finding 'Lung nodule, right upper lobes' is not among the 3 finding labels (close to it: 'lung "
        "nodule, right upper lobe', 'lung nodule, left upper lobe'). Correct the record, or add the label to "
        "finding_labels."
    )
    with pytest.raises(InputError, match=r"'hernia' is not among the 3 finding labels\. Correct"):
        check_finding_labels([{"image": "d.nii.gz", "findings": ["hernia"]}], LABELS)
    with pytest.raises(InputError, match=r"'CARDIOMEGALY' is not .* \(close to it: 'Cardiomegaly'\)"):
        check_finding_labels([{"image": "e.nii.gz", "findings": ["CARDIOMEGALY"]}], LABELS)


def test_presence_questions() -> None:
    questions = presence_questions(
        ["Pericardial effusion", "Lung nodule", "PE"], ["Lung nodule"], names={"Lung nodule": "a lung nodule"}
    )
    assert questions == [
        {"question": "Is there pericardial effusion?", "answer": "No.", "kind": "presence"},
        {"question": "Is there a lung nodule?", "answer": "Yes.", "kind": "presence"},
        {"question": "Is there PE?", "answer": "No.", "kind": "presence"},
    ]
    (other,) = presence_questions(["Emphysema"], [], wording="Does this CT show {name}?")
    assert other == {"question": "Does this CT show emphysema?", "answer": "No.", "kind": "presence"}


def test_presence_questions_enter_the_mixture() -> None:
    questions = presence_questions(CT_RATE_LABELS, ["Hiatal hernia", "Consolidation"])
    assert len({question["question"] for question in questions}) == len(CT_RATE_LABELS) == 18
    assert [i for i, question in enumerate(questions) if question["answer"] == "Yes."] == [5, 15]
    records = [{"image": "train_1_a_1.nii.gz", "question": "Report?", "answer": "Text."}]
    cases = group_by_image(records + [{"image": "train_1_a_1.nii.gz", **question} for question in questions])
    assert check_mixture(cases, {"report": 0.5, "presence": 0.5}) is cases


def test_presence_questions_refuse_what_they_cannot_word() -> None:
    with pytest.raises(InputError) as caught:
        presence_questions(CT_RATE_LABELS, ["Pleural efusion"])
    assert str(caught.value) == (
        "finding 'Pleural efusion' is not among the 18 labels (close to it: 'Pleural effusion', 'Pericardial "
        "effusion'). Correct the finding, or add it to the labels."
    )
    with pytest.raises(ValueError, match=r"wording 'Is there one\?' must contain {name}"):
        presence_questions(CT_RATE_LABELS, [], wording="Is there one?")


def test_length_of_the_longest_conversation_that_is_drawn() -> None:
    conversations = [
        {"question": "abc", "answer": "d", "kind": "side"},
        {"question": "ab", "answer": "cdef"},
        {"question": "a" * 50, "answer": "b", "kind": "region"},
    ]
    cases = [{"conversations": conversations}, {"conversations": conversations[:1]}]
    assert conversation_lengths(cases, {"report": 1, "side": 0.5, "region": 0}) == [6, 4]


def test_validation_without_finding_labels_takes_whole_reports() -> None:
    report = {"image": "a.nii.gz", "question": "1", "answer": "x"}
    assert validation_reports([report, {**report, "kind": "region"}], []) == [report]
