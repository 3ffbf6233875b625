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

import importlib.util
import json
import logging
import shutil
import subprocess
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
import torch

from monai_u2.data import read_series
from monai_u2.dicom import DOCUMENT_FILES, ReportDocuments, pdf
from monai_u2.exceptions import InputError
from monai_u2.transforms import SaveReportd
from monai_u2.transforms import save_report as save_report_module
from tests.dicom.conftest import REPORT, SHAPE, rewrite


@pytest.fixture(autouse=True)
def no_evidence_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evidence of these tests is no model's: it has no tokens that maps could be drawn of."""
    monkeypatch.setattr(save_report_module, "write_evidence", lambda evidence, folder: None)


def save(series: Path, folder: Path, info: dict[str, Any] | None = None, evidence: bool = True, **asked: Any) -> None:
    (series.parent / "model.pt").write_bytes(b"weights")
    voxels, affine, read = read_series(series) if info is None else (np.zeros(SHAPE, np.float32), np.eye(4), info)
    known = {"source": "dicom", "series": read["series"], "shape": list(SHAPE), "spacing_mm": [1.5, 2.0, 3.0]}
    known |= {"extent_mm": [36.0, 40.0, 18.0], "orientation": "LPS", "warnings": []} | (info or {})
    found = SimpleNamespace(sentences=[], voxels=np.clip(voxels / 1000, 0, 1), affine=affine)
    SaveReportd(
        "report",
        output_dir=folder,
        model_file=series.parent / "model.pt",
        model_name="u2llm",
        model_version="0.2.0",
        evidence_key="evidence" if evidence else None,
        documents=ReportDocuments(**asked),
    )(
        {
            "report": REPORT,
            "question": "Describe the findings of this CT.",
            "info": known,
            "planes": torch.zeros((3, 30, 30), dtype=torch.int16),
            "planes_mm": 1.0,
            "source": str(series),
            "evidence": found,
        }
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"report.txt", "report.json", "overview.png"}


def test_what_is_asked_for_is_written(series: Path, tmp_path: Path) -> None:
    """And what an earlier report left is taken away."""
    for asked, expected in (
        ({"sr": True, "pdf": True, "seg": True}, set(DOCUMENT_FILES)),
        ({"pdf": True}, {"report.pdf", "report_pdf.dcm"}),
        ({"sr": True}, {"report_sr.dcm"}),
        ({}, set()),
    ):
        save(series, tmp_path / "out", **asked)
        assert names(tmp_path / "out") == expected


def test_no_patient_in_names_logs_and_texts(
    series: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        save(series, tmp_path / "out", sr=True, pdf=True, seg=True)
    shown = caplog.text + "".join(capfd.readouterr()) + "".join(str(one.message) for one in warned)
    for file in (tmp_path / "out").iterdir():
        shown += file.name + ("" if file.suffix == ".dcm" else file.read_bytes().decode("latin-1"))
    written = pydicom.dcmread(tmp_path / "out" / "report_sr.dcm")
    assert written.PatientID == "SECRET-4711"
    listed = written.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    for identifier in ("SECRET", "4711", written.StudyInstanceUID, listed.SeriesInstanceUID):
        assert identifier not in shown


@pytest.mark.parametrize("asked", ["sr", "seg"])
def test_other_images_have_no_study(series: Path, tmp_path: Path, asked: str) -> None:
    info = {"source": "nifti", "series": "0123456789abcdef"}
    with pytest.raises(InputError, match=r"isn't DICOM \(nifti\), so there is no study"):
        save(series, tmp_path / "out", info, **{asked: True})
    assert not (tmp_path / "out").exists()
    save(series, tmp_path / "out", info, pdf=True)
    assert names(tmp_path / "out") == {"report.pdf"}


def test_another_series_than_the_one_that_was_read(series: Path, tmp_path: Path) -> None:
    info = {"series": read_series(series)[2]["series"]}
    rewrite(series, lambda image: setattr(image, "SeriesInstanceUID", "1.2.3"))
    with pytest.raises(InputError, match="its series isn't the one that the report was made of"):
        save(series, tmp_path / "out", info, sr=True)
    assert not (tmp_path / "out").exists()


def test_a_series_without_study_gets_a_pdf_alone(series: Path, tmp_path: Path) -> None:
    rewrite(series, lambda image: delattr(image, "StudyInstanceUID"))
    with pytest.raises(InputError, match="StudyInstanceUID missing"):
        save(series, tmp_path / "out", sr=True, pdf=True)
    assert not (tmp_path / "out").exists()
    save(series, tmp_path / "out", pdf=True)
    assert names(tmp_path / "out") == {"report.pdf"}
    warned = json.loads((tmp_path / "out" / "report.json").read_text())["warnings"]
    assert len(warned) == 1 and warned[0].startswith("report_pdf.dcm was not written: StudyInstanceUID missing")


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_names_of_files_and_folders_stay_out_of_the_report(
    series: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    rewrite(series, lambda image: delattr(image, missing))
    named = series.rename(series.with_name("DOE_JANE"))
    for number, file in enumerate(sorted(named.iterdir())):
        file.rename(named / f"doe_jane_{number}.dcm")
    save(named, tmp_path / "out", {"series": read_series(named)[2]["series"]}, pdf=True)
    assert names(tmp_path / "out") == {"report.pdf"}
    written = (tmp_path / "out" / "report.json").read_text() + (tmp_path / "out" / "report.txt").read_text()
    assert f"{missing}" in written and "doe" not in (written + caplog.text).lower()


def test_a_segmentation_needs_evidence(series: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Set evidence to true"):
        save(series, tmp_path / "out", evidence=False, seg=True)
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_an_earlier_report_whole(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(series, tmp_path / "out", sr=True, pdf=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fail(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(pdf, "encapsulated_pdf", fail)
    with pytest.raises(OSError, match="no space left"):
        save(series, tmp_path / "out", sr=True, pdf=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_missing_package_is_named(series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'monai-u2\[dicom\]'"):
        ReportDocuments(sr=True)
    with pytest.raises(InputError, match=r"pip install 'monai-u2\[dicom\]'"):
        save(series, tmp_path / "out", pdf=True)
    save(series, tmp_path / "out", {"source": "nifti", "series": "0123456789abcdef"}, pdf=True)
    assert names(tmp_path / "out") == {"report.pdf"}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy isn't installed (Debian: dicom3tools)")
def test_dciodvfy_finds_no_error(series: Path, tmp_path: Path) -> None:
    save(series, tmp_path / "out", sr=True, pdf=True, seg=True)
    for name in ("report_sr.dcm", "report_pdf.dcm", "evidence_seg.dcm"):
        done = subprocess.run(["dciodvfy", tmp_path / "out" / name], capture_output=True, text=True)
        assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
        assert done.returncode == 0
