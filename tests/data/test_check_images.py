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

from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
import torch

from monai_u2.data import check_images, generate_phantoms, load_records
from monai_u2.data.check_images import check_image, correct_header, read_geometry
from monai_u2.transforms import LoadCT


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> nib.Nifti1Image:
    """Case 2; its aorta and kidneys are enhanced, and it has a kidney stone."""
    paths = generate_phantoms(tmp_path_factory.mktemp("phantoms"), 3, num_workers=1, num_validation=0, num_test=0)
    image = nib.load(load_records(paths["train"])[-1]["image"])
    return nib.Nifti1Image(np.asarray(image.dataobj, dtype=np.int16), image.affine)


Change = Callable[[np.ndarray], np.ndarray]


def write(folder: Path, image: nib.Nifti1Image, change: Change = lambda hu: hu) -> str:
    hu = change(np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(hu, image.affine, dtype=hu.dtype), folder / "ct.nii.gz")
    return str(folder / "ct.nii.gz")


def names(found: dict[str, Any]) -> list[str]:
    return [name for name, _ in found["findings"]]


def test_a_phantom_is_well_and_measured(tmp_path: Path, phantom: nib.Nifti1Image) -> None:
    found = check_image((write(tmp_path, phantom), {}))
    assert found["findings"] == []
    assert found["shape"] == list(phantom.shape) and found["orientation"] == "".join(nib.aff2axcodes(phantom.affine))
    np.testing.assert_allclose(found["spacing_mm"], nib.affines.voxel_sizes(phantom.affine), atol=1e-3)
    hu = np.asarray(phantom.dataobj)
    assert (found["hu"]["min"], found["hu"]["max"]) == (hu.min(), hu.max())
    assert abs(found["hu"]["median"] - np.median(hu)) < 10


def sparse(hu: np.ndarray) -> np.ndarray:
    """A volume whose voxels are one value but for a few."""
    out = np.full_like(hu, -1024)
    out[:3, :3, 0] = 50
    return out


@pytest.mark.parametrize(
    ("change", "finding", "words"),
    [
        (lambda hu: hu + np.int16(1024), "hu_offset", "about 1024 too high"),
        (lambda hu: (hu.astype(np.int32) + 32768).astype(np.uint16), "hu_offset", "about 32768 too high"),
        (lambda hu: hu + np.int16(8192), "hu_offset", "about 8192 too high"),
        (lambda hu: np.where(hu <= -1020, -2000, hu) + np.int16(1024), "hu_offset", "about 1024 too high"),
        (lambda hu: hu - np.int16(1024), "hu_rescaled_twice", "about 1024 too low"),
        (lambda hu: ((hu.clip(-1000, 1000) + 1000) / 2000 * 255).astype(np.uint8), "hu_windowed", "8-bit picture"),
        (lambda hu: ((hu.clip(-1000, 1000) + 1000) / 2000).astype(np.float32), "hu_windowed", "to −1 or 0 to 1"),
        (lambda hu: (hu.clip(-1000, 1000) / 1000).astype(np.float32), "hu_windowed", "to −1 or 0 to 1"),
        (lambda hu: hu.clip(-160, 240), "hu_cut", "cut to a window"),
        (lambda hu: hu.clip(-1000, 200), "hu_cut", "cut off at 200 HU"),
        (lambda hu: hu * np.int16(2), "hu_implausible", "expected air near -1000"),
        (lambda hu: hu // np.int16(4), "hu_implausible", "expected air near -1000"),
        (lambda hu: hu * np.int16(3), "hu_implausible", "expected air near -1000"),
        (lambda hu: np.zeros_like(hu), "constant", "all"),
        (sparse, "constant", "all but a few voxels are -1024"),
        (lambda hu: np.where(hu == hu.max(), np.nan, hu).astype(np.float32), "unreadable", "NaN"),
        (lambda hu: np.stack([hu, hu], axis=-1), "unreadable", "4-D image"),
        (lambda hu: hu[:, :, :1], "unreadable", "2-D image"),
    ],
)
def test_wrong_values_are_named(
    tmp_path: Path, phantom: nib.Nifti1Image, change: Change, finding: str, words: str
) -> None:
    found = check_image((write(tmp_path, phantom, change), {}))
    assert names(found) == [finding] and words in found["findings"][0][1]


@pytest.mark.parametrize(
    "change",
    [
        lambda hu: hu,
        lambda hu: hu.clip(-1000, 1000),
        lambda hu: np.where(hu <= -1020, -3024, hu).astype(np.int16),  # what is outside a scanner's circle
        lambda hu: np.where(hu >= 300, 3071, hu).astype(np.int16),  # metal
        lambda hu: hu[30:-30, 30:-30],  # hardly any air around the patient
    ],
)
def test_what_scanners_do_is_no_finding(tmp_path: Path, phantom: nib.Nifti1Image, change: Change) -> None:
    assert check_image((write(tmp_path, phantom, change), {}))["findings"] == []


def test_damaged_files_are_unreadable(tmp_path: Path, phantom: nib.Nifti1Image) -> None:
    path = Path(write(tmp_path, phantom))
    content = path.read_bytes()
    for damaged in (content[:-100], content[:10], b"", b"text"):
        path.write_bytes(damaged)
        found = check_image((str(path), {}))
        assert names(found) == ["unreadable"] and "ct.nii.gz" in found["findings"][0][1] and "series" not in found


def test_reasons_name_no_folder_above(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    for path in (tmp_path / "ct", tmp_path / "none.nii.gz"):
        (finding,) = check_image((str(path), {}))["findings"]
        assert path.name in finding[1] and str(tmp_path) not in finding[1]
        assert str(tmp_path) not in read_geometry((str(path), {}))["reason"]


def test_an_unexpected_error_of_a_decoder_is_a_finding_too(
    tmp_path: Path, phantom: nib.Nifti1Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_u2.data.ct_reader._check_voxels", lambda path, array: 1 / 0)
    found = check_image((write(tmp_path, phantom), {}))
    assert found["findings"] == [("unreadable", "ZeroDivisionError: division by zero")]


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ((2.7, 2.7, 40.0), "voxels of 2.7 × 2.7 × 40 mm; expected 0.1 to 20 mm"),
        ((0.1, 2.7, 5.0), "it covers"),
    ],
)
def test_impossible_geometry_is_named(
    tmp_path: Path, phantom: nib.Nifti1Image, spacing: tuple[float, ...], words: str
) -> None:
    image = nib.Nifti1Image(np.asarray(phantom.dataobj), np.diag([*spacing, 1.0]))
    found = check_image((write(tmp_path, image), {}))
    assert names(found) == ["geometry"] and words in found["findings"][0][1]


@pytest.mark.parametrize("row", [0.0, np.nan])
def test_an_affine_without_a_place_is_named(tmp_path: Path, phantom: nib.Nifti1Image, row: float) -> None:
    image = nib.Nifti1Image(np.asarray(phantom.dataobj), phantom.affine)
    image.header["srow_x"] = row
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    (tmp_path / "ct.nii").write_bytes(image.header.binaryblock + bytes(4) + np.asarray(image.dataobj).tobytes("F"))
    found = check_image((str(tmp_path / "ct.nii"), {}))
    assert names(found) == ["geometry"] and "can't be inverted" in found["findings"][0][1]


def test_a_lost_header_is_named(tmp_path: Path, phantom: nib.Nifti1Image) -> None:
    path = write(tmp_path, nib.Nifti1Image(np.asarray(phantom.dataobj), np.eye(4)))
    assert names(check_image((path, {}))) == ["geometry"]
    image = nib.Nifti1Image(np.asarray(phantom.dataobj), phantom.affine)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, path)
    assert names(check_image((path, {}))) == ["header"]


def test_the_records_corrections_are_applied_before_anything_is_judged(
    tmp_path: Path, phantom: nib.Nifti1Image
) -> None:
    image = nib.Nifti1Image(np.asarray(phantom.dataobj), np.diag([1, 1, 50, 1]))
    path = write(tmp_path, image, lambda hu: ((hu + 1024) // 2).astype(np.int16))
    assert sorted(names(check_image((path, {})))) == ["geometry", "hu_implausible"]
    corrections = {"spacing": [3.0, 2.5, 5.0], "rescale_slope": 2.0, "rescale_intercept": -1024.0}
    found = check_image((path, corrections))
    assert found["findings"] == [] and found["spacing_mm"] == [3.0, 2.5, 5.0]
    assert abs(found["hu"]["max"] - np.asarray(phantom.dataobj).max()) <= 2


@pytest.mark.parametrize("slope", [1, 2])
def test_a_rescale_of_what_is_hu_already_is_named(tmp_path: Path, phantom: nib.Nifti1Image, slope: float) -> None:
    found = check_image((write(tmp_path, phantom), {"rescale_slope": slope, "rescale_intercept": -1024}))
    assert names(found) == ["hu_rescaled_twice"] and "it seems to hold HU already" in found["findings"][0][1]


def test_a_series_beside_its_thumbnail_is_no_picture(tmp_path: Path) -> None:
    for name in ("1.dcm", "2.dcm", "thumb.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert not check_images._is_windowed(str(tmp_path))


@pytest.mark.parametrize("format", ["pictures", "npy"])
def test_pictures_of_a_window_are_read_and_named(m3d_cap: Callable[[str], Path], format: str) -> None:
    folder = m3d_cap(format)
    path = sorted(path for path in folder.glob("*/ct_case/000001/*") if path.suffix != ".txt")[0]
    found = check_image((str(path), {}))
    assert names(found) == ["hu_windowed"] and found["shape"][0] == 12 and len(found["series"]) == 16
    assert read_geometry((str(path), {})) == {"reason": "pictures of a display window, without voxel size"}
    broken = path if path.is_file() else next(path.iterdir())
    broken.write_bytes(b"no picture")
    assert names(check_image((str(path), {}))) == ["unreadable"]


def test_one_volume_of_several_is_checked(tmp_path: Path, phantom: nib.Nifti1Image) -> None:
    path = write(tmp_path, phantom, lambda hu: np.stack([hu, hu + np.int16(1024)], axis=-1))
    assert [names(check_image((path, {"volume_index": index}))) for index in (0, 1, 2)] == [
        [],
        ["hu_offset"],
        ["unreadable"],
    ]


def test_corrections_keep_directions_and_position(tmp_path: Path, phantom: nib.Nifti1Image) -> None:
    image = LoadCT()(write(tmp_path, phantom))
    before = image.clone()
    corrected = correct_header(image, {"spacing": [1.0, 2.0, 3.0], "rescale_slope": 2})
    directions = phantom.affine[:3, :3] / np.linalg.norm(phantom.affine[:3, :3], axis=0)
    np.testing.assert_allclose(corrected.affine[:3, :3], directions * [1.0, 2.0, 3.0], atol=1e-6)
    np.testing.assert_allclose(corrected.affine[:3, 3], phantom.affine[:3, 3], atol=1e-4)
    assert torch.equal(corrected.as_tensor(), 2 * before.as_tensor())
    assert torch.equal(image.affine, before.affine) and torch.equal(image, before)
    assert correct_header(image, {}) is image


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_geometry_is_that_of_the_patients_axes(tmp_path: Path, suffix: str) -> None:
    # axes of the array: head to foot, left to right, front to back
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = -5.0, 0.5, -0.75, 1.0
    path = tmp_path / f"ct{suffix}"
    hu = np.random.default_rng(0).integers(-1000, 1000, (10, 20, 30), dtype=np.int16)
    nib.save(nib.Nifti1Image(hu, affine), tmp_path / "ct.nii.gz")
    if suffix != ".nii.gz":
        itk.imwrite(itk.imread(str(tmp_path / "ct.nii.gz")), str(path))
    measured = read_geometry((str(path), {}))
    assert measured == {"spacing_mm": [0.5, 0.75, 5.0], "extent_mm": [10.0, 22.5, 50.0]}
    corrected = read_geometry((str(path), {"spacing": [4.0, 1.0, 2.0], "rescale_slope": 2}))
    assert corrected == {"spacing_mm": [1.0, 2.0, 4.0], "extent_mm": [20.0, 60.0, 40.0]}


def test_geometry_that_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "ct.nii.gz").write_text("text")
    for path in ("ct.nii.gz", "none.nii.gz", "none.nrrd"):
        assert list(read_geometry((str(tmp_path / path), {}))) == ["reason"]
