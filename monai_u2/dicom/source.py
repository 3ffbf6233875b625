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


"""The CT series that a report belongs to."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_u2.data.dicom import read_headers
from monai_u2.dicom.document import MANUFACTURER, ReportDocument
from monai_u2.exceptions import SeriesReferenceError

if TYPE_CHECKING:
    from pydicom import Dataset

    from monai_u2.data.dicom_frames import Frame

logger = logging.getLogger(__name__)

UTF_8 = "ISO_IR 192"
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
# of patient and study, may be empty in a file, but must be there
_MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID")
_MAY_BE_EMPTY += ("StudyDate", "StudyTime", "ReferringPhysicianName")
_SEXES = ("M", "F", "O", "")


@dataclass(frozen=True)
class SourceSeries:
    """Headers of a CT series, their texts decoded.

    Attributes:
        headers: one for each file, by the place of its first slice along the stack.
        frames: the slices `(Z)`, in the order of the volume's last axis.
        affine: voxel index (column, row, slice) to RAS mm `(4, 4)`.
        series: 16 hex digits of a SHA-256 of the SeriesInstanceUID.
    """

    headers: list[Dataset]
    frames: list[Frame]
    affine: np.ndarray
    series: str

    @classmethod
    def read(cls, path: str | Path, series_uid: str | None = None) -> SourceSeries:
        """Read the series that :func:`monai_u2.data.read_series` reads with the same arguments.

        Raises:
            InputError: what that refuses.
            SeriesReferenceError: a file without the UIDs that say where it belongs, or with texts that can't be
                decoded.
        """
        from pydicom.valuerep import DA, TM

        found = read_headers(path, series_uid)
        unusable: set[str] = set()
        for file, header in found.files.items():
            missing = [keyword for keyword in _REQUIRED if not header.get(keyword)]
            if missing:
                raise SeriesReferenceError(
                    file.name,
                    f"{' and '.join(missing)} missing, so a DICOM document can't refer to it. Export the series again, "
                    "or leave the DICOM documents out.",
                )
            try:
                header.decode()  # to Unicode, whatever the file's character set is
            except (LookupError, ValueError) as error:
                raise SeriesReferenceError(
                    file.name,
                    f"its texts can't be decoded with its character set {header.get('SpecificCharacterSet')}; expected "
                    "what its header says. Export the series again.",
                ) from error
            header.SpecificCharacterSet = UTF_8
            for keyword in _MAY_BE_EMPTY:
                if keyword not in header:
                    setattr(header, keyword, "")
            if header.PatientSex not in (*_SEXES, None):
                unusable.add("PatientSex")
                header.PatientSex = ""
            for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
                try:  # as a birth date without a day, 19500000
                    kind(header[keyword].value or "")
                except (ValueError, TypeError):
                    unusable.add(keyword)
                    setattr(header, keyword, "")
        for keyword in sorted(unusable):
            logger.warning("the series' %s is no value of DICOM's and was left out of the documents", keyword)
        return cls(list(found.files.values()), found.frames, found.affine, found.series)

    def reference(self, slice_index: int) -> tuple[Dataset, int | None]:
        """Header of the file that holds a slice, and the slice's frame number in it, from 1 on; None for a file of one
        slice."""
        frame = self.frames[slice_index]
        files = list(dict.fromkeys(one.file for one in self.frames))
        header = self.headers[files.index(frame.file)]
        return header, frame.index + 1 if "NumberOfFrames" in header else None


def new_instance(document: ReportDocument, series_number: int, description: str) -> dict[str, Any]:
    """Arguments of highdicom's classes for the first instance of a new series, made by the document's model."""
    from pydicom.uid import generate_uid

    return {
        "series_instance_uid": generate_uid(prefix=None),
        "series_number": series_number,
        "sop_instance_uid": generate_uid(prefix=None),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": document.model_name,
        "software_versions": document.model_version,
        "device_serial_number": document.model_sha256,
        "series_description": description,
        "specific_character_set": UTF_8,
    }
