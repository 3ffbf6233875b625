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

from monai_u2.exceptions import InputError
from monai_u2.judges import FindingList

LABELS = (
    "pleural effusion, right",
    "pleural effusion, left",
    "lung nodule, right upper lobe",
    "lung nodule, left upper lobe",
    "pericardial effusion",
    "cardiomegaly",
)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", []),
        ("Cardiomegaly.", ["cardiomegaly"]),
        ("CARDIOMEGALY\nPericardial\u00a0effusion", ["pericardial effusion", "cardiomegaly"]),
        ("Cardiomegaly and small pericardial  effusions", ["pericardial effusion", "cardiomegaly"]),
        ("No cardiomegaly.", []),
        ("No cardiomegaly. Pericardial effusion of 1.5 cm.", ["pericardial effusion"]),
        ("There is no cardiomegaly but a pericardial effusion.", ["pericardial effusion"]),
        ("No cardiomegaly and there is a pericardial effusion.", ["pericardial effusion"]),
        ("Cardiomegaly is not present.", []),
        ("Pericardial effusion without cardiomegaly.", ["pericardial effusion"]),
        ("Pleural effusion on the right.", ["pleural effusion, right"]),
        ("Pleural effusions on the right and left.", ["pleural effusion, right", "pleural effusion, left"]),
        (
            "Right pleural effusion and lung nodule in the left upper lobe.",
            ["pleural effusion, right", "lung nodule, left upper lobe"],
        ),
        ("Cardiomegaly with left pleural effusion.", ["pleural effusion, left", "cardiomegaly"]),
        ("A pleural effusion.", []),
        ("A lung nodule in the right lower lobe.", []),
        ("Microcardiomegaly.", []),
    ],
)
def test_texts(text: str, labels: list[str]) -> None:
    assert FindingList(LABELS)(text) == labels


@pytest.mark.parametrize("labels", [[], [""], [", right"], ["cyst", "cyst"]])
def test_what_is_no_list_of_findings(labels: list[str]) -> None:
    with pytest.raises(InputError, match="expected"):
        FindingList(labels)
