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

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from monai_u2.exceptions import InputError
from monai_u2.transforms.scope import CheckScope, CheckScoped, measure_ct


def trunk(slices: int = 40) -> MetaTensor:
    """(1, S, P, L), 10 x 2 x 2 mm: a trunk of 240 x 320 mm with lungs in its upper half, on a thin table."""
    volume = torch.full((1, slices, 200, 200), -1000.0)
    volume[:, :, 40:160, 20:180] = 40.0
    volume[:, slices // 2 :, 60:140, 40:90] = -850.0
    volume[:, slices // 2 :, 60:140, 110:160] = -850.0
    volume[:, :, 140:150, 95:105] = 500.0
    volume[:, :, 170:172, :] = 300.0  # table
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 10.0, -2.0, -2.0, 1.0
    return MetaTensor(volume, affine=torch.from_numpy(affine))


def test_measures_are_those_of_the_body() -> None:
    measures = measure_ct(trunk())
    assert measures["extent_s_mm"] == pytest.approx(400, abs=10)
    assert measures["extent_p_mm"] == pytest.approx(240, abs=8)
    assert measures["extent_l_mm"] == pytest.approx(320, abs=8)
    assert measures["lung_share"] == pytest.approx(8000 / 19200 / 2, abs=0.02)
    assert measures["bone_share"] == pytest.approx(100 / 19200, abs=0.003)


def test_without_a_body_all_measures_are_zero() -> None:
    image = trunk()
    image[:] = -1000.0
    assert set(measure_ct(image).values()) == {0.0}


def test_a_ct_within_the_ranges_is_passed_without_a_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert CheckScope({"extent_s_mm": [380, 460], "lung_share": [0.1, 0.4]})(trunk())[1] == []
    assert caplog.text == ""


def test_a_short_ct_is_named_with_value_and_range(caplog: pytest.LogCaptureFixture) -> None:
    check = CheckScope({"extent_s_mm": [400, 460], "lung_share": [0.25, 0.4]})
    with caplog.at_level(logging.WARNING):
        _, texts = check(trunk(slices=9))
    assert texts == [
        "outside the training distribution: not a chest–abdomen CT like those of training: "
        "head-to-foot extent 90 mm, trained on 400–460 mm; "
        "lung-like share of the body 23.1 %, trained on 25–40 %"
    ]
    assert texts[0] in caplog.text


def test_refusing_raises_the_text() -> None:
    check = CheckScope({"extent_s_mm": [400, 460]}, trained_on="chest CT", on_out_of_scope="refuse")
    with pytest.raises(InputError, match=r"not a chest CT .* extent 90 mm, trained on 400–460 mm\. Give a chest CT"):
        check(trunk(slices=9))


@pytest.mark.parametrize(
    ("scale", "shift", "found"), [(255 / 1500, 1000, "0 to 255"), (1 / 1500, 1000, "0 to 1"), (1.0, 1000, "0 to 1500")]
)
def test_voxels_that_are_not_hu_are_named(scale: float, shift: float, found: str) -> None:
    image = (trunk() + shift) * scale
    assert f"voxels not in HU: they lie in {found}; expected air near -1000" in CheckScope({})(image)[1][0]
    with pytest.raises(InputError, match="voxels not in HU"):
        CheckScope({}, on_out_of_scope="refuse")(image)


def test_dictionary_version_adds_to_the_info() -> None:
    info = {"warnings": ["before"], "source": "nifti"}
    data = CheckScoped("image", "info", ranges={"extent_s_mm": [400, 460]})({"image": trunk(9), "info": info})
    assert data["info"]["warnings"][0] == "before" and "extent 90 mm" in data["info"]["warnings"][1]
    assert data["info"]["scope"]["extent_s_mm"] == 90.0 and data["info"]["source"] == "nifti"
    assert info == {"warnings": ["before"], "source": "nifti"}


def test_another_orientation_is_refused() -> None:
    with pytest.raises(ValueError, match="image has axes RAS; expected SPL"):
        measure_ct(Orientation("RAS", labels=None)(trunk(9)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranges": {"length": [1, 2]}}, r"unknown measures \['length'\]"),
        ({"ranges": {"extent_s_mm": [460, 400]}}, r"ranges\['extent_s_mm'\] is \[460, 400\]"),
        ({"ranges": {}, "on_out_of_scope": "stop"}, r"on_out_of_scope is 'stop'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CheckScope(**arguments)
