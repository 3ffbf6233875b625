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

import re
from pathlib import Path

import matplotlib.font_manager
import numpy as np
import pydicom
import pytest
from matplotlib.image import imsave

from monai_u2.dicom import SourceSeries, encapsulated_pdf, pdf, write_pdf
from monai_u2.exceptions import InputError
from tests.dicom.conftest import REPORT, MakeDocument


@pytest.fixture(params=[(60, 180, 3), (300, 60, 3)], ids=["wide", "tall"])
def picture(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    imsave(tmp_path / "overview.png", np.random.default_rng(0).random(request.param))
    return tmp_path / "overview.png"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written on the pages."""
    texts: list[str] = []
    write = pdf._write

    def note(figure: object, height: float, text: str, **style: str) -> None:
        assert 0 < height < pdf._HEIGHT
        texts.append(text)
        write(figure, height, text, **style)

    monkeypatch.setattr(pdf, "_write", note)
    return texts


def test_every_page_says_what_it_is(
    make_document: MakeDocument, picture: Path, tmp_path: Path, drawn: list[str]
) -> None:
    report = "\n".join(f"FINDINGS: Sentence number {i} costs $5 or $6." for i in range(120))
    write_pdf(make_document(report=report), picture, tmp_path / "report.pdf")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF") and content.rstrip().endswith(b"%%EOF")
    pages = int(re.search(rb"/Count (\d+)", content)[1])
    assert pages > 2
    assert [text for text in drawn if " — page " in text] == [
        f"Generated report — not for clinical use — page {number} of {pages}" for number in range(1, pages + 1)
    ]
    assert set(report.splitlines()) < set(drawn)


def test_all_the_text_is_there(make_document: MakeDocument, picture: Path, tmp_path: Path, drawn: list[str]) -> None:
    document = make_document(report=REPORT + " It is long." * 40 + " " + "x" * 200)
    write_pdf(document, picture, tmp_path / "report.pdf")
    written = "".join("".join(drawn).split())
    for text in (document.report, *document.notes):
        assert "".join(text.split()) in written
    assert document.model_sha256 in written


def test_characters_without_a_font_are_named(
    make_document: MakeDocument, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matplotlib.font_manager.fontManager, "ttflist", [])
    with pytest.raises(InputError, match="no installed font has the characters '肺'"):
        write_pdf(make_document(report="肺"), picture, tmp_path / "report.pdf")


def test_the_dicom_document_holds_the_pdf(source: SourceSeries, make_document: MakeDocument, tmp_path: Path) -> None:
    content = b"%PDF-1.4 and so on\n"  # of odd length
    encapsulated_pdf(make_document(), source, content).save_as(tmp_path / "pdf.dcm")
    written = pydicom.dcmread(tmp_path / "pdf.dcm")
    assert written.EncapsulatedDocument[: written.EncapsulatedDocumentLength] == content
    assert written.SOPClassUID == "1.2.840.10008.5.1.4.1.1.104.1" and written.Modality == "DOC"
    assert written.MIMETypeOfEncapsulatedDocument == "application/pdf"
    ct = source.headers[0]
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName"):
        assert written[keyword].value == ct[keyword].value and written[keyword].value
    assert written.VerificationFlag == "UNVERIFIED" and "not for clinical use" in written.DocumentTitle
    assert written.SoftwareVersions == "0.2.0" and written.DeviceSerialNumber == "0123456789abcdef" * 4
    assert len(written.SourceInstanceSequence) == len(source.headers)
