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

"""What a phantom patient may have: the list of findings, and the case that carries them."""

from __future__ import annotations

from dataclasses import dataclass

from monai_u2.data.phantom.geometry import LOBES, SIDES, Anatomy, Point

SEED = 20_250_117
SPLIT_RANGES: dict[str, tuple[int, int]] = {
    "train": (0, 100_000),
    "validation": (100_000, 200_000),
    "test": (200_000, 300_000),
}
"""Case numbers of each split: first, and one after the last."""

_LOCATIONS: dict[str, tuple[str, ...]] = {
    "lung nodule": LOBES,
    "consolidation": LOBES,
    "pleural effusion": SIDES,
    "cardiomegaly": (),
    "aortic aneurysm": (),
    "hypodense liver lesion": ("right lobe", "left lobe"),
    "hyperdense liver lesion": ("right lobe", "left lobe"),
    "splenomegaly": (),
    "kidney stone": SIDES,
    "hydronephrosis": SIDES,
    "renal cyst": SIDES,
    "vertebral fracture": ("thoracic spine", "lumbar spine"),
}
FINDING_KINDS: tuple[str, ...] = tuple(_LOCATIONS)


def finding_label(kind: str, location: str | None) -> str:
    """Return the canonical label, such as "lung nodule, right upper lobe" or "cardiomegaly"."""
    return f"{kind}, {location}" if location else kind


def finding_locations(kind: str) -> tuple[str, ...]:
    """Return the places that a kind of finding can take, () where it has only one."""
    return _LOCATIONS[kind]


FINDING_LABELS: tuple[str, ...] = tuple(
    finding_label(kind, location) for kind, locations in _LOCATIONS.items() for location in (locations or (None,))
)
"""All labels; the lesion mask holds i + 1 where label i is."""


@dataclass(frozen=True)
class PhantomFinding:
    """One finding and what is needed to draw it.

    Args:
        label: canonical label, one of :data:`FINDING_LABELS`.
        kind: one of :data:`FINDING_KINDS`.
        location: lobe, side or region; None where the kind has only one place.
        center: x, y, z in patient mm, RAS+, in the frame of the image's affine.
        size_mm: largest diameter (spleen: length; aneurysm: diameter; heart: width); None for effusion and fracture.
        severity: "small", "moderate", "large" (effusion), "mild", "moderate", "severe" (hydronephrosis; fracture, by a
            height loss of 25% and 40% as in https://doi.org/10.1002/jbmr.5650080915).
        radii: semi-axes (mm) of a lesion that is drawn as an ellipsoid; () for the others.
        hu: attenuation of what is drawn, None where the organ's own counts.
        volume_ml: of an effusion.
        level: height (mm) up to which an effusion fills the pleura, see ``Anatomy.effusion_height``.
        height_loss: of a fractured vertebral body, 0 to 1.
    """

    label: str
    kind: str
    location: str | None
    center: Point
    size_mm: float | None = None
    severity: str | None = None
    radii: tuple[float, ...] = ()
    hu: float | None = None
    volume_ml: float | None = None
    level: float | None = None
    height_loss: float | None = None


@dataclass(frozen=True)
class Grid:
    """How the case is sampled: voxels along x, y, z, their size (mm), the first voxel's center and the frame's shift.

    ``shift`` is added to the anatomy's coordinates to give patient coordinates; ``axcodes`` is the stored axis order.
    """

    shape: tuple[int, int, int]
    spacing: Point
    origin: Point
    shift: Point
    axcodes: str


@dataclass(frozen=True)
class PhantomCase:
    """One drawn case: patient, findings, grid, noise (standard deviation in HU) and the difficulty it was drawn for."""

    number: int
    findings: tuple[PhantomFinding, ...]
    anatomy: Anatomy
    grid: Grid
    noise: float
    difficulty: str = "default"

    @property
    def labels(self) -> list[str]:
        """Labels of the findings, in the findings' order."""
        return [finding.label for finding in self.findings]


def split_of(case_number: int) -> str:
    """Return the split that a case number belongs to.

    Raises:
        ValueError: for a number outside of :data:`SPLIT_RANGES`.
    """
    for split, (first, end) in SPLIT_RANGES.items():
        if first <= case_number < end:
            return split
    raise ValueError(f"case number {case_number} belongs to no split: expected one of {SPLIT_RANGES}")
