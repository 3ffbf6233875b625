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
from monai.data import Dataset

from monai_u2.data import RecordedCases, are_label_cases, validation_dataset
from monai_u2.exceptions import InputError

LABELED = {"image": "a.nii.gz", "label": "a.txt"}


def test_label_cases_are_told_from_records() -> None:
    assert are_label_cases([LABELED])
    assert not are_label_cases(RecordedCases("r.jsonl", [{**LABELED, "conversations": []}]))
    with pytest.raises(InputError, match="no case to train on"):
        are_label_cases([])


def test_training_cases_take_the_place_of_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert validation_dataset(Dataset([1]), [LABELED]).data == [1] and not caplog.text
        assert validation_dataset(Dataset([]), [LABELED]).data == [LABELED]
    assert "no validation cases: the 1 training cases take their place" in caplog.text
