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
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from monai_u2.data import select_ct_series
from monai_u2.data.phantom.dicom_series import write_dicom_series
from monai_u2.exceptions import InputError
from tests.dicom_files import edit


def write(folder: Path, **values: object) -> Path:
    """A series of 3 slices with these attributes; None deletes one."""
    hu = np.arange(48, dtype=np.int16).reshape(4, 4, 3)
    write_dicom_series(hu, np.eye(4), folder, patient_id="SECRET-4711")
    edit(folder, **values)
    return folder


def test_the_only_ct_series_is_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "ct", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")
    write(tmp_path / "mr", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.2", Modality="MR")
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write(tmp_path / "scout", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.3", ImageType=scout)
    dose = write(tmp_path / "dose", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.4", Modality="SR")
    for file in sorted(dose.iterdir())[:2]:
        file.unlink()
    report = pydicom.dcmread(dose / "slice_0003.dcm")
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.67"
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    report.save_as(dose / "slice_0003.dcm")
    chosen = select_ct_series(tmp_path)
    assert (chosen.uid, chosen.num_images) == ("1.2.1", 3)
    assert "passed over: MR of 3 slices, CT localizer of 3 slices, SR without images" in caplog.text
    assert "SECRET" not in caplog.text and "1.2" not in caplog.text


def test_nothing_is_said_of_a_ct_series_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert select_ct_series(write(tmp_path, SeriesInstanceUID="1.2.1")).uid == "1.2.1"
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"StudyInstanceUID": "1.3"}, r"belong to 2 studies \(StudyInstanceUID differs\); expected one study"),
        ({"PatientName": "SECRET^B"}, r"belong to 2 patients \(PatientID or PatientName differs\)"),
        ({"StudyInstanceUID": "1.3", "Modality": "MR"}, "belong to 2 studies"),
        ({}, "has 2 CT series; expected one.*It holds: CT of 3 slices, CT of 3 slices"),
    ],
)
def test_a_second_series_of_another_study_or_another_ct_is_refused(
    tmp_path: Path, values: dict[str, str], message: str
) -> None:
    write(tmp_path / "a", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")
    write(tmp_path / "b", **{"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.2", **values})
    with pytest.raises(InputError, match=message) as error:
        select_ct_series(tmp_path)
    assert "SECRET" not in str(error.value) and "1.2" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Modality": "MR"}, "the study has no CT series; expected one.*It holds: MR of 3 slices"),
        ({"StudyInstanceUID": None}, "study.s files have no StudyInstanceUID, so no DICOM document.*Export the study"),
        ({"SeriesInstanceUID": None}, "study.s files have no SeriesInstanceUID"),
    ],
)
def test_a_series_that_no_report_could_belong_to_is_refused(
    tmp_path: Path, values: dict[str, str | None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        select_ct_series(write(tmp_path, **values))


def test_no_folder_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no DICOM file found in it"):
        select_ct_series(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(InputError, match="no such folder; expected one with the DICOM files of a study"):
        select_ct_series(tmp_path)


def test_a_dose_reports_screenshots_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "ct", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", PatientName="Doe^Jane")
    uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.2", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}
    write(tmp_path / "dose", **uids, PatientName="Doe^Jane^^^")
    assert select_ct_series(tmp_path).uid == "1.2.1"
    assert "passed over: CT of 3 screenshots or segments" in caplog.text
