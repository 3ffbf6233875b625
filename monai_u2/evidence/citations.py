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


"""Citations: the place in the patient that a sentence rests on, in voxels of the CT and in mm (LPS)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from monai.utils import optional_import

from monai_u2.evidence.maps import TokenGrid

ndimage, _ = optional_import("scipy.ndimage")

# what belongs to the place of a peak: connected with it, and at least this share of its height
REGION_SHARE = 0.5
# log-odds of a hit, `a + b ln(concentration)`: fitted on 123 true sentences of the shipped model about 40 phantoms,
# validation cases 100000 to 100039
CONFIDENCE = (4.757, 3.328)
_TO_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Place:
    """Where a map has its peak.

    Args:
        peak_lps_mm: the peak in mm, LPS.
        center_lps_mm: middle of the evidence in the region around the peak.
        box_lps_mm: lowest and highest corner of that region.
        peak_voxel: index of the voxel of the CT at the peak.
        center_voxel: index of the voxel at the middle.
        box_voxel: lowest and highest index of the region, both in it.
        slices: lowest and highest index along the CT's most axial axis, and which axis that is.
        concentration: share of the map's evidence within one token of the peak, 0 to 1.
        spread: entropy of the map over that of an even one on the body, 0 to 1.
        confidence: how likely the peak lies within a token of what the sentence names, where that is there, 0 to 1.
    """

    peak_lps_mm: list[float]
    center_lps_mm: list[float]
    box_lps_mm: list[list[float]]
    peak_voxel: list[int]
    center_voxel: list[int]
    box_voxel: list[list[int]]
    slices: dict[str, int]
    concentration: float
    spread: float
    confidence: float


def peak_region(fine: np.ndarray) -> np.ndarray:
    """Boolean: what is connected with the peak of a map, and at least :data:`REGION_SHARE` as high."""
    parts, _ = ndimage.label(fine >= REGION_SHARE * fine.max())
    return parts == parts[np.unravel_index(fine.argmax(), fine.shape)]


def locate(fine: np.ndarray, body: np.ndarray, grid: TokenGrid, affine: np.ndarray, shape: Sequence[int]) -> Place:
    """The place of a sentence's evidence.

    Args:
        fine: the sentence's map on the fine grid, above 0 somewhere and nowhere outside of the body.
        body: boolean, where the body is.
        grid: the case's tokens.
        affine: of the CT, voxel index to RAS mm `(4, 4)`.
        shape: of the CT `(X, Y, Z)`.
    """
    peak = np.array(np.unravel_index(fine.argmax(), fine.shape))
    region = peak_region(fine)
    places = np.argwhere(region)
    center = np.average(places, axis=0, weights=fine[region])
    # a region's corners lie half a cell beyond the middles of its outermost cells
    corners = np.array(list(itertools.product(*zip(places.min(axis=0) - 0.5, places.max(axis=0) + 0.5))))
    corners_mm = _apply(grid.fine_affine, corners)
    to_voxel, last = np.linalg.inv(affine), np.array(shape) - 1
    corners_voxel = _apply(to_voxel, corners_mm)
    # a voxel is in the box where its middle is; there is at least one
    low = np.clip(np.ceil(corners_voxel.min(axis=0) - 1e-6), 0, last).astype(int)
    high = np.clip(np.floor(corners_voxel.max(axis=0) + 1e-6), low, last).astype(int)
    peak_mm, center_mm = _apply(grid.fine_affine, peak), _apply(grid.fine_affine, center)
    axis = int(np.abs(affine[2, :3] / np.linalg.norm(affine[:3, :3], axis=0)).argmax())
    corners_lps = corners_mm * _TO_LPS
    concentration = float(fine[_around(peak, grid, fine.shape)].sum() / fine.sum())
    return Place(
        peak_lps_mm=_rounded(peak_mm * _TO_LPS),
        center_lps_mm=_rounded(center_mm * _TO_LPS),
        box_lps_mm=[_rounded(corners_lps.min(axis=0)), _rounded(corners_lps.max(axis=0))],
        peak_voxel=_voxel(_apply(to_voxel, peak_mm), last),
        center_voxel=_voxel(_apply(to_voxel, center_mm), last),
        box_voxel=[low.tolist(), high.tolist()],
        slices={"axis": axis, "first": int(low[axis]), "last": int(high[axis])},
        concentration=concentration,
        spread=_entropy(fine) / float(np.log(max(int(body.sum()), 2))),
        confidence=float(1 / (1 + np.exp(-CONFIDENCE[0] - CONFIDENCE[1] * np.log(concentration)))),
    )


def _around(peak: np.ndarray, grid: TokenGrid, shape: Sequence[int]) -> tuple[slice, ...]:
    reach = np.array(shape) // np.array(grid.shape)
    return tuple(slice(max(middle - cells, 0), middle + cells + 1) for middle, cells in zip(peak, reach))


def _entropy(fine: np.ndarray) -> float:
    shares = fine[fine > 0] / fine.sum()
    return float(-(shares * np.log(shares)).sum())


def _apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ affine[:3, :3].T + affine[:3, 3]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 1) for value in values]


def _voxel(index: np.ndarray, last: np.ndarray) -> list[int]:
    return np.clip(np.rint(index), 0, last).astype(int).tolist()
