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

import base64
import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_u2.evaluation.ct_pictures import ct_pictures
from monai_u2.exceptions import InputError

SPACING = np.array([4.0, 4.0, 8.0])


def body() -> np.ndarray:
    """RAS (40, 40, 40): a box of soft tissue in air, an air-filled box in its right upper part, bone on the left."""
    volume = np.full((40, 40, 40), -1000, dtype=np.int16)
    volume[4:36, 8:32] = 40
    volume[24:32, 12:28, 24:36] = -850
    volume[6:12, 14:26, 4:20] = 900
    return volume


def write(path: Path, volume: np.ndarray, flip: bool = False) -> Path:
    affine = np.diag([*SPACING, 1.0])
    if flip:  # the same patient, stored from left to right and from head to foot
        volume = volume[::-1, :, ::-1]
        affine[0, 0], affine[2, 2] = -SPACING[0], -SPACING[2]
        affine[:3, 3] = [39 * SPACING[0], 0, 39 * SPACING[2]]
    nib.save(nib.Nifti1Image(volume, affine), path)
    return path


def gray(uri: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_planes_are_to_scale_in_radiological_convention(tmp_path: Path) -> None:
    axial, coronal, sagittal = ct_pictures(write(tmp_path / "ct.nii", body()), size=80)["soft tissue"]
    assert (axial.width, axial.height) == (40, 40) and (coronal.width, coronal.height) == (40, 80)
    assert axial.edges == ("R", "L", "A", "P") and coronal.edges == ("R", "L", "S", "I")
    assert sagittal.edges == ("A", "P", "S", "I")
    assert axial.bar_percent == pytest.approx(100 * 50 / 160, abs=0.01)
    picture = gray(coronal.data_uri)
    assert picture.shape == (80, 40)
    # a column of bone on the patient's left, below: on the right of the picture, at the bottom
    assert picture[60, 31] == 255 and picture[60, 8] < 200 and picture[5, 31] < 200


def test_lung_planes_go_through_the_air_in_the_body(tmp_path: Path) -> None:
    axial, coronal, sagittal = ct_pictures(write(tmp_path / "ct.nii", body()), size=80)["lung"]
    lung, tissue = (round((hu + 1350) / 1500 * 255) for hu in (-850, 40))
    assert abs(int(gray(axial.data_uri)[20, 12]) - lung) < 3  # the patient's right is on the left
    assert abs(int(gray(axial.data_uri)[20, 30]) - tissue) < 3
    assert abs(int(gray(sagittal.data_uri)[20, 20]) - lung) < 3
    assert abs(int(gray(coronal.data_uri)[20, 12]) - lung) < 3


def test_a_body_without_air_has_pictures_too(tmp_path: Path) -> None:
    volume = np.full((20, 20, 20), 40, np.int16)
    volume[0] = 60
    pictures = ct_pictures(write(tmp_path / "ct.nii", volume), size=40)
    assert [len(planes) for planes in pictures.values()] == [3, 3]


def test_pictures_do_not_depend_on_the_stored_orientation(tmp_path: Path) -> None:
    # an index search from the other end may take the neighbor of a plane, and here neighbors are equal
    one = ct_pictures(write(tmp_path / "one.nii", body()), size=80)["lung"]
    other = ct_pictures(write(tmp_path / "other.nii", body(), flip=True), size=80)["lung"]
    assert [picture.data_uri for picture in one] == [picture.data_uri for picture in other]


def test_what_is_no_ct_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ct.nii").write_text("no image")
    with pytest.raises(InputError):
        ct_pictures(tmp_path / "ct.nii")
