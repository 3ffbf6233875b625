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


"""The slices of a CT series: where each lies, how its values become HU, and whether they make a regular volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_u2.exceptions import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Frame", "frames_of", "stack_frames"]

# a tilt up to this angle shifts a 500 mm stack by less than a millimeter
MAX_TILT_DEGREES = 0.1
# positions are often written with one decimal: a regular stack may be off by this much, or by a tenth of its distance
POSITION_TOLERANCE_MM = 0.1
MIN_SLICE_DISTANCE_MM = 0.01


@dataclass(frozen=True)
class Frame:
    """One slice: the ``index``-th frame of its file, its geometry in LPS mm, and its rescale to HU.

    ``orientation`` holds two unit rows: the direction in which a column index grows, then that of a row index.
    ``pixel_spacing`` is (between rows, between columns) as in DICOM.
    """

    file: Path
    index: int
    position: np.ndarray
    orientation: np.ndarray
    pixel_spacing: np.ndarray
    size: tuple[int, int]
    slope: float
    intercept: float


def frames_of(file: Path, dataset: Dataset) -> list[Frame]:
    """Geometry of a file's slices: one for a classic image, one per frame for an enhanced CT."""
    if int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise InputError(f"{file.name}: a color image ({dataset.SamplesPerPixel} samples per pixel); expected HU.")
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise InputError(
                f"{file.name}: a multi-frame image of {dataset.NumberOfFrames} frames without a position for each "
                "(no PerFrameFunctionalGroupsSequence); expected an Enhanced CT, or one file per slice. "
                "Export it as one of these."
            )
        return [_frame(file, 0, [], dataset)]
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])
    return [
        _frame(file, index, [group, *shared], dataset)
        for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence)
    ]


def _frame(file: Path, index: int, groups: Sequence[Dataset], dataset: Dataset) -> Frame:
    where = f"{file.name}, frame {index + 1}" if groups else file.name

    def value(keyword: str, macro: str) -> Any:
        sources = [group[macro][0] for group in groups if group.get(macro)] + [dataset]
        return next((source.get(keyword) for source in sources if source.get(keyword) not in (None, "")), None)

    def required(keyword: str, macro: str, purpose: str) -> Any:
        found = value(keyword, macro)
        if found is None:
            raise InputError(f"{where}: {keyword} is missing, so {purpose} isn't known. Export the series with it.")
        return found

    orientation = np.array(required("ImageOrientationPatient", "PlaneOrientationSequence", "left and right"), float)
    position = np.array(required("ImagePositionPatient", "PlanePositionSequence", "the slice's place"), float)
    spacing = np.array(required("PixelSpacing", "PixelMeasuresSequence", "the size in mm"), float)
    rows = orientation.reshape(2, -1)
    if rows.shape != (2, 3) or not np.allclose(rows @ rows.T, np.eye(2), atol=1e-3):
        raise InputError(
            f"{where}: ImageOrientationPatient is {orientation.tolist()}; expected two unit vectors at right angles. "
            "Export the series again."
        )
    if spacing.shape != (2,) or position.shape != (3,) or not (spacing > 0).all() or not np.isfinite(position).all():
        raise InputError(
            f"{where}: PixelSpacing is {spacing.tolist()} mm, ImagePositionPatient {position.tolist()}; "
            "expected two positive numbers and a place in space. Export the series again."
        )
    kind = str(value("RescaleType", "PixelValueTransformationSequence") or "HU").upper()
    if kind not in ("HU", "US"):  # "US" is unspecified, what many scanners write for HU
        raise InputError(f"{where}: RescaleType is {kind}; expected HU. Give the CT itself, not a map made from it.")
    slope = float(required("RescaleSlope", "PixelValueTransformationSequence", "HU"))
    intercept = float(required("RescaleIntercept", "PixelValueTransformationSequence", "HU"))
    if not (np.isfinite(slope) and slope and np.isfinite(intercept)):
        raise InputError(
            f"{where}: RescaleSlope is {slope:g}, RescaleIntercept {intercept:g}; expected numbers that give HU, the "
            "slope not 0. Export the series again."
        )
    return Frame(
        file=file,
        index=index,
        position=position,
        orientation=rows / np.linalg.norm(rows, axis=1, keepdims=True),
        pixel_spacing=spacing,
        size=(int(dataset.Rows), int(dataset.Columns)),
        slope=slope,
        intercept=intercept,
    )


def stack_frames(frames: Sequence[Frame]) -> tuple[list[Frame], np.ndarray]:
    """Sort frames along their normal and return them with the affine (voxel index -> RAS mm) of a regular stack."""
    first = frames[0]
    for frame in frames[1:]:
        for what, one, other, same in (
            ("size (rows, columns)", first.size, frame.size, first.size == frame.size),
            (
                "PixelSpacing",
                first.pixel_spacing.tolist(),
                frame.pixel_spacing.tolist(),
                np.allclose(first.pixel_spacing, frame.pixel_spacing, rtol=1e-3),
            ),
            (
                "ImageOrientationPatient",
                first.orientation.round(4).tolist(),
                frame.orientation.round(4).tolist(),
                np.allclose(first.orientation, frame.orientation, atol=1e-3),
            ),
        ):
            if not same:
                raise InputError(
                    f"{first.file.name} and {frame.file.name}: {what} differs within the series ({one} and {other}); "
                    "expected the same for all slices. Give a folder with one reconstruction."
                )
    normal = np.cross(*first.orientation)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    positions = np.stack([frame.position for frame in frames])
    _check_distances(frames, positions @ normal)
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    distance = float(np.linalg.norm(step))
    tilt = math.degrees(math.acos(min(1.0, float(step @ normal) / distance)))
    if tilt > MAX_TILT_DEGREES:
        raise InputError(
            f"{first.file.parent.name}: gantry tilt of {tilt:.1f} degrees (the stack runs at this angle to the slices' "
            "normal); expected a stack at right angles to its slices. Give a series reconstructed without tilt."
        )
    off = np.abs(positions - (positions[0] + np.arange(len(frames))[:, None] * step)).max(axis=1)
    if off.max() > max(POSITION_TOLERANCE_MM, 0.1 * distance):
        worst = int(off.argmax())
        raise InputError(
            f"{frames[worst].file.name}: it lies {off[worst]:.2f} mm off the regular stack of {len(frames)} slices "
            f"with distance {distance:.2f} mm; expected evenly spaced slices. Give a series with one slice distance."
        )
    row_mm, column_mm = first.pixel_spacing
    affine = np.eye(4)
    # a column index runs along the first vector, in steps of the spacing between columns, the second value
    affine[:3, 0] = first.orientation[0] * column_mm
    affine[:3, 1] = first.orientation[1] * row_mm
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return frames, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _check_distances(frames: Sequence[Frame], heights: np.ndarray) -> None:
    gaps = np.diff(heights)
    typical = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    for i, gap in enumerate(gaps):
        names = f"{_label(frames[i])} and {_label(frames[i + 1])}"
        if gap < MIN_SLICE_DISTANCE_MM:
            raise InputError(
                f"{names}: two slices at the same position ({heights[i]:.2f} mm along the stack); expected each once. "
                "Remove the copies, or separate the phases or reconstructions."
            )
        if gap > 1.5 * typical:
            raise InputError(
                f"{names}: a gap of {gap:.2f} mm between them ({heights[i]:.2f} to {heights[i + 1]:.2f} mm along the "
                f"stack) where the slice distance is {typical:.2f} mm: about {round(gap / typical) - 1} slice(s) "
                "missing. Give the whole series."
            )


def _label(frame: Frame) -> str:
    return f"{frame.file.name} (frame {frame.index + 1})" if frame.index else frame.file.name
