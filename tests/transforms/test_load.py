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

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, Orientationd

from monai_u2.data.phantom.dicom_series import write_dicom_series
from monai_u2.exceptions import InputError, find_input_error
from monai_u2.transforms.load import OUTSIDE_PLANE, ExtractPlanes, ExtractPlanesd, LoadCT, LoadCTd

SHARED = Path(__file__).parents[2] / ".." / "shared" / "ct"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real CT beside the repository (shared/ct)")
AFFINE = np.diag([-0.7, -0.9, 2.5, 1.0])


def example() -> np.ndarray:
    return np.random.default_rng(3).integers(-1000, 2000, (9, 8, 7), dtype=np.int16)


def test_load_ct_is_channel_first_float32_with_affine(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(example(), AFFINE), tmp_path / "ct.nii.gz")
    image = LoadCT()(tmp_path / "ct.nii.gz")
    assert isinstance(image, MetaTensor) and image.dtype == torch.float32 and image.shape == (1, 9, 8, 7)
    np.testing.assert_array_equal(image[0], example())
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert image.meta["filename_or_obj"] == str(tmp_path / "ct.nii.gz")


def test_info_is_plain_json_without_names(tmp_path: Path) -> None:
    write_dicom_series(example(), AFFINE, tmp_path / "DOE", series_uid="1.2.3.4", patient_id="DOE")
    info = LoadCTd("image", info_key="info")({"image": str(tmp_path / "DOE")})["info"]
    assert {key: info[key] for key in ("source", "shape", "spacing_mm", "extent_mm", "orientation", "warnings")} == {
        "source": "dicom",
        "shape": [9, 8, 7],
        "spacing_mm": [0.7, 0.9, 2.5],
        "extent_mm": [6.3, 7.2, 17.5],
        "orientation": "LPS",
        "warnings": [],
    }
    text = json.dumps(info)
    assert len(info["series"]) == 16 and "read" in info["timings_s"]
    assert "DOE" not in text and "1.2.3.4" not in text and str(tmp_path) not in text


def test_series_uid_chooses(tmp_path: Path) -> None:
    for number in (1, 2):
        write_dicom_series(example() + np.int16(number), AFFINE, tmp_path / str(number), series_uid=f"1.2.3.{number}")
    chosen = LoadCTd("image", series_uid="1.2.3.2")({"image": str(tmp_path)})["image"]
    np.testing.assert_array_equal(chosen[0], example() + 2)


def test_the_input_error_survives_compose(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        Compose([LoadCTd("image")])({"image": str(tmp_path / "none.nii.gz")})
    assert isinstance(find_input_error(error.value), InputError)


def body() -> MetaTensor:
    """(1, S, P, L) with 4, 2, 1 mm: a body whose head, front, and right half are marked by their own HU."""
    volume = torch.full((1, 20, 30, 50), -1000.0)
    volume[:, 2:18, 6:24, 10:40] = 0.0
    volume[:, 12:18, 6:24, 10:40] += 100.0  # head
    volume[:, 2:18, 6:14, 10:40] += 20.0  # front
    volume[:, 2:18, 6:24, 10:22] += 3.0  # right
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 4.0, -2.0, -1.0, 1.0
    return MetaTensor(volume, affine=torch.from_numpy(affine))


def test_planes_show_the_patient_upright_at_one_scale() -> None:
    planes, pixel_mm = ExtractPlanes(size=80)(body())
    assert planes.shape == (3, 80, 80) and planes.dtype == torch.int16
    assert pixel_mm == pytest.approx(1.0)  # the longest edge, 20 x 4 mm, on 80 pixels
    sizes = [
        ((plane != OUTSIDE_PLANE).any(1).sum().item(), (plane != OUTSIDE_PLANE).any(0).sum().item()) for plane in planes
    ]
    assert sizes == [(60, 50), (80, 50), (80, 60)]
    axial, coronal, sagittal = planes.tolist()
    assert axial[20][14] - axial[40][14] == 20  # the front is up
    assert axial[20][14] - axial[20][34] == 3  # the patient's right is on the left
    assert coronal[20][14] - coronal[60][14] == 100  # the head is up
    assert coronal[20][14] - coronal[20][34] == 3
    assert sagittal[20][20] - sagittal[60][20] == 100
    assert sagittal[20][20] - sagittal[20][40] == 20  # the front is on the left


def test_planes_pass_through_the_body() -> None:
    image = body()
    image[:, :, :, 25:] = -1000.0  # the body alone is now at the patient's right
    planes, _ = ExtractPlanes(size=80)(image)
    assert (planes[2] > -300).any()
    image[:] = -1000.0  # and without a body there are planes all the same
    assert ExtractPlanes(size=80)(image)[0].max() == -1000


def test_planes_of_another_orientation_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image has axes RAS; expected SPL: put Orientationd"):
        ExtractPlanes()(Orientation("RAS", labels=None)(body()))


def test_dictionary_version_puts_planes_and_their_scale() -> None:
    data = ExtractPlanesd("image", planes_key="view", size=80)({"image": body()})
    expected, pixel_mm = ExtractPlanes(size=80)(body())
    assert torch.equal(data["view"], expected) and data["view_mm"] == pixel_mm


@needs_shared
@pytest.mark.parametrize(
    ("name", "shape", "spacing"),
    [("abdomen_ras_3mm.nii.gz", [122, 101, 30], [3, 3, 3]), ("dicom_j2k", [512, 512, 20], [0.9766, 0.9766, 2])],
)
def test_real_ct(name: str, shape: list[int], spacing: list[float]) -> None:
    transform = Compose(
        [LoadCTd("image", info_key="info"), Orientationd("image", axcodes="SPL", labels=None), ExtractPlanesd("image")]
    )
    data = transform({"image": str(SHARED / name)})
    assert data["info"]["shape"] == shape and data["info"]["spacing_mm"] == spacing
    assert data["planes"].shape == (3, 512, 512)


def test_an_empty_path_isnt_the_working_folder() -> None:
    with pytest.raises(InputError, match="path is empty"):
        LoadCT()("")
