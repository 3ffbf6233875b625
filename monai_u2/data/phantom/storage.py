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

"""The files of phantom cases, written whole; run as a module it writes the cases that its arguments name."""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from monai_u2.data.phantom.anatomy import render_case
from monai_u2.data.phantom.cases import draw_case
from monai_u2.data.phantom.dicom_series import write_dicom_series
from monai_u2.data.phantom.findings import FINDING_LABELS, PhantomCase
from monai_u2.data.phantom.report import PhantomReport, write_report
from monai_u2.data.records import write_text_atomically


def case_name(case_number: int) -> str:
    """Return the name that a case's files have."""
    return f"case_{case_number:06d}"


def is_written(root: Path, number: int, *, dicom: bool) -> bool:
    """Tell whether all files of a case are there."""
    name = case_name(number)
    files = [root / "images" / f"{name}.nii.gz", root / "masks" / f"{name}.nii.gz", root / "truth" / f"{name}.json"]
    return all(file.exists() for file in files) and (not dicom or (root / "dicom" / name).exists())


def write_cases(root: Path, numbers: Iterable[int], *, dicom: bool, difficulty: str = "default") -> None:
    """Render cases and write their files into a data set's folder, the truth last."""
    from nibabel import Nifti1Image, save

    for number in numbers:
        name = case_name(number)
        case = draw_case(number, difficulty)
        hu, mask, affine = render_case(case)
        for folder, array in (("images", hu), ("masks", mask)):
            volume = Nifti1Image(array, affine)
            volume.header.set_xyzt_units("mm")
            _write_whole(root / folder / f"{name}.nii.gz", lambda path, volume=volume: save(volume, path))
        if dicom:
            _write_whole(
                root / "dicom" / name,
                lambda path, hu=hu, affine=affine, name=name: write_dicom_series(hu, affine, path, patient_id=name),
            )
        truth = describe_truth(case, write_report(case), affine)
        write_text_atomically(root / "truth" / f"{name}.json", json.dumps(truth, indent=1) + "\n")


def _write_whole(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file or folder under a temporary name with the same ending, then move it to its place in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}.{target.name}")
    try:
        write(temporary)
        if temporary.is_dir() and target.exists():
            return  # another process was faster; the series is the same
        os.replace(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def describe_truth(case: PhantomCase, report: PhantomReport, affine: np.ndarray) -> dict[str, Any]:
    """Return the truth of a case as it is written to JSON.

    Args:
        affine: of the stored volume, from voxel index to patient mm, RAS+.

    Returns:
        ``case``; ``labels``; ``label_vector`` (0 or 1 for each of ``FINDING_LABELS``); ``findings``, each with
        ``label``, ``kind``, ``location``, ``center_lps_mm``, ``center_voxel`` (rounded index into the stored volume),
        ``mask_value``, ``size_mm``, ``severity``, ``volume_ml``, ``height_loss`` (null where they don't apply);
        ``report``; ``sentences``, see :class:`~monai_u2.data.phantom.report.PhantomReport`; ``difficulty``, where it
        isn't the default one.
    """
    to_voxel = np.linalg.inv(affine)
    findings = []
    for finding in case.findings:
        x, y, z = finding.center
        voxel = to_voxel @ np.array([x, y, z, 1.0])
        findings.append(
            {
                "label": finding.label,
                "kind": finding.kind,
                "location": finding.location,
                "center_lps_mm": [-x, -y, z],
                "center_voxel": [round(float(index)) for index in voxel[:3]],
                "mask_value": FINDING_LABELS.index(finding.label) + 1,
                "size_mm": finding.size_mm,
                "severity": finding.severity,
                "volume_ml": finding.volume_ml,
                "height_loss": finding.height_loss,
            }
        )
    truth = {
        "case": case.number,
        "labels": case.labels,
        "label_vector": [int(label in case.labels) for label in FINDING_LABELS],
        "findings": findings,
        "report": report.text,
        "sentences": report.sentences,
    }
    return truth if case.difficulty == "default" else {**truth, "difficulty": case.difficulty}


if __name__ == "__main__":
    folder, form, step, *numbers = sys.argv[1:]
    write_cases(Path(folder), map(int, numbers), dicom=form == "dicom", difficulty=step)
