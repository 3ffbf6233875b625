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


"""The CT that a report is about, as the NIfTI file that a browser can show."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_u2.exceptions import InputError

# where the CT lies: report.json itself holds no path, since these often name a patient
IMAGE_FILE = "viewer.json"
PREVIEW_VOXELS = 2_500_000
"""Above so many voxels a page shows fewer first."""


def remember_image(folder: Path, image: Path, series_uid: str | None = None) -> None:
    """Write beside a report where its CT lies, so that :func:`remembered_image` finds it."""
    content = {"image": os.path.abspath(image), "series_uid": series_uid}
    (folder / IMAGE_FILE).write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def remembered_image(folder: Path) -> tuple[Path, str | None]:
    """Path and SeriesInstanceUID (None where none was chosen) of a report's CT.

    Raises:
        InputError: nothing is remembered, or the file isn't what :func:`remember_image` writes.
    """
    file = folder / IMAGE_FILE
    if not file.is_file():
        raise InputError(f"{folder}: no {IMAGE_FILE} in it, so the CT isn't known. Give the CT with --image PATH.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Path(content["image"]), content["series_uid"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: can't be read ({error!r}). Give the CT with --image PATH.") from error


def nifti_of(image: Path, series: str | None, folder: Path, series_uid: str | None = None) -> Path:
    """Return a NIfTI file of a CT: the file itself, or one in ``folder`` where it is of another kind.

    A NIfTI whose header can be read in two ways is written anew, too, with the one orientation that the report rests
    on: a viewer may choose the other.

    Args:
        image: what :class:`monai_u2.transforms.LoadCT` reads.
        series: ``geometry.series`` of the report; None: not compared.
        folder: where to write, where that is needed.
        series_uid: SeriesInstanceUID to read where a DICOM folder holds several.

    Raises:
        InputError: the CT can't be read, or is another one than the report's.
    """
    if not image.exists():
        raise InputError(
            f"{image}: no such file or folder; expected the report's CT. Give its place with --image PATH."
        )
    if _is_plain_nifti(image):
        _check_series(image, hashlib.sha256(image.read_bytes()).hexdigest()[:16], series)
        return image
    from monai_u2.transforms import LoadCT

    loaded = LoadCT(series_uid)(image)
    _check_series(image, loaded.meta["series"], series)
    affine = loaded.affine.cpu().numpy()
    converted = nib.Nifti1Image(_as_whole_numbers(loaded.numpy()[0]), affine)
    converted.set_sform(affine, code=1)
    converted.set_qform(affine, code=0)
    converted.header.set_xyzt_units("mm")
    nib.save(converted, folder / "ct.nii")
    return folder / "ct.nii"


def preview_of(ct: Path, folder: Path) -> Path | None:
    """Write every second, third, … voxel of a large CT, for a page to show while the whole of it loads.

    Args:
        ct: NIfTI file, see :func:`nifti_of`.
        folder: where to write.

    Returns:
        A NIfTI file in the same patient coordinates of at most ``PREVIEW_VOXELS`` voxels, along whose axes the voxels
        are about equally far apart; None for a CT that has no more than that itself.
    """
    image = nib.load(ct)
    shape, spacing = np.array(image.shape), np.array(image.header.get_zooms())
    steps = np.ones(3, dtype=int)
    while np.prod(-(-shape // steps)) > PREVIEW_VOXELS:
        steps[np.argmin(np.where(steps < shape, spacing * steps, np.inf))] += 1
    if steps.max() == 1:
        return None
    reduced = image.slicer[tuple(slice(None, None, int(step)) for step in steps)]
    preview = nib.Nifti1Image(_as_whole_numbers(np.asarray(reduced.dataobj, dtype=np.float32)), reduced.affine)
    preview.header.set_xyzt_units("mm")
    nib.save(preview, folder / "preview.nii")
    return folder / "preview.nii"


def _as_whole_numbers(array: np.ndarray) -> np.ndarray:
    """The same values in int16, where that holds them: half of float32."""
    whole = np.rint(array)
    return whole.astype(np.int16) if np.array_equal(whole, array) and np.abs(array).max() < 2**15 else array


def _is_plain_nifti(image: Path) -> bool:
    if not image.is_file() or not image.name.lower().endswith((".nii", ".nii.gz")):
        return False
    try:
        header = nib.load(image).header
    except (nib.filebasedimages.ImageFileError, OSError, ValueError):
        return False  # what reads it with all checks says what is wrong with it
    affines = [affine for affine, code in (header.get_sform(True), header.get_qform(True)) if code]
    same = bool(affines) and np.allclose(affines[0], affines[-1], atol=1e-2)
    return same and isinstance(header, nib.Nifti1Header) and len(header.get_data_shape()) == 3


def _check_series(image: Path, found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        raise InputError(
            f"{image}: is another CT than the report's (series {found}, expected {expected}). "
            "Give the report's own with --image PATH."
        )
