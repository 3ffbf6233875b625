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

"""The draw of one phantom case from its number: findings, patient, sampling grid."""

from __future__ import annotations

import numpy as np

from monai_u2.data.phantom.difficulty import Difficulty, difficulty_settings
from monai_u2.data.phantom.findings import (
    FINDING_KINDS,
    FINDING_LABELS,
    SEED,
    Grid,
    PhantomCase,
    PhantomFinding,
    finding_label,
    finding_locations,
    split_of,
)
from monai_u2.data.phantom.geometry import LOBES, Anatomy, Draws, Point, draw_anatomy, place_lesion

_NORMAL = 0.11  # patients without any finding, beside those who happen to have none
_PROBABILITY: dict[str, float] = {
    "lung nodule": 0.20,
    "consolidation": 0.20,
    "pleural effusion": 0.19,
    "cardiomegaly": 0.15,
    "aortic aneurysm": 0.15,
    "hypodense liver lesion": 0.17,
    "hyperdense liver lesion": 0.17,
    "splenomegaly": 0.15,
    "kidney stone": 0.17,
    "hydronephrosis": 0.17,
    "renal cyst": 0.17,
    "vertebral fracture": 0.17,
}
_SECOND_NODULE = 0.25
_SNAPPED_MM = 12.0  # liver lesions and cysts below this size lie on a voxel's center

IN_PLANE_SIZES = (96, 112, 128, 144, 160)
AXIS_CODES = ("RAS", "RAS", "LPS", "LPS", "LAS", "RPS", "LPI", "RAI", "PIR", "ASL", "SPL", "IRA")


def draw_case(case_number: int, difficulty: str = "default") -> PhantomCase:
    """Draw a case; everything follows from its number and the difficulty, on every machine.

    Args:
        case_number: the number also tells the split.
        difficulty: one of :data:`~monai_u2.data.phantom.difficulty.DIFFICULTIES`.

    Raises:
        ValueError: for a number outside of :data:`SPLIT_RANGES`.
        InputError: for an unknown difficulty.
    """
    split_of(case_number)
    settings = difficulty_settings(difficulty)
    draws = Draws([SEED, case_number])
    chosen = _draw_labels(draws, settings.frequency)
    kinds = {kind for kind, _ in chosen}
    anatomy = draw_anatomy(
        draws, big_heart="cardiomegaly" in kinds, big_spleen="splenomegaly" in kinds, settings=settings
    )
    grid = _draw_grid(draws, anatomy)
    noise = draws.uniform(*settings.noise)
    findings: list[PhantomFinding] = []
    # Each finding has draws of its own, so that one more try for a place leaves the others alone.
    for index, (kind, location) in enumerate(chosen):
        own = Draws([SEED, case_number, 100 + index])
        findings.append(_draw_finding(own, settings, kind, location, anatomy, grid, findings, chosen))
    in_patient = tuple(_to_patient(finding, grid) for finding in findings)
    return PhantomCase(case_number, in_patient, anatomy, grid, noise, difficulty)


def _draw_labels(draws: Draws, frequency: float) -> list[tuple[str, str | None]]:
    """Draw kind and location of each finding, in the order of :data:`FINDING_KINDS` except that fluid comes first."""
    if draws.chance(_NORMAL):
        return []
    chosen: list[tuple[str, str | None]] = []
    for kind in FINDING_KINDS:
        if not draws.chance(frequency * _PROBABILITY[kind]):
            continue
        locations = finding_locations(kind)
        # A lobe holds one lesion, so that none hides another.
        taken = {location for _, location in chosen if location in LOBES}
        free = [location for location in locations if location not in taken]
        location = draws.pick(free) if free else None
        chosen.append((kind, location))
        if kind == "lung nodule" and draws.chance(_SECOND_NODULE):
            chosen.append((kind, draws.pick([other for other in free if other != location])))
    order = {label: index for index, label in enumerate(FINDING_LABELS)}
    return sorted(chosen, key=lambda item: (item[0] != "pleural effusion", order[finding_label(*item)]))


def _draw_grid(draws: Draws, anatomy: Anatomy) -> Grid:
    size = draws.pick(IN_PLANE_SIZES)
    slices = 64 + int(draws.uniform(0.0, 49.0))
    width = 2.0 * anatomy.body[0]
    field_of_view = draws.uniform(max(360.0, width + 8.0), 430.0)
    pixel = field_of_view / size
    thickness = (anatomy.top - anatomy.bottom) / slices
    slack = min(10.0, (field_of_view - width) / 2.0 - 3.0)
    center_x, center_y = draws.uniform(-slack, slack), draws.uniform(-12.0, 4.0)
    half = pixel * (size - 1) / 2.0
    return Grid(
        shape=(size, size, slices),
        spacing=(pixel, pixel, thickness),
        origin=(center_x - half, center_y - half, anatomy.bottom + thickness / 2.0),
        shift=(draws.uniform(-20.0, 20.0), draws.uniform(-150.0, 150.0), draws.uniform(-900.0, 600.0)),
        axcodes=draws.pick(AXIS_CODES),
    )


def _draw_finding(
    draws: Draws,
    settings: Difficulty,
    kind: str,
    location: str | None,
    anatomy: Anatomy,
    grid: Grid,
    before: list[PhantomFinding],
    chosen: list[tuple[str, str | None]],
) -> PhantomFinding:
    """Draw one finding in the anatomy's coordinates."""
    label = finding_label(kind, location)
    if kind in ("lung nodule", "consolidation"):
        return _draw_lung_lesion(draws, settings, kind, str(location), anatomy, grid, before)
    if kind == "pleural effusion":
        crowded = any(place == f"{location} lower lobe" for _, place in chosen)
        return _draw_effusion(draws, settings, str(location), anatomy, crowded)
    if kind == "cardiomegaly":
        return PhantomFinding(label, kind, None, anatomy.heart.center, size_mm=2.0 * anatomy.heart.radii[0])
    if kind == "splenomegaly":
        return PhantomFinding(label, kind, None, anatomy.spleen.center, size_mm=2.0 * anatomy.spleen.radii[2])
    if kind == "aortic aneurysm":
        diameter = draws.uniform(*settings.sizes[kind])
        center = (
            anatomy.abdominal_aorta[0] * (1.0 - diameter / 140.0),
            anatomy.spine_center + anatomy.spine_radii[1] + 2.0 + diameter / 2.0,
            (-128.0 + draws.uniform(-8.0, 8.0)) * anatomy.scale[2],
        )
        return PhantomFinding(label, kind, None, center, size_mm=diameter, radii=(0.5 * diameter,) * 2 + (45.0,))
    if kind in ("hypodense liver lesion", "hyperdense liver lesion"):
        return _draw_liver_lesion(draws, settings, kind, str(location), anatomy, grid, before, chosen)
    if kind == "vertebral fracture":
        return _draw_fracture(draws, settings.height_loss, str(location), anatomy, grid)
    return _draw_kidney_finding(draws, settings, kind, str(location), anatomy, grid, chosen)


def _draw_lung_lesion(
    draws: Draws,
    settings: Difficulty,
    kind: str,
    lobe: str,
    anatomy: Anatomy,
    grid: Grid,
    before: list[PhantomFinding],
) -> PhantomFinding:
    nodule = kind == "lung nodule"
    side, _, _ = lobe.split()
    size = draws.uniform(*settings.sizes[kind])
    stretch = (1.0, draws.uniform(0.85, 1.0), draws.uniform(0.85, 1.0))
    levels = [finding.level for finding in before if finding.level is not None and finding.location == side]

    def inside(points: np.ndarray) -> np.ndarray:
        free = anatomy.in_lobe(lobe, points)
        return free & (anatomy.effusion_height(side, points) > levels[0] + 3.0) if levels else free

    lung = anatomy.lungs[side]
    low = (lung.center[0] - lung.radii[0], lung.center[1] - lung.radii[1], lung.bottom)
    high = (lung.center[0] + lung.radii[0], lung.center[1] + lung.radii[1], lung.apex)
    # at least the room for the step to the nearest voxel
    center, room = place_lesion(draws, inside, low, high, max(size / 2.0 + 2.0, 6.0))
    hu = draws.uniform(20.0, 60.0) if nodule else draws.uniform(-30.0, 40.0)
    if nodule:
        size = min(size, max(min(10.0, settings.sizes[kind][0]), 2.0 * room))
        center = _nearest_voxel(center, grid) if size < 15.0 else center
        hu = _with_contrast(hu, anatomy.hu["lung"], min(settings.contrast, 1.0))
    return PhantomFinding(
        label=finding_label(kind, lobe),
        kind=kind,
        location=lobe,
        center=center,
        size_mm=size,
        radii=tuple(size / 2.0 * factor for factor in stretch),
        hu=hu,
    )


def _draw_effusion(draws: Draws, settings: Difficulty, side: str, anatomy: Anatomy, crowded: bool) -> PhantomFinding:
    """Draw an effusion: its volume, and the level to which that volume fills the pleura from behind."""
    severity = "small" if crowded else draws.pick(settings.effusions)
    volume = draws.uniform(*settings.effusion_ml[severity])
    lung, step = anatomy.lungs[side], 7.0
    axes = (
        np.arange(lung.center[0] - lung.radii[0], lung.center[0] + lung.radii[0], step),
        np.arange(lung.center[1] - lung.radii[1], lung.center[1] + lung.radii[1], step),
        np.arange(lung.bottom, lung.apex, step),
    )
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points[anatomy.in_lung(side, points)]
    heights = anatomy.effusion_height(side, points)
    wet = np.argsort(heights, kind="stable")[: int(volume * 1000.0 / step**3)]
    x, y, z = points[wet].mean(axis=0)
    return PhantomFinding(
        label=finding_label("pleural effusion", side),
        kind="pleural effusion",
        location=side,
        center=(float(x), float(y), float(z)),
        severity=severity,
        hu=draws.uniform(0.0, 18.0),
        volume_ml=round(volume, 1),
        level=round(float(heights[wet[-1]]), 1),
    )


def _draw_liver_lesion(
    draws: Draws,
    settings: Difficulty,
    kind: str,
    lobe: str,
    anatomy: Anatomy,
    grid: Grid,
    before: list[PhantomFinding],
    chosen: list[tuple[str, str | None]],
) -> PhantomFinding:
    size = draws.uniform(*settings.sizes[kind])
    side = lobe.split()[0]
    kidney_margin = 24.0 if ("renal cyst", "right") in chosen else 7.0  # a cyst may reach out of the kidney
    others = [finding for finding in before if finding.kind.endswith("liver lesion")]

    def inside(points: np.ndarray) -> np.ndarray:
        free = anatomy.in_liver_lobe(side, points, kidney_margin)
        for other in others:
            offset = points - np.array(other.center)
            free &= (offset * offset).sum(axis=1) > (other.radii[0] + 6.0) ** 2
        return free

    liver = anatomy.liver[side]
    low = tuple(center - radius for center, radius in zip(liver.center, liver.radii, strict=True))
    high = tuple(center + radius for center, radius in zip(liver.center, liver.radii, strict=True))
    center, room = place_lesion(draws, inside, low, high, size / 2.0 + 3.0)
    size = min(size, max(min(12.0, settings.sizes[kind][0]), 2.0 * room))
    center = _nearest_voxel(center, grid) if size < _SNAPPED_MM else center
    contrast = -draws.uniform(50.0, 80.0) if kind.startswith("hypo") else draws.uniform(60.0, 100.0)
    return PhantomFinding(
        label=finding_label(kind, lobe),
        kind=kind,
        location=lobe,
        center=center,
        size_mm=size,
        radii=(size / 2.0, size / 2.0 * draws.uniform(0.85, 1.0), size / 2.0 * draws.uniform(0.85, 1.0)),
        hu=anatomy.hu["liver"] + settings.contrast * contrast,
    )


def _draw_kidney_finding(
    draws: Draws,
    settings: Difficulty,
    kind: str,
    side: str,
    anatomy: Anatomy,
    grid: Grid,
    chosen: list[tuple[str, str | None]],
) -> PhantomFinding:
    """Draw in the kidney: the pelvis in its middle, a stone in the lower half, a cyst on the surface elsewhere."""
    (x, y, z), (a, b, c) = anatomy.kidneys[side]
    medial = -1.0 if side == "right" else 1.0
    severity, radii = None, ()
    if kind == "hydronephrosis":
        severity = draws.pick(settings.hydronephroses)
        size = {"mild": 20.0, "moderate": 25.0, "severe": 30.0}[severity] + draws.uniform(-1.5, 1.5)
        radii = (0.5 * size, 0.42 * size, 0.85 * size)
        center = (x + medial * 0.28 * a, y + 0.1 * b, z)
        hu = draws.uniform(5.0, 15.0)
    elif kind == "kidney stone":
        size = draws.uniform(*settings.sizes[kind])
        center = (
            x + draws.uniform(-0.2, 0.2) * a,
            y + draws.uniform(-0.15, 0.15) * b,
            z - draws.uniform(0.25, 0.6) * c,
        )
        center = _nearest_voxel(center, grid)
        radii = (size / 2.0,) * 3
        hu = 1200.0 - 45.0 * (size - 7.0) - draws.uniform(0.0, 250.0)
        hu = _with_contrast(hu, anatomy.hu["kidney"], settings.contrast)
    else:
        size = draws.uniform(*settings.sizes[kind])
        with_stone = ("kidney stone", side) in chosen
        height = draws.uniform(0.25, 0.75) if with_stone else draws.pick((-1.0, 1.0)) * draws.uniform(0.2, 0.75)
        # From a center within the cortex (0.75) to one on the surface (1.0), on the lateral and posterior side.
        depth, back = draws.uniform(0.75, 1.0), draws.uniform(-0.8, 0.3)
        if size < _SNAPPED_MM:
            depth -= 0.2  # so that the nearest voxel isn't outside of the kidney
        ring = float(np.sqrt(max(0.0, depth * depth - height * height)))
        lateral = float(np.sqrt(1.0 - back * back))
        center = (x - medial * ring * lateral * a, y + ring * back * b, z + height * c)
        center = _nearest_voxel(center, grid) if size < _SNAPPED_MM else center
        radii = (size / 2.0,) * 3
        hu = _with_contrast(draws.uniform(0.0, 15.0), anatomy.hu["kidney"], min(settings.contrast, 1.0))
    return PhantomFinding(
        finding_label(kind, side), kind, side, center, size_mm=size, severity=severity, radii=radii, hu=hu
    )


def _draw_fracture(
    draws: Draws, height_loss: tuple[float, float], location: str, anatomy: Anatomy, grid: Grid
) -> PhantomFinding:
    region = location.split()[0]
    margin = 2.0 * grid.spacing[2]
    low, high = anatomy.bottom + margin, min(anatomy.top, anatomy.lungs["right"].apex) - margin
    bodies = [body for body in anatomy.vertebrae if body.region == region and body.bottom > low and body.top < high]
    body = draws.pick(bodies)
    loss = draws.uniform(*height_loss)
    return PhantomFinding(
        label=finding_label("vertebral fracture", location),
        kind="vertebral fracture",
        location=location,
        center=(0.0, anatomy.spine_center, (body.bottom + body.top) / 2.0),
        severity="mild" if loss < 0.25 else "moderate" if loss < 0.4 else "severe",
        height_loss=loss,
    )


def _with_contrast(hu: float, organ: float, factor: float) -> float:
    """Return a lesion's attenuation with its difference to the organ's times a factor; a factor of 1 changes no bit."""
    return hu + (factor - 1.0) * (hu - organ)


def _nearest_voxel(point: Point, grid: Grid) -> Point:
    """Return the voxel center nearest to a point: what is hardly larger than a voxel must not fall between them."""
    x, y, z = (
        origin + spacing * round((value - origin) / spacing)
        for value, origin, spacing in zip(point, grid.origin, grid.spacing, strict=True)
    )
    return x, y, z


def _to_patient(finding: PhantomFinding, grid: Grid) -> PhantomFinding:
    """Move a finding from the anatomy's into the patient's coordinates, rounded to 0.1 mm (0.01 for the size)."""
    x, y, z = (round(value + shift, 1) for value, shift in zip(finding.center, grid.shift, strict=True))
    size = None if finding.size_mm is None else round(finding.size_mm, 2)
    return PhantomFinding(**{**vars(finding), "center": (x, y, z), "size_mm": size})
