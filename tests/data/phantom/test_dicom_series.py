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

from pathlib import Path

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from monai_u2.data.phantom.dicom_series import write_dicom_series

pydicom = pytest.importorskip("pydicom")

SHAPE = (7, 6, 5)
RAS_AFFINE = np.array([[2.0, 0, 0, -30], [0, 2.5, 0, 40], [0, 0, 5.0, -100], [0, 0, 0, 1]])


def ras_volume() -> np.ndarray:
    return np.random.default_rng(0).integers(-1024, 2000, SHAPE, dtype=np.int16)


def read_points(files: list[Path]) -> dict[tuple[float, ...], int]:
    """Read files slice by slice: patient position (LPS mm) of each pixel's center -> HU."""
    points = {}
    for file in files:
        image = pydicom.dcmread(file)
        values = image.pixel_array.astype(int) * int(image.RescaleSlope) + int(image.RescaleIntercept)
        across = np.array(image.ImageOrientationPatient[:3], float) * image.PixelSpacing[1]
        down = np.array(image.ImageOrientationPatient[3:], float) * image.PixelSpacing[0]
        for row, column in np.ndindex(values.shape):
            place = np.array(image.ImagePositionPatient, float) + column * across + row * down
            points[tuple(np.round(place, 3))] = int(values[row, column])
    return points


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR", "SAL", "IRA"])
def test_every_voxel_keeps_its_place(tmp_path: Path, axcodes: str) -> None:
    volume = ras_volume()
    transform = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axcodes))
    stored, affine = apply_orientation(volume, transform), RAS_AFFINE @ inv_ornt_aff(transform, SHAPE)
    points = read_points(write_dicom_series(stored, affine, tmp_path))
    expected = {}
    for index in np.ndindex(SHAPE):
        x, y, z = (RAS_AFFINE @ [*index, 1.0])[:3]
        expected[tuple(np.round([-x, -y, z], 3))] = int(volume[index])
    assert points == expected


def test_oblique_affine(tmp_path: Path) -> None:
    angle = 0.2
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    volume, affine = ras_volume(), turn @ RAS_AFFINE
    points = read_points(write_dicom_series(volume, affine, tmp_path))
    x, y, z = (affine @ [1.0, 2.0, 3.0, 1.0])[:3]
    nearest = min(points, key=lambda place: np.linalg.norm(np.array(place) - [-x, -y, z]))
    np.testing.assert_allclose(nearest, [-x, -y, z], atol=2e-3)
    assert points[nearest] == volume[1, 2, 3]


def test_attributes(tmp_path: Path) -> None:
    files = write_dicom_series(ras_volume(), RAS_AFFINE, tmp_path / "a", series_uid="1.2.3", patient_id="NOBODY")
    assert [file.name for file in files] == [f"slice_{index:04d}.dcm" for index in range(1, 6)]
    images = [pydicom.dcmread(file) for file in files]
    assert {image.SeriesInstanceUID for image in images} == {"1.2.3"}
    assert len({image.SOPInstanceUID for image in images}) == len(images)
    assert len({image.StudyInstanceUID for image in images}) == 1
    heights = [image.ImagePositionPatient[2] for image in images]
    assert heights == sorted(heights) and heights[0] == -100
    first = images[0]
    assert first.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert first.SOPClassUID == first.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert first.RescaleIntercept == -1024 and first.PixelRepresentation == 0
    assert first.PatientID == "NOBODY" and first.StudyDate == ""
    assert list(first.PixelSpacing) == [2.5, 2.0] and first.SliceThickness == 5.0


def test_uids_follow_from_the_patient(tmp_path: Path) -> None:
    def uid(folder: str, patient: str) -> str:
        return pydicom.dcmread(
            write_dicom_series(ras_volume(), RAS_AFFINE, tmp_path / folder, patient_id=patient)[0]
        ).SeriesInstanceUID

    assert uid("a", "P") == uid("b", "P") != uid("c", "Q")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.5"])
def test_other_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    plain = write_dicom_series(ras_volume(), RAS_AFFINE, tmp_path / "plain")
    other = write_dicom_series(ras_volume(), RAS_AFFINE, tmp_path / "other", transfer_syntax=syntax)
    assert pydicom.dcmread(other[0]).file_meta.TransferSyntaxUID == syntax
    assert read_points(plain) == read_points(other)


def test_bad_volumes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hu has shape \(7, 6\); expected three axes"):
        write_dicom_series(ras_volume()[..., 0], RAS_AFFINE, tmp_path / "none")
    with pytest.raises(ValueError, match="hu reaches from -2000 to"):
        write_dicom_series(np.full(SHAPE, -2000, np.int16), RAS_AFFINE, tmp_path / "none")
    assert not (tmp_path / "none").exists()
