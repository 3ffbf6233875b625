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

from typing import Any

import pytest

from monai_u2.engines import check_numbers, check_reference, check_switches
from monai_u2.exceptions import InputError


def test_true_and_false_pass() -> None:
    check_switches(resume=True, image_blind=False)


@pytest.mark.parametrize(("value", "shown"), [("false", "'false'"), ("True", "'True'"), (1, "1"), (None, "None")])
def test_anything_else_is_refused(value: Any, shown: str) -> None:
    with pytest.raises(InputError) as caught:
        check_switches(resume=True, image_blind=value)
    assert str(caught.value) == (
        f"image_blind is {shown}; expected True or False (on the command line with a capital letter: --image_blind "
        "False; in a JSON file without quotes: false)."
    )


def test_numbers_pass() -> None:
    check_numbers(batch_size=1, seed=0, learning_rate=0, weight_decay=0.5, max_gradient_norm=0.1, max_epochs=3)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("batch_size", 8.0, "a whole number of 1 or more"),
        ("val_interval", 0, "a whole number of 1 or more"),
        ("max_epochs", "abc", "a whole number of 1 or more"),
        ("seed", -1, "a whole number of 0 or more"),
        ("vision_learning_rate", -0.001, "a number of 0 or more"),
        ("learning_rate", float("nan"), "a number of 0 or more"),
        ("max_gradient_norm", 0, "a number above 0"),
        ("max_gradient_norm", None, "a number above 0"),
        ("batch_size", True, "a whole number of 1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError, match=f"{name} is {value!r}; expected {expected}. Change --{name}"):
        check_numbers(**{name: value})


def test_references() -> None:
    check_reference("adapter", "model.pt", "model.pt")
    check_reference("model", "other.pt", "model.pt")
    with pytest.raises(InputError, match="reference is 'policy', which holds nothing"):
        check_reference("policy", "model.pt", "model.pt")
    with pytest.raises(InputError, match=r"reference_checkpoint is other.pt, but reference is 'adapter'"):
        check_reference("adapter", "other.pt", "model.pt")
