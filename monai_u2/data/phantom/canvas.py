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

"""The volume that a phantom is painted on."""

from __future__ import annotations

from typing import Any

import numpy as np

from monai_u2.data.phantom.findings import FINDING_LABELS, SEED, PhantomCase, PhantomFinding
from monai_u2.data.phantom.geometry import Anatomy, Ellipsoid, Point

Box = tuple[slice, slice, slice]


class Canvas:
    """The volume while it is painted, axes in RAS order and coordinates of the anatomy (mm)."""

    def __init__(self, case: PhantomCase) -> None:
        self.case = case
        self.anatomy: Anatomy = case.anatomy
        grid = case.grid
        self.rng = np.random.default_rng([SEED, case.number, 1])
        self.hu = np.full(grid.shape, -1000.0, np.float32)
        self.mask = np.zeros(grid.shape, np.uint8)
        self.axes = tuple(
            (origin + spacing * np.arange(count)).astype(np.float32)
            for origin, spacing, count in zip(grid.origin, grid.spacing, grid.shape, strict=True)
        )
        self.edge = grid.spacing[0]
        # findings with their centers in the anatomy's coordinates
        self.findings = [
            (finding, tuple(value - shift for value, shift in zip(finding.center, grid.shift, strict=True)))
            for finding in case.findings
        ]

    def of_kind(self, *kinds: str) -> list[tuple[PhantomFinding, Point]]:
        return [(finding, center) for finding, center in self.findings if finding.kind in kinds]

    def box(self, low: Point, high: Point) -> Box:
        """Return the voxels between two corners (mm), one voxel more on each side."""
        x, y, z = (
            slice(
                max(0, int(np.searchsorted(axis, start)) - 1),
                max(0, min(len(axis), int(np.searchsorted(axis, end)) + 1)),
            )
            for axis, start, end in zip(self.axes, low, high, strict=True)
        )
        return x, y, z

    def coordinates(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x, y, z (mm) of a box, shaped to broadcast."""
        x, y, z = (axis[part] for axis, part in zip(self.axes, box, strict=True))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def ellipsoid(self, shape: Ellipsoid, blur: float = 0.0) -> tuple[Box, np.ndarray]:
        """Return the box of an ellipsoid and its coverage (0 to 1) in there; ``blur`` widens the edge (mm)."""
        (cx, cy, cz), (a, b, c) = shape
        rim = blur / 2.0
        box = self.box((cx - a - rim, cy - b - rim, cz - c - rim), (cx + a + rim, cy + b + rim, cz + c + rim))
        x, y, z = self.coordinates(box)
        distance = np.sqrt(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + ((z - cz) / c) ** 2)
        return box, self.coverage((distance - 1.0) * min(a, b, c), blur)

    def capsule(self, start: Point, end: Point, radius: float) -> tuple[Box, np.ndarray]:
        """Return box and coverage of a thick line."""
        low = tuple(min(pair) - radius for pair in zip(start, end, strict=True))
        high = tuple(max(pair) + radius for pair in zip(start, end, strict=True))
        box = self.box(low, high)
        x, y, z = self.coordinates(box)
        dx, dy, dz = (stop - first for first, stop in zip(start, end, strict=True))
        x, y, z = x - start[0], y - start[1], z - start[2]
        along = np.clip((x * dx + y * dy + z * dz) / max(dx * dx + dy * dy + dz * dz, 1e-6), 0.0, 1.0)
        distance = np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2 + (z - along * dz) ** 2)
        return box, self.coverage(distance - radius)

    def coverage(self, distance: np.ndarray, blur: float = 0.0) -> np.ndarray:
        """Return how much of a voxel is covered, from the distance (mm) of its center to a surface."""
        return np.clip(0.5 - distance / (self.edge + blur), 0.0, 1.0)

    def paint(self, box: Box, coverage: np.ndarray, value: Any) -> None:
        """Paint a shape over what is there; a finding below it is no longer seen and leaves the mask."""
        region = self.hu[box]
        region += coverage * (value - region)
        self.mask[box][np.broadcast_to(coverage > 0.5, region.shape)] = 0

    def mark(self, box: Box, region: np.ndarray, finding: PhantomFinding) -> None:
        self.mask[box][region] = FINDING_LABELS.index(finding.label) + 1

    def paint_finding(self, box: Box, coverage: np.ndarray, finding: PhantomFinding) -> None:
        """Paint a finding with its own attenuation and mark it."""
        self.paint(box, coverage, finding.hu)
        self.mark(box, coverage > 0.5, finding)
