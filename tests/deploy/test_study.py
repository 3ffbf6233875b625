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

"""The application with the shipped bundle, started as a package starts it: variables alone, no CUDA toolkit."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from monai_u2.data.phantom import draw_case, render_case
from monai_u2.data.phantom.dicom_series import write_dicom_series
from monai_u2.networks import file_sha256
from tests.deploy.conftest import after_mounting
from tests.dicom_files import edit

pytestmark = pytest.mark.deploy

NAME = "Yamada^Tarou=山田^太郎=やまだ^たろう"
REPORT = "FINDINGS:\nLungs: Nodule of ≥ 5 mm — 30 µm apart.\nIMPRESSION:\n1. Lungenrundherd, größer."
TEXTS = ["Lungs: Nodule of ≥ 5 mm — 30 µm apart.", "1. Lungenrundherd, größer."]
PLACES = {"INPUT": "study", "OUTPUT": "out", "MODEL": "models"}
DICOM_FILES = ("report_sr.dcm", "report_pdf.dcm", "evidence_seg.dcm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bundle: Path, without_toolkit: list[str]) -> Path:
    """What is left of a run on a phantom, by a model whose report is REPORT."""
    root = tmp_path_factory.mktemp("study")
    hu, _, affine = render_case(draw_case(200_003))
    write_dicom_series(hu, affine, root / "study" / "ct", patient_id="SECRET-4711")
    edit(root / "study" / "ct", SpecificCharacterSet="ISO_IR 192", PatientName=NAME, AccessionNumber="SECRET-12")
    shutil.copytree(bundle, root / "models" / "u2llm", ignore=shutil.ignore_patterns("data", "eval"))
    file = root / "models" / "u2llm" / "configs" / "inference.json"
    config = json.loads(file.read_text())
    say = {"_target_": "Lambdad", "keys": "report", "func": f"$lambda text: {REPORT!r}"}
    transforms = config["postprocessing"]["transforms"]
    transforms.insert([one["_target_"].split(".")[-1] for one in transforms].index("SaveReportd"), say)
    file.write_text(json.dumps(config))
    variables = {f"HOLOSCAN_{name}_PATH": str(root / place) for name, place in PLACES.items()}
    command = [*without_toolkit, sys.executable, "-m", "monai_u2.apps.deploy"]
    done = subprocess.run(command, cwd="/", env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (root / "said").write_text(done.stdout + done.stderr)
    return root


def test_all_documents_belong_to_the_study(folder: Path) -> None:
    ct = pydicom.dcmread(folder / "study" / "ct" / "slice_0001.dcm")
    for name in DICOM_FILES:
        written = pydicom.dcmread(folder / "out" / name)
        assert str(written.PatientName) == NAME and written.SpecificCharacterSet == "ISO_IR 192", name
        for keyword in ("PatientID", "StudyInstanceUID", "AccessionNumber"):
            assert written[keyword].value == ct[keyword].value and written[keyword].value, (name, keyword)
        assert written.SeriesInstanceUID != ct.SeriesInstanceUID, name


def test_the_text_is_exact_in_json_and_sr(folder: Path) -> None:
    assert json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))["report"] == REPORT
    sections = pydicom.dcmread(folder / "out" / "report_sr.dcm").ContentSequence
    shown = {
        section.ConceptNameCodeSequence[0].CodeMeaning: [item.TextValue for item in section.ContentSequence]
        for section in sections
        if section.ValueType == "CONTAINER"
    }
    assert [shown["Findings"], shown["Impressions"]] == [TEXTS[:1], TEXTS[1:]]


def test_the_text_is_exact_in_the_pdf(folder: Path) -> None:
    from pypdf import PdfReader

    written = pydicom.dcmread(folder / "out" / "report_pdf.dcm")
    content = written.EncapsulatedDocument[: written.EncapsulatedDocumentLength]
    assert content == (folder / "out" / "report.pdf").read_bytes()
    lines = [line for page in PdfReader(io.BytesIO(content)).pages for line in page.extract_text().splitlines()]
    assert set(REPORT.splitlines()) < set(lines)


def test_it_is_marked_as_generated(folder: Path, bundle: Path) -> None:
    model = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))["model"]
    assert model["use"] == "not for clinical use" and model["sha256"] == file_sha256(bundle / "models" / "model.pt")
    for name in DICOM_FILES[:2]:
        written = pydicom.dcmread(folder / "out" / name)
        assert written.VerificationFlag == "UNVERIFIED", name
        assert written.DeviceSerialNumber == model["sha256"] and written.SoftwareVersions == model["version"], name
        assert "not for clinical use" in written.SeriesDescription, name


def test_the_segmentation_lies_on_the_ct(folder: Path) -> None:
    written = pydicom.dcmread(folder / "out" / "evidence_seg.dcm")
    files = [pydicom.dcmread(file) for file in (folder / "study" / "ct").iterdir()]
    assert written.FrameOfReferenceUID == files[0].FrameOfReferenceUID
    listed = written.ReferencedSeriesSequence[0]
    assert listed.SeriesInstanceUID == files[0].SeriesInstanceUID
    used = {item.ReferencedSOPInstanceUID for item in listed.ReferencedInstanceSequence}
    assert used <= {file.SOPInstanceUID for file in files}
    levels = np.asarray(nib.load(folder / "out" / "evidence_levels.nii.gz").dataobj)
    assert written.pixel_array.sum() == (levels > 0).sum() > 0


def test_no_patient_in_what_is_said_and_in_names(folder: Path) -> None:
    said = (folder / "said").read_text()
    assert "Not for clinical use. Written in" in said
    ct = pydicom.dcmread(folder / "study" / "ct" / "slice_0001.dcm")
    names = "".join(path.name for path in (folder / "out").iterdir())
    for secret in ("SECRET", "4711", "Yamada", "山田", ct.StudyInstanceUID, ct.SeriesInstanceUID):
        assert secret not in said + names


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy isn't installed (Debian: dicom3tools)")
@pytest.mark.parametrize("name", DICOM_FILES)
def test_dciodvfy_finds_no_error(folder: Path, name: str) -> None:
    done = subprocess.run(["dciodvfy", folder / "out" / name], capture_output=True, text=True)
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
    assert done.returncode == 0


def test_a_read_only_folder_is_refused(study: Path, reading_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    before = after_mounting(f"mount -t tmpfs -o ro none '{output}'")
    command = [*before, sys.executable, "-m", "monai_u2.apps.deploy", "-i", study, "-m", reading_bundle, "-o", output]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"monai_u2.apps.deploy: {output}: --output can't be written there")
