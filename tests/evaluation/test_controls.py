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

import pytest

from monai_u2.evaluation import most_frequent_reports, shuffled_partners, swapped_questions
from monai_u2.evaluation.controls import CONTROLS, check_controls
from monai_u2.exceptions import InputError


@pytest.mark.parametrize("patients", ["ab", "abcdefghij", "aabbbcdde", "aaabbb", "abab"])
def test_a_partner_is_another_patient_and_each_image_is_one_once(patients: str) -> None:
    for seed in range(20):
        order, distance = shuffled_partners(patients, seed)
        partners = {image: order[(place + distance) % len(order)] for place, image in enumerate(order)}
        assert sorted(partners) == sorted(partners.values()) == list(range(len(patients)))
        assert all(patients[image] != patients[partner] for image, partner in partners.items())
        assert shuffled_partners(patients, seed) == (order, distance)


def test_the_seed_changes_the_order() -> None:
    assert len({tuple(shuffled_partners("abcdefgh", seed)[0]) for seed in range(10)}) > 5


@pytest.mark.parametrize("patients", ["a", "aab", "aaabb"])
def test_no_partners_where_one_patient_has_most_images(patients: str) -> None:
    assert shuffled_partners(patients, 0) is None


def test_questions_are_swapped_within_image_and_kind() -> None:
    asked = [("a", "report", "r"), ("a", "side", "left?"), ("a", "size", "mm?"), ("a", "side", "right?")]
    asked += [("b", "side", "left?"), ("b", "side", "left?"), ("b", "size", "mm?"), ("c", "side", "left?")]
    cases = [{"id": str(n), "image": i, "kind": k, "question": q} for n, (i, k, q) in enumerate(asked)]
    # another question of the kind; else of another kind; the same question asked twice is no other one
    assert swapped_questions(cases) == {"1": "3", "3": "1", "2": "3", "4": "6", "5": "6", "6": "4"}


def test_most_frequent_report_of_each_kind() -> None:
    entries = [("report", "b"), ("report", "a"), ("report", "a"), ("side", "No."), *[("report", "Not given.")] * 3]
    assert most_frequent_reports(entries) == {"report": "a", "side": "No."}


def test_controls_are_checked() -> None:
    assert check_controls(["most_frequent_report", "zeroed_images"]) == ("zeroed_images", "most_frequent_report")
    for wrong in ("zeroed_images", ["zeroed"]):
        with pytest.raises(InputError, match="expected a list of some of"):
            check_controls(wrong)
    assert check_controls(CONTROLS) == CONTROLS
