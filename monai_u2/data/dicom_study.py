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

"""A DICOM study: which of its series a report describes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from monai_u2.data.dicom import SeriesInfo, list_series
from monai_u2.exceptions import InputError

__all__ = ["select_ct_series"]

logger = logging.getLogger(__name__)


def select_ct_series(folder: str | Path) -> SeriesInfo:
    """Return the only CT series below a folder that holds one study of one patient.

    Localizers and what isn't CT, such as dose reports, are passed over; how many there are is logged.

    Args:
        folder: folder of the study, searched recursively.

    Raises:
        InputError: no folder, no DICOM file in it, a broken one; two patients, two studies, no CT series or several,
            one without the UIDs that say where it belongs.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one with the DICOM files of a study.")
    found = list_series(root)
    for number, what, keyword in (
        (len({one.patient for one in found}), "patients", "PatientID or PatientName"),
        (len({one.study for one in found}), "studies", "StudyInstanceUID"),
    ):
        if number > 1:
            raise InputError(
                f"the study's DICOM files belong to {number} {what} ({keyword} differs); expected one study of "
                "one patient, so that the report is filed where it belongs. Give each study a folder of its own."
            )
    images = [one for one in found if one.modality == "CT" and one.num_images]
    chosen = [one for one in images if not (one.is_localizer or one.is_derived)]
    if len(chosen) != 1:
        raise InputError(
            f"the study has {len(chosen) or 'no'} CT series; expected one, as a report describes one. "
            f"Give a folder with that series alone. It holds: {_described(found)}."
        )
    if not chosen[0].uid or not chosen[0].study:
        raise InputError(
            f"the study's files have no {'StudyInstanceUID' if chosen[0].uid else 'SeriesInstanceUID'}, so no "
            "DICOM document can belong to their study. Export the study with its UIDs."
        )
    others = [one for one in found if one is not chosen[0]]
    if others:
        logger.warning("the report describes the CT series; passed over: %s", _described(others))
    return chosen[0]


def _described(series: Sequence[SeriesInfo]) -> str:
    """Modality and size of series, never a UID or a description."""
    return ", ".join(
        f"{one.modality} {'localizer ' if one.is_localizer else ''}of {one.num_images} "
        f"{'screenshots or segments' if one.is_derived else 'slices'}"
        if one.num_images
        else f"{one.modality} without images"
        for one in series
    )
