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
import pydicom
import pytest

from monai_u2.dicom import SourceSeries, evidence_segmentation
from monai_u2.exceptions import InputError
from tests.data.test_dicom import write_enhanced_ct
from tests.dicom.conftest import SHAPE, MakeDocument, rewrite


@pytest.fixture
def voxels() -> np.ndarray:
    """Strong at (5, 7, 4), weaker around; nothing in the first two slices."""
    evidence = np.zeros(SHAPE, dtype=np.float32)
    evidence[3:8, 6:9, 3:5] = 0.3
    evidence[4:6, 7, 4] = 0.6
    evidence[5, 7, 4] = 1.0
    return evidence


def level_volume(written: pydicom.Dataset, headers: list[pydicom.Dataset]) -> np.ndarray:
    """Levels (column, row, slice), each frame put where its own position says."""
    heights = [float(header.ImagePositionPatient[2]) for header in headers]
    volume = np.zeros(SHAPE, dtype=np.uint8)
    frames = written.pixel_array.reshape(-1, written.Rows, written.Columns)
    for pixels, group in zip(frames, written.PerFrameFunctionalGroupsSequence, strict=True):
        height = float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        place = int(np.argmin(np.abs(np.array(heights) - height)))
        level = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        volume[:, :, place] = np.where(pixels.T > 0, level, volume[:, :, place])
    return volume


def test_levels_lie_on_the_slices(
    source: SourceSeries, make_document: MakeDocument, voxels: np.ndarray, tmp_path: Path
) -> None:
    evidence_segmentation(make_document(), source, voxels, source.affine).save_as(tmp_path / "seg.dcm")
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    ct = source.headers[0]
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "FrameOfReferenceUID"):
        assert written[keyword].value == ct[keyword].value and written[keyword].value
    assert written.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4" and written.SegmentationType == "BINARY"
    assert [segment.SegmentLabel for segment in written.SegmentSequence] == [
        "weak evidence",
        "moderate evidence",
        "strong evidence",
    ]
    shared = written.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == ct.ImageOrientationPatient
    assert shared.PixelMeasuresSequence[0].PixelSpacing == ct.PixelSpacing == [2.0, 1.5]
    expected = np.digitize(voxels, [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(level_volume(written, source.headers), expected)
    assert "not for clinical use" in written.SeriesDescription


def test_positions_are_those_of_the_slices(
    source: SourceSeries, make_document: MakeDocument, voxels: np.ndarray
) -> None:
    written = evidence_segmentation(make_document(), source, voxels, source.affine)
    known = {header.SOPInstanceUID: header.ImagePositionPatient for header in source.headers}
    for group in written.PerFrameFunctionalGroupsSequence:
        derived = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert group.PlanePositionSequence[0].ImagePositionPatient == known[derived]


def test_no_evidence_is_an_empty_segmentation(source: SourceSeries, make_document: MakeDocument) -> None:
    written = evidence_segmentation(make_document(), source, np.zeros(SHAPE, np.float32), source.affine)
    assert not written.pixel_array.any()


def test_evidence_elsewhere_is_refused(source: SourceSeries, make_document: MakeDocument, voxels: np.ndarray) -> None:
    moved = source.affine + np.eye(4)[3] * 0.5
    for evidence, affine in ((voxels[:-1], source.affine), (voxels, moved)):
        with pytest.raises(InputError, match="a segmentation lies on the slices themselves"):
            evidence_segmentation(make_document(), source, evidence, affine)


def test_a_ct_without_frame_of_reference_is_refused(
    series: Path, make_document: MakeDocument, voxels: np.ndarray
) -> None:
    rewrite(series, lambda image: delattr(image, "FrameOfReferenceUID"))
    source = SourceSeries.read(series)
    with pytest.raises(InputError, match="no FrameOfReferenceUID"):
        evidence_segmentation(make_document(), source, voxels, source.affine)


def test_frames_of_an_enhanced_ct(make_document: MakeDocument, voxels: np.ndarray, tmp_path: Path) -> None:
    """Its frames stand in the reverse order of the volume's slices."""
    affine = np.diag([-1.5, -2.0, 3.0, 1.0])
    write_enhanced_ct(tmp_path / "ct.dcm", np.zeros(SHAPE, dtype=np.int16), affine)
    image = pydicom.dcmread(tmp_path / "ct.dcm")
    image.StudyInstanceUID, image.FrameOfReferenceUID = "1.2.3", "1.2.4"
    image.save_as(tmp_path / "ct.dcm")
    source = SourceSeries.read(tmp_path / "ct.dcm")
    assert source.reference(4)[1] == 2
    written = evidence_segmentation(make_document(), source, voxels, source.affine)
    heights = {
        int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber): float(
            group.PlanePositionSequence[0].ImagePositionPatient[2]
        )
        for group in written.PerFrameFunctionalGroupsSequence
    }
    assert heights[3] == source.frames[4].position[2] == 12.0
