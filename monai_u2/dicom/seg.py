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


"""The evidence of a report as DICOM segmentation."""

from __future__ import annotations

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept

from monai_u2.dicom.document import ReportDocument
from monai_u2.dicom.source import SourceSeries, new_instance
from monai_u2.evidence.files import LEVELS, evidence_levels
from monai_u2.exceptions import InputError

SERIES_NUMBER = 9003
_CATEGORY = CodedConcept("309825002", "SCT", "Spatial and Relational Concept")
_FAMILY = CodedConcept("123109", "DCM", "Artificial Intelligence")


def evidence_segmentation(
    document: ReportDocument, source: SourceSeries, voxels: np.ndarray, affine: np.ndarray
) -> Segmentation:
    """Make a binary segmentation on the slices of the CT, a segment for each of
    :data:`monai_u2.evidence.LEVELS`; slices without evidence are left out of it.

    Args:
        document: the report.
        source: the CT.
        voxels: evidence on its voxels (column, row, slice), 0 to 1.
        affine: voxel index to RAS mm `(4, 4)`.

    Raises:
        InputError: the evidence isn't on the slices of the CT, or these can't carry a segmentation.
    """
    size = (*source.frames[0].size[::-1], len(source.frames))
    if voxels.shape != size or not np.allclose(affine, source.affine, atol=1e-3):
        raise InputError(
            f"the evidence has {voxels.shape} voxels, the CT's slices {size}, and their places must be the same; a "
            "segmentation lies on the slices themselves. Leave it out where the CT's header was corrected."
        )
    files = {frame.file for frame in source.frames}
    if len(files) > 1 and len(files) < len(source.frames):
        raise InputError(
            f"the CT's slices are in {len(files)} multi-frame files; a segmentation takes one such file, or one file "
            "for each slice. Leave the segmentation out."
        )
    if not source.headers[0].get("FrameOfReferenceUID"):
        raise InputError(
            "the CT has no FrameOfReferenceUID, so a segmentation has no place in it. Export the series with it, or "
            "leave the segmentation out."
        )
    planes = evidence_levels(voxels).transpose(2, 1, 0)
    if len(files) == 1:  # in the order of the file's own frames
        planes = planes[np.argsort([frame.index for frame in source.frames])]
    algorithm = AlgorithmIdentificationSequence(document.model_name, _FAMILY, document.model_version)
    segments = [
        SegmentDescription(
            level["value"],
            f"{level['name']} evidence",
            _CATEGORY,
            CodedConcept(f"evidence-{level['value']}", "99MONAIU2", f"{level['name']} evidence of a generated report"),
            "AUTOMATIC",
            algorithm,
        )
        for level in LEVELS
    ]
    return Segmentation(
        source.headers,
        np.ascontiguousarray(planes),
        "BINARY",
        segments,
        content_label="EVIDENCE",
        content_description="Evidence of a generated report, not for clinical use",
        **new_instance(document, SERIES_NUMBER, "Evidence of a generated report — not for clinical use"),
    )
