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


"""The documents of a report beside its text: which ones are asked for, and writing them."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from monai_u2.exceptions import InputError, SeriesReferenceError

if TYPE_CHECKING:
    from monai_u2.dicom.document import ReportDocument
    from monai_u2.dicom.source import SourceSeries
    from monai_u2.evidence.finder import ReportEvidence

DOCUMENT_FILES = ("report_sr.dcm", "report.pdf", "report_pdf.dcm", "evidence_seg.dcm")


class ReportDocuments:
    """Write a report as DICOM structured report and as PDF, its evidence as DICOM segmentation.

    Args:
        sr: whether to write ``report_sr.dcm``.
        pdf: whether to write ``report.pdf``, and where the CT is DICOM, ``report_pdf.dcm``.
        seg: whether to write ``evidence_seg.dcm``.
        series_uid: SeriesInstanceUID of the CT where its folder holds several.

    Raises:
        InputError: highdicom, which writes DICOM, isn't installed.
    """

    def __init__(self, sr: bool = False, pdf: bool = False, seg: bool = False, series_uid: str | None = None) -> None:
        self.sr, self.pdf, self.seg = sr, pdf, seg
        self.series_uid = series_uid
        if sr or seg:
            _check_highdicom()

    def source(self, path: str | Path, kind: str, series: str) -> tuple[SourceSeries | None, list[str]]:
        """Return the CT's series, None where no document refers to it, and warnings.

        A DICOM series that nothing can refer to still gets its ``report.pdf``, with a warning.

        Args:
            path: the CT.
            kind: how it was read: "dicom", "nifti", …
            series: the 16 hex digits that the report's case has.

        Raises:
            InputError: a DICOM document is asked for and the CT isn't DICOM, or no longer the one that was read;
                highdicom isn't installed.
        """
        if kind != "dicom":
            if self.sr or self.seg:
                raise InputError(
                    f"{Path(path).name}: the CT isn't DICOM ({kind}), so there is no study that a structured report or "
                    "a segmentation could belong to. Give a folder of a DICOM series, or leave out dicom_sr and "
                    "dicom_seg; the PDF can be had of any CT."
                )
            return None, []
        if not (self.sr or self.seg or self.pdf):
            return None, []
        _check_highdicom()
        from monai_u2.dicom.source import SourceSeries

        try:
            with _discreet():
                found = SourceSeries.read(path, self.series_uid)
        except SeriesReferenceError as error:
            if self.sr or self.seg:
                raise
            return None, [f"report_pdf.dcm was not written: {error.reason}"]
        if found.series != series:
            raise InputError(
                f"{Path(path).name}: its series isn't the one that the report was made of; expected the same files and "
                "series_uid. Write the report again."
            )
        return found, []

    def write(
        self,
        folder: Path,
        document: ReportDocument,
        source: SourceSeries | None,
        picture: Path,
        evidence: ReportEvidence | None = None,
    ) -> None:
        """Write what was asked for.

        Args:
            folder: where to.
            document: the report.
            source: the series that :meth:`source` returned.
            picture: the overview, as PNG.
            evidence: where the report comes from.

        Raises:
            InputError: a segmentation is asked for and there is no evidence, or what the documents refuse.
        """
        with _discreet():
            if self.sr:
                from monai_u2.dicom.sr import structured_report

                structured_report(document, source).save_as(folder / "report_sr.dcm")
            if self.pdf:
                from monai_u2.dicom.pdf import encapsulated_pdf, write_pdf

                write_pdf(document, picture, folder / "report.pdf")
                if source is not None:
                    content = (folder / "report.pdf").read_bytes()
                    encapsulated_pdf(document, source, content).save_as(folder / "report_pdf.dcm")
            if self.seg:
                from monai_u2.dicom.seg import evidence_segmentation

                if evidence is None:
                    raise InputError(
                        "a segmentation of the evidence is asked for, but there is none. Set evidence to true."
                    )
                seg = evidence_segmentation(document, source, evidence.voxels, evidence.affine)
                seg.save_as(folder / "evidence_seg.dcm")


def _check_highdicom() -> None:
    if importlib.util.find_spec("highdicom") is None:
        raise InputError("writing DICOM takes highdicom, which isn't installed: pip install 'monai-u2[dicom]'")


@contextmanager
def _discreet() -> Iterator[None]:
    """Keep back what pydicom and highdicom warn of and log: they quote names and UIDs."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
