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


"""The files of a report's evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from isal import igzip

if TYPE_CHECKING:
    from monai_u2.evidence.finder import ReportEvidence

# from which share of the strongest evidence on a voxel has a level
LEVELS = ({"value": 1, "name": "weak", "from": 0.25}, {"value": 2, "name": "moderate", "from": 0.5})
LEVELS += ({"value": 3, "name": "strong", "from": 0.75},)
EVIDENCE_FILES = ("evidence.nii.gz", "evidence_levels.nii.gz", "evidence_sentences.nii.gz")


def write_evidence(evidence: ReportEvidence, folder: Path) -> None:
    """Write the three maps of a report.

    ``evidence.nii.gz`` holds the evidence of all sentences together, float32 from 0 to 1, and
    ``evidence_levels.nii.gz`` its :data:`LEVELS`, uint8, both on the voxels of the CT. ``evidence_sentences.nii.gz``
    has one volume for each sentence, float32 from 0 to 1, on the grid of the visual tokens: a voxel of it is a token,
    and its affine says where that lies in the patient.
    """
    levels = evidence_levels(evidence.voxels)
    weights = evidence.grid.stacked(evidence.weights)
    sentences = weights / weights.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
    contents = (
        (evidence.voxels, evidence.affine),
        (levels, evidence.affine),
        (np.moveaxis(sentences.numpy(), 0, 3), evidence.grid.token_affine),
    )
    for name, (array, affine) in zip(EVIDENCE_FILES, contents):
        image = nib.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
        with igzip.open(folder / name, "wb") as file:  # packs faster than Python's own
            image.to_stream(file)


def evidence_levels(voxels: np.ndarray) -> np.ndarray:
    """:data:`LEVELS` of evidence from 0 to 1, uint8; 0 below the lowest."""
    levels = np.zeros_like(voxels, dtype=np.uint8)  # in the same order of axes
    for level in LEVELS:  # np.digitize takes 8 bytes and 50 ns a voxel
        levels += voxels >= level["from"]
    return levels
