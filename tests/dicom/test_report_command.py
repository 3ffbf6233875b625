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
import os
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from monai_u2.data.phantom import draw_case, render_case
from monai_u2.data.phantom.dicom_series import write_dicom_series
from monai_u2.dicom import DOCUMENT_FILES, SourceSeries
from tests.python_process import run_python

ROOT = Path(__file__).parents[2]


def report(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_python(["-m", "monai_u2", "report", *arguments], ROOT, {**os.environ, "OMP_NUM_THREADS": "1"})


def test_all_documents_of_a_phantom(tmp_path: Path) -> None:
    hu, _, affine = render_case(draw_case(200_003))
    write_dicom_series(hu, affine, tmp_path / "ct", patient_id="SECRET-4711")
    output = tmp_path / "out"
    done = report(tmp_path / "ct", "--output", output, "--dicom-sr", "--pdf", "--dicom-seg")
    assert done.returncode == 0, done.stderr
    assert set(DOCUMENT_FILES) < {path.name for path in output.iterdir()}
    assert "SECRET" not in done.stdout + done.stderr
    content = json.loads((output / "report.json").read_text())
    written = pydicom.dcmread(output / "report_sr.dcm")
    shown = [
        item
        for section in written.ContentSequence
        if section.ValueType == "CONTAINER"
        for item in section.ContentSequence
    ]
    texts = [item.TextValue for item in shown]
    assert all(any(sentence["text"] in text for text in texts) for sentence in content["sentences"])
    headers = {header.SOPInstanceUID: header for header in SourceSeries.read(tmp_path / "ct").headers}
    levels = nib.load(output / "evidence_levels.nii.gz")
    segmented = segmented_voxels(pydicom.dcmread(output / "evidence_seg.dcm"), levels.affine)
    stored = np.asarray(levels.dataobj)
    assert segmented == {tuple(voxel): stored[tuple(voxel)] for voxel in np.argwhere(stored).tolist()}
    placed = [sentence for sentence in content["sentences"] if sentence["place"]]
    assert placed
    for sentence in placed:
        peak = np.array([*sentence["place"]["peak_lps_mm"], 1.0]) * [-1, -1, 1, 1]
        voxel = np.linalg.inv(levels.affine) @ peak
        assert segmented[tuple(np.rint(voxel[:3]).astype(int).tolist())] >= 2  # at least moderate
        images = [
            headers[item.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
            for item in shown
            if sentence["text"] in item.TextValue and "ContentSequence" in item
        ]
        distances = [abs(float(image.ImagePositionPatient[2]) - peak[2]) for image in images]
        assert min(distances) <= np.linalg.norm(levels.affine[:3, 2]) / 2 + 0.1


def segmented_voxels(segmentation: pydicom.Dataset, affine: np.ndarray) -> dict[tuple[int, ...], int]:
    """Voxel of a NIfTI image -> segment there, by the places in mm that the segmentation itself says."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    rows = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    row_mm, column_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found = {}
    for pixels, group in zip(segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        row, column = np.nonzero(pixels)
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        places = corner + np.outer(column * column_mm, rows[0]) + np.outer(row * row_mm, rows[1])
        homogeneous = np.c_[places * [-1, -1, 1], np.ones(len(places))]
        voxels = np.rint(homogeneous @ np.linalg.inv(affine).T)[:, :3].astype(int)
        level = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        found |= dict.fromkeys(map(tuple, voxels.tolist()), level)
    return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dicom-sr"], "isn't DICOM, so there is no study that --dicom_sr could write for"),
        (["--dicom-seg"], "isn't DICOM, so there is no study that --dicom_seg could write for"),
        (["--pdf", "report.pdf"], "--pdf is 'report.pdf'; expected no value"),
    ],
)
def test_what_cannot_be_written_is_refused_first(tmp_path: Path, options: list[str], message: str) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "ct.nii.gz")
    done = report(tmp_path / "ct.nii.gz", "--output", tmp_path / "out", *options)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
