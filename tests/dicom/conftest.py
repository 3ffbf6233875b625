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

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from monai_u2.data.phantom.dicom_series import write_dicom_series
from monai_u2.dicom import ReportDocument, SourceSeries

REPORT = (
    "FINDINGS:\nLungs: Nodule of 5 mm in the right upper lobe — ≥ 6 µm apart. The heart is normal.\n"
    "IMPRESSION:\n1. Lung nodule, right."
)
SHAPE = (24, 20, 6)
MakeDocument = Callable[..., ReportDocument]


def rewrite(folder: Path, change: Callable[[pydicom.Dataset], None]) -> None:
    """Change every file of a series."""
    for file in sorted(folder.iterdir()):
        image = pydicom.dcmread(file)
        change(image)
        image.save_as(file)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A DICOM series of 6 slices, 24 columns of 1.5 mm and 20 rows of 2 mm, 3 mm apart."""
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE, dtype=np.int16)
    affine = np.array([[-1.5, 0, 0, 30], [0, -2.0, 0, 20], [0, 0, 3.0, -100], [0, 0, 0, 1]])
    write_dicom_series(hu, affine, tmp_path / "ct", patient_id="SECRET-4711")
    return tmp_path / "ct"


@pytest.fixture
def source(series: Path) -> SourceSeries:
    return SourceSeries.read(series)


@pytest.fixture
def make_document() -> MakeDocument:
    def make(**changes: Any) -> ReportDocument:
        values = {
            "report": REPORT,
            "question": "Describe the findings of this CT.",
            "warnings": ["outside the training distribution: too short"],
            "is_whole": True,
            "model_name": "u2llm",
            "model_version": "0.2.0",
            "model_sha256": "0123456789abcdef" * 4,
        }
        return ReportDocument(**values | changes)

    return make
