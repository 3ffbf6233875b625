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

"""DICOM files that are changed for a test."""

from __future__ import annotations

from pathlib import Path

import pydicom


def edit(file: Path, **values: object) -> None:
    """Set attributes of a DICOM file, or of all files of a folder; None deletes one."""
    for path in sorted(file.iterdir()) if file.is_dir() else [file]:
        dataset = pydicom.dcmread(path)
        for name, value in values.items():
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)
        dataset.save_as(path)
