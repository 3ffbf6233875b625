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

"""The application with a bundle that only reads: what is read, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from monai_u2.data.phantom.dicom_series import write_dicom_series
from tests.deploy.conftest import SHAPE, Run
from tests.dicom_files import edit

pytestmark = pytest.mark.deploy

JPEG_2000, RLE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"


@pytest.mark.parametrize("syntax", [None, JPEG_2000, RLE], ids=["plain", "JPEG 2000", "RLE"])
def test_volume_and_affine_are_those_of_simpleitk(study: Path, tmp_path: Path, run: Run, syntax: str | None) -> None:
    """With a first slice all above 0 HU, and pixels that aren't square."""
    import SimpleITK

    if syntax is not None:
        for file in sorted((study / "ct").iterdir()):
            image = pydicom.dcmread(file)
            image.compress(syntax, generate_instance_uid=False)
            image.save_as(file)
    code, said, _ = run(study, tmp_path / "out")
    assert code == 0 and "Warning: too short\nNot for clinical use." in said
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(study / "ct")))
    expected = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(expected.GetDirection(), (3, 3)) * expected.GetSpacing()
    affine[:3, 3] = expected.GetOrigin()
    found = np.load(tmp_path / "out" / "volume.npz")
    assert found["voxels"].min() < 0 < found["voxels"][..., 0].min()
    assert expected.GetSpacing() == pytest.approx((0.7, 0.9, 2.5))
    np.testing.assert_array_equal(found["voxels"], SimpleITK.GetArrayFromImage(expected).T)
    np.testing.assert_allclose(found["affine"], np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, atol=1e-6)


def test_other_series_of_the_study_are_named(study: Path, tmp_path: Path, run: Run) -> None:
    (study / "pet").mkdir()
    for file in (study / "ct").iterdir():
        shutil.copy(file, study / "pet")
    edit(study / "pet", Modality="PT", SeriesInstanceUID="1.2.3")
    code, _, warned = run(study, tmp_path / "out")
    assert code == 0 and "passed over: PT of 5 slices" in warned and "SECRET" not in warned
    assert np.load(tmp_path / "out" / "volume.npz")["voxels"].shape == SHAPE


def second_series(study: Path, **values: object) -> None:
    """Add a series of the same patient."""
    hu, affine = np.tile(np.arange(8, dtype=np.int16), (8, 3, 1)).transpose(0, 2, 1), np.eye(4)
    write_dicom_series(hu, affine, study / "more", series_uid="1.2.3", patient_id="SECRET-4711")
    edit(study / "more", **values)


def study_uid(study: Path) -> str:
    return pydicom.dcmread(study / "ct" / "slice_0001.dcm").StudyInstanceUID


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "two studies": (second_series, "DICOM files belong to 2 studies (StudyInstanceUID differs)"),
    "two patients": (
        lambda study: second_series(study, PatientID="SECRET"),
        "DICOM files belong to 2 patients",
    ),
    "two CT series": (
        lambda study: second_series(study, StudyInstanceUID=study_uid(study)),
        "the study has 2 CT series",
    ),
    "not CT": (lambda study: edit(study / "ct", Modality="MR"), "has no CT series; expected one"),
    "only a localizer": (
        lambda study: edit(study / "ct", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "It holds: CT localizer of 5 slices.",
    ),
    "a missing slice": (lambda study: (study / "ct" / "slice_0003.dcm").unlink(), "missing"),
    "an empty folder": (lambda study: shutil.rmtree(study / "ct"), "no DICOM file found in it"),
    "no UID of the study": (lambda study: edit(study / "ct", StudyInstanceUID=None), "have no StudyInstanceUID"),
    "no UID of the series": (lambda study: edit(study / "ct", SeriesInstanceUID=None), "have no SeriesInstanceUID"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(
    study: Path, tmp_path: Path, run: Run, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(study)
    code, _, said = run(study, tmp_path / "out")
    line = [line for line in said.splitlines() if "stack size" not in line]
    assert code == 2 and len(line) == 1 and message in line[0], said
    assert "SECRET" not in said and list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_first(
    study: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monai_u2.commands import command

    monkeypatch.setattr(command.os, "access", lambda path, mode: False)  # not by chmod: root may write anywhere
    code, _, said = run(study, tmp_path)
    assert code == 2 and f"{tmp_path}: --output can't be written there" in said


def test_no_bundle_is_refused(study: Path, tmp_path: Path, run: Run) -> None:
    code, _, said = run(study, tmp_path / "out", study)
    assert code == 2 and "no bundles; expected one" in said
