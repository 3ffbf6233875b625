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


"""A report as PDF, and that as DICOM document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from monai_u2.dicom.document import ReportDocument
from monai_u2.dicom.source import SourceSeries, new_instance
from monai_u2.exceptions import InputError

if TYPE_CHECKING:
    from highdicom.base import SOPClass
    from matplotlib.figure import Figure

SERIES_NUMBER = 9002
# of a page, in inches: A4
_WIDTH, _HEIGHT, _MARGIN = 8.27, 11.69, 0.8
_FONT_POINTS = 10.0
_LINE = 1.4 * _FONT_POINTS / 72


def write_pdf(document: ReportDocument, picture: Path, file: Path) -> None:
    """Write a report as PDF: a picture, the text, and what must stand beside it, on every page that it is not for
    clinical use.

    Args:
        document: the report.
        picture: the overview, as PNG.
        file: where to write.

    Raises:
        InputError: no installed font has all characters of the report.
    """
    import matplotlib
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    pixels = imread(picture)
    # as wide as the page, or half as high
    scale = min((_WIDTH - 2 * _MARGIN) / pixels.shape[1], (_HEIGHT - 2 * _MARGIN) / 2 / pixels.shape[0])
    image_height, image_width = (scale * size for size in pixels.shape[:2])
    paragraphs = [*document.report.splitlines(), "", *document.notes]
    fonts = _fonts("".join([*paragraphs, document.title]))
    # fonts of type 42 are embedded, so that their characters can be searched for and copied
    with matplotlib.rc_context({"pdf.fonttype": 42, "font.family": fonts}):
        lines = [line for paragraph in paragraphs for line in _wrapped(paragraph)]
        first = int((_HEIGHT - 2 * _MARGIN - image_height - 3 * _LINE) / _LINE)
        full = int((_HEIGHT - 2 * _MARGIN - 2 * _LINE) / _LINE)
        pages = [lines[:first], *(lines[i : i + full] for i in range(first, len(lines), full))]
        information = {"Title": document.title, "Creator": f"{document.model_name} {document.model_version}"}
        with PdfPages(file, metadata=information) as pdf:
            for number, page in enumerate(pages, 1):
                figure = Figure(figsize=(_WIDTH, _HEIGHT))
                top = _HEIGHT - _MARGIN
                if number == 1:
                    _write(figure, top, document.title, weight="bold")
                    box = [(_WIDTH - image_width) / 2, top - _LINE - image_height, image_width, image_height]
                    axes = figure.add_axes([box[0] / _WIDTH, box[1] / _HEIGHT, box[2] / _WIDTH, box[3] / _HEIGHT])
                    axes.imshow(pixels, aspect="auto")
                    axes.set_axis_off()
                    top -= image_height + 2 * _LINE
                for row, line in enumerate(page):
                    _write(figure, top - row * _LINE, line)
                _write(figure, _MARGIN, f"{document.title} — page {number} of {len(pages)}", color="0.4")
                pdf.savefig(figure)


def encapsulated_pdf(document: ReportDocument, source: SourceSeries, content: bytes) -> SOPClass:
    """Make an Encapsulated PDF of the study that the CT belongs to, with references to its images."""
    from highdicom.base import SOPClass
    from pydicom import Dataset
    from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

    first = source.headers[0]
    dataset = SOPClass(
        study_instance_uid=first.StudyInstanceUID,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        patient_id=first.PatientID,
        patient_name=first.PatientName,
        patient_birth_date=first.PatientBirthDate,
        patient_sex=first.PatientSex,
        accession_number=first.AccessionNumber,
        study_id=first.StudyID,
        study_date=first.StudyDate,
        study_time=first.StudyTime,
        referring_physician_name=first.ReferringPhysicianName,
        **new_instance(document, SERIES_NUMBER, document.title),
    )
    dataset.copy_patient_and_study_information(first)
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "NO"  # the text names no patient
    dataset.AcquisitionDateTime = None
    dataset.DocumentTitle = document.title
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.ConceptNameCodeSequence = [Dataset()]
    dataset.ConceptNameCodeSequence[0].CodeValue = "18748-4"
    dataset.ConceptNameCodeSequence[0].CodingSchemeDesignator = "LN"
    dataset.ConceptNameCodeSequence[0].CodeMeaning = "Diagnostic imaging report"
    dataset.SourceInstanceSequence = []
    for header in source.headers:
        reference = Dataset()
        reference.ReferencedSOPClassUID = header.SOPClassUID
        reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
        dataset.SourceInstanceSequence.append(reference)
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(content)
    dataset.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return dataset


def _write(figure: Figure, height: float, text: str, **style: str) -> None:
    x, y = _MARGIN / _WIDTH, height / _HEIGHT
    figure.text(x, y, text, fontsize=_FONT_POINTS, va="top", parse_math=False, **style)


def _wrapped(paragraph: str) -> Iterator[str]:
    """Break a paragraph into lines that fit between the margins: between words, or within one that is too long."""
    line = ""
    for word in re.findall(r"\S+\s*|\s+", paragraph):
        for piece in [word] if _fits(word) else word:
            if line and not _fits(line + piece):
                yield line.rstrip()
                line = ""
            line += piece
    yield line.rstrip()


def _fits(text: str) -> bool:
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer = RendererAgg(8, 8, 72)
    font = FontProperties(size=_FONT_POINTS)
    width, _, _ = renderer.get_text_width_height_descent(text.rstrip(), font, ismath=False)
    return width <= 72 * (_WIDTH - 2 * _MARGIN)


def _fonts(text: str) -> list[str]:
    """matplotlib's own font, and an installed one for the characters that it hasn't got."""
    from matplotlib.font_manager import findfont, fontManager, get_font

    letters = {ord(letter) for letter in text if letter.isprintable()}
    missing = letters - get_font(findfont("DejaVu Sans")).get_charmap().keys()
    if not missing:
        return ["DejaVu Sans"]
    for entry in fontManager.ttflist:
        if missing <= get_font(entry.fname).get_charmap().keys():
            return ["DejaVu Sans", entry.name]
    raise InputError(
        f"no installed font has the characters {''.join(map(chr, sorted(missing)[:10]))!r} of the report, so a "
        "PDF can't show them. Install a font that has them (such as Debian's fonts-noto-cjk), or leave the PDF out."
    )
