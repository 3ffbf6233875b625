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

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from monai_u2.transforms import CorrectHeader, CorrectHeaderd


def image() -> MetaTensor:
    """Stored values, a header that says 1 mm and RAS."""
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (10.0, 20.0, 30.0)
    meta = {"source": "nifti", "series": "0" * 16, "warnings": "", "original_affine": affine.copy()}
    return MetaTensor(torch.arange(24.0).reshape(1, 2, 3, 4), affine=torch.as_tensor(affine), meta=meta)


def test_nothing_said_is_nothing_changed() -> None:
    case = {"image": image(), "question": "Describe."}
    assert CorrectHeaderd("image", info_key="info")(case)["image"] is case["image"]


def test_values_are_rescaled() -> None:
    out = CorrectHeader()(image(), rescale_slope=2.0, rescale_intercept=-1024.0)
    assert torch.equal(out.as_tensor(), image().as_tensor() * 2 - 1024) and torch.equal(out.affine, image().affine)
    assert torch.equal(CorrectHeader()(image(), rescale_intercept=-8192).as_tensor(), image().as_tensor() - 8192)


def test_spacing_keeps_the_directions_of_the_file() -> None:
    tilted = image()
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    tilted.affine = torch.as_tensor(turn @ np.diag([0.5, 0.5, 3.0, 1.0]))
    out = CorrectHeader()(tilted, spacing=[0.75, 0.75, 1.5])
    np.testing.assert_allclose(out.affine.numpy(), turn @ np.diag([0.75, 0.75, 1.5, 1.0]), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(out.meta["original_affine"], out.affine.numpy())


@pytest.mark.parametrize(
    ("image_orientation", "codes"),
    [
        ([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], "LPS"),
        ([-1.0, 0.0, 0.0, 0.0, -1.0, 0.0], "RAS"),  # prone
        ([-1.0, 0.0, 0.0, 0.0, 1.0, 0.0], "RPI"),  # feet first
        ([1.0, 0.0, 0.0, 0.0, 0.0, -1.0], "LIP"),  # coronal
        ([0.0, 1.0, 0.0, 0.0, 0.0, -1.0], "PIR"),  # sagittal: posterior × inferior is to the right
    ],
)
def test_directions_are_those_of_dicom(image_orientation: list[float], codes: str) -> None:
    out = CorrectHeader()(image(), image_orientation=image_orientation)
    assert "".join(nib.aff2axcodes(out.affine.numpy())) == codes
    assert out.affine[:3, 3].tolist() == [10.0, 20.0, 30.0]  # the position stays


def test_a_case_is_corrected_once() -> None:
    said = {"spacing": [0.75, 0.75, 1.5], "image_orientation": [1, 0, 0, 0, 1, 0], "rescale_slope": 2.0}
    case = {"image": image(), "info": {"warnings": ["a line"], "loaded_at": 1.0}, **said, "volume_index": 0}
    correct = CorrectHeaderd("image", info_key="info")
    once = correct(case)
    assert not said.keys() & once.keys() and "volume_index" not in once
    assert once["info"]["spacing_mm"] == [0.75, 0.75, 1.5] and once["info"]["orientation"] == "LPS"
    assert once["info"]["loaded_at"] == 1.0
    twice = correct(once)
    assert torch.equal(once["image"].as_tensor(), twice["image"].as_tensor())
    assert torch.equal(once["image"].affine, twice["image"].affine)
    oriented = Orientation("SPL")(once["image"])
    assert oriented.affine[2, 0] == 1.5 and oriented.shape == (1, 4, 3, 2)
