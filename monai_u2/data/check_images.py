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

"""What a CT's file shows of whether it can be trained on: read once, measured, and compared with what CTs are like."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_u2.exceptions import ConstantImageError, ImageGeometryError, InputError

if TYPE_CHECKING:
    from monai.data import MetaTensor

SPACING_MM = (0.1, 20.0)
EXTENT_MM = (20.0, 2500.0)

_SAMPLED_VOXELS = 100_000  # at most
_PADDING_BELOW_HU, _AIR_BELOW_HU, _SOFT_TISSUE_HU, _DENSE_ABOVE_HU = -1300.0, -500.0, (-150.0, 300.0), 700.0
_CUT_BELOW_HU = 900.0  # a range that ends above it has kept what matters of bone
_INTERCEPTS = (1024, 1000, 8192, 32768)  # what stored numbers are above HU in scanners' files

Findings = list[tuple[str, str]]


def check_image(task: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Read one CT and look for what is wrong with it.

    Args:
        task: path, and the record's values of :data:`~monai_u2.data.records.HEADER_KEYS`.

    Returns:
        ``findings``: pairs of a finding's name and its details. Where the file could be read also ``series`` (16 hex
        digits of its content), ``shape``, ``spacing_mm``, ``extent_mm`` (along the array's axes), ``orientation`` and
        ``hu`` (min, max, and on a sample of the voxels the percentiles p1, median and p99); of pictures and .npy files
        the first two.
    """
    path, corrections = task
    from monai_u2.transforms.load import describe_ct

    if _is_windowed(path):
        return _check_windowed(path)
    try:
        stored = _read(path, corrections)
        image = correct_header(stored, corrections)
    except ConstantImageError as error:
        return {"findings": [("constant", str(error))]}
    except ImageGeometryError as error:
        return {"findings": [("geometry", str(error))]}
    except Exception as error:  # whatever a decoder raises, the other images are still to be checked
        return {"findings": [("unreadable", _reason(error, path))]}
    description = describe_ct(image)
    sample, hu = _measure_hu(image)
    findings = list(_check_geometry(description, image.affine.cpu().numpy()))
    findings += [("header", text) for text in description["warnings"]]
    findings += _check_hu(sample, hu, None if image is stored else _measure_hu(stored)[0])
    kept = {key: description[key] for key in ("series", "shape", "spacing_mm", "extent_mm", "orientation")}
    return {"findings": findings, **kept, "hu": hu}


def read_geometry(task: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Read the geometry of one CT; of a NIfTI file only the header.

    Args:
        task: path, and the record's values of :data:`~monai_u2.data.records.HEADER_KEYS`.

    Returns:
        ``spacing_mm`` and ``extent_mm`` from left to right, front to back, head to foot; or ``reason``, why it can't
        be read.
    """
    path, corrections = task
    if _is_windowed(path):
        return {"reason": "pictures of a display window, without voxel size"}
    import nibabel as nib
    import torch
    from monai.data import MetaTensor

    try:
        if path.lower().endswith((".nii", ".nii.gz")):
            header = nib.load(path)
            # voxels without memory: only the shape and the affine count
            image = MetaTensor(torch.zeros(()).expand(1, *header.shape[:3]), affine=torch.as_tensor(header.affine))
        else:
            image = _read(path, corrections)
        geometry = {key: value for key, value in corrections.items() if not key.startswith("rescale")}
        image = correct_header(image, geometry)
    except Exception as error:  # as in check_image
        return {"reason": _reason(error, path)}
    affine, shape = image.affine.cpu().numpy(), image.shape[1:]
    if len(shape) != 3:
        return {"reason": f"{len(shape)} axes; expected 3"}
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = nib.io_orientation(affine)[:, 0]
    if not (np.isfinite(axes).all() and np.isfinite(spacing).all() and spacing.all()):
        return {"reason": "its affine gives the voxels no place in the patient"}
    places = [int(np.flatnonzero(axes == axis)[0]) for axis in range(3)]
    return {
        "spacing_mm": [round(float(spacing[place]), 4) for place in places],
        "extent_mm": [round(float(spacing[place] * shape[place]), 1) for place in places],
    }


def correct_header(image: MetaTensor, corrections: Mapping[str, Any]) -> MetaTensor:
    """Apply the corrections of a record to an image (1, X, Y, Z) as its file gives it.

    Args:
        image: see :class:`~monai_u2.transforms.LoadCT`.
        corrections: the record's values of :data:`~monai_u2.data.records.HEADER_KEYS`.
    """
    from monai_u2.transforms.header import CorrectHeader

    return CorrectHeader()(image, **{key: value for key, value in corrections.items() if key != "volume_index"})


def _read(path: str, corrections: Mapping[str, Any]) -> MetaTensor:
    """Read as :class:`~monai_u2.transforms.LoadCT` does, but leave the voxels in the file's order: turning them takes
    as long as unpacking them."""
    from monai.data import MetaTensor

    from monai_u2.data.ct_reader import CTReader

    reader = CTReader()
    array, meta = reader.get_data(reader.read(path, corrections.get("volume_index")))
    return MetaTensor(array[None].astype(np.float32, copy=False), meta=meta)


def _is_windowed(path: str) -> bool:
    """Whether :class:`~monai_u2.transforms.LoadWindowedVolume` reads it: a ``.npy``, or a folder of pictures."""
    from monai_u2.transforms.windowed import list_pictures

    if not os.path.isdir(path):
        return path.endswith(".npy")
    files = [file for file in Path(path).iterdir() if file.is_file() and not file.name.startswith(".")]
    return bool(files) and len(list_pictures(Path(path))) == len(files)  # else a DICOM series beside its thumbnail


def _check_windowed(path: str) -> dict[str, Any]:
    """Read gray values of pictures; their shape is all that there is to measure."""
    from monai_u2.transforms.windowed import LoadWindowedVolume

    try:
        volume = LoadWindowedVolume()(path)
    except Exception as error:  # as in check_image
        return {"findings": [("unreadable", _reason(error, path))]}
    series = hashlib.sha256(volume.numpy().data).hexdigest()[:16]
    text = "pictures of a display window: gray values without HU and voxel size, not to be mixed with CT in HU"
    return {"findings": [("hu_windowed", text)], "series": series, "shape": list(volume.shape[1:])}


def _reason(error: Exception, path: str) -> str:
    """Say in one line what went wrong, without the folders above the file: a check may be passed on."""
    reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return " ".join(reason.replace(os.path.join(os.path.dirname(path), ""), "").split())


def _measure_hu(image: MetaTensor) -> tuple[np.ndarray, dict[str, float]]:
    """Return a sample of the voxels of an image (1, X, Y, Z), and its range and percentiles."""
    voxels = image.as_tensor().numpy()[0]
    step = math.ceil((voxels.size / _SAMPLED_VOXELS) ** (1 / 3))
    sample = voxels[::step, ::step, ::step].ravel(order="K")
    numbers = [voxels.min(), *np.quantile(sample, [0.01, 0.5, 0.99]), voxels.max()]
    return sample, {name: round(float(hu), 3) for name, hu in zip(("min", "p1", "median", "p99", "max"), numbers)}


def _check_geometry(description: Mapping[str, Any], affine: np.ndarray) -> Iterable[tuple[str, str]]:
    spacing, extent = description["spacing_mm"], description["extent_mm"]
    if np.array_equal(affine, np.diag([-1.0, -1.0, 1.0, 1.0])) or np.array_equal(affine, np.eye(4)):
        yield (
            "geometry",
            "the affine is the identity: 1 mm in every direction and no position, as if the header was lost",
        )
    if not all(SPACING_MM[0] <= mm <= SPACING_MM[1] for mm in spacing):
        yield "geometry", f"voxels of {_by(spacing)} mm; expected {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm"
    elif not all(EXTENT_MM[0] <= mm <= EXTENT_MM[1] for mm in extent):
        yield "geometry", f"it covers {_by(extent)} mm; expected {EXTENT_MM[0]:g} to {EXTENT_MM[1]:g} mm"


def _check_hu(sample: np.ndarray, hu: Mapping[str, float], stored: np.ndarray | None) -> Findings:
    """Look for what is wrong with an image's values.

    Args:
        sample: some of the voxels.
        hu: range and percentiles.
        stored: the same voxels without the record's rescale; None where it has none.
    """
    low, high = hu["min"], hu["max"]
    if (sample == np.median(sample)).mean() >= 0.999:
        return [("constant", f"all but a few voxels are {hu['median']:g}; expected a CT")]
    values = f"values from {low:g} to {high:g}, median {hu['median']:g}"
    if low >= -1 and high <= 255:
        kind = "0 to 255, as in an 8-bit picture" if high > 1 else "−1 or 0 to 1"
        return [("hu_windowed", f"{values}: they were windowed and scaled to {kind}; expected HU")]
    if _is_like_ct(sample):
        if high < _CUT_BELOW_HU and (sample == high).mean() >= 0.001:
            return [("hu_cut", f"{values}: cut off at {high:g} HU, so that what is denser looks the same")]
        return []
    if stored is not None and _is_like_ct(stored):
        text = "the file's numbers are plausible before the record's rescale_slope and rescale_intercept are applied"
        return [("hu_rescaled_twice", f"{values}: {text}; it seems to hold HU already")]
    for intercept in _INTERCEPTS:
        if _is_like_ct(sample - intercept):
            text = f"about {intercept} too high: the rescale intercept was not applied, or the numbers lost their sign"
            return [("hu_offset", f"{values}: {text}")]
        if _is_like_ct(sample + intercept):
            return [("hu_rescaled_twice", f"{values}: about {intercept} too low: the rescale was applied twice")]
    if low > _AIR_BELOW_HU and (sample == low).mean() >= 0.05 and (sample == high).mean() >= 0.001:
        return [("hu_cut", f"{values}: cut to a window, so that lung and bone can't be told from what is beside them")]
    return [("hu_implausible", f"{values}; expected air near -1000, fat and soft tissue from -150 to 300 HU")]


def _is_like_ct(hu: np.ndarray) -> bool:
    """Whether values have air, enough soft tissue, little denser than bone, nothing below air but padding."""
    air = (hu < _AIR_BELOW_HU).mean()
    soft = ((hu >= _SOFT_TISSUE_HU[0]) & (hu <= _SOFT_TISSUE_HU[1])).mean()
    dense = (hu > _DENSE_ABOVE_HU).mean()
    odd = ((hu < _PADDING_BELOW_HU) & (hu > hu.min())).mean()
    return bool(air >= 1e-4 and soft >= 0.05 and dense <= 0.1 and odd <= 0.01)


def _by(numbers: Sequence[float]) -> str:
    return " × ".join(f"{number:g}" for number in numbers)
