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

"""Rendering of a phantom case: attenuation in HU and the mask of its findings.

Shapes are painted one over the other, each inside of its bounding box and with an edge one voxel wide.
"""

from __future__ import annotations

import numpy as np

from monai_u2.data.phantom.canvas import Box, Canvas
from monai_u2.data.phantom.difficulty import difficulty_settings
from monai_u2.data.phantom.findings import PhantomCase, PhantomFinding
from monai_u2.data.phantom.geometry import SIDES, Ellipsoid, Point


def render_case(case: PhantomCase) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render a case.

    Returns:
        the volume, int16 (X, Y, Z) in HU; the mask, uint8 of the same shape, i + 1 where the finding
        ``FINDING_LABELS[i]`` is seen, 0 elsewhere; the affine (4, 4) from voxel index to patient mm, RAS+.
    """
    canvas = Canvas(case)
    _paint_body(canvas)
    _paint_lungs(canvas)
    _paint_abdomen(canvas)
    _paint_kidneys(canvas)
    _paint_heart_and_vessels(canvas)
    _paint_bones(canvas)
    _add_noise(canvas)
    return _to_stored_axes(case, canvas.hu.astype(np.int16), canvas.mask)


def _paint_body(canvas: Canvas) -> None:
    """Paint table, fat, muscle and the fat inside of the abdomen."""
    anatomy = canvas.anatomy
    half_width, half_depth = anatomy.body
    whole = (slice(None),) * 3
    x, y, z = canvas.coordinates(whole)
    if anatomy.table is not None:
        top = -half_depth - anatomy.table
        box = canvas.box((-240.0, top - 12.0, -1e4), (240.0, top, 1e4))
        canvas.hu[box] = -450.0
        canvas.hu[canvas.box((-240.0, top - 1.0, -1e4), (240.0, top, 1e4))] = -80.0
    # The trunk is narrower at the shoulders' top and at the waist.
    taper = 1.0 - 0.05 * ((z - 40.0) / 220.0) ** 2

    def trunk(margin: float) -> np.ndarray:
        a, b = half_width - margin, half_depth - 0.55 * margin
        level = (np.abs(x) / a) ** 2.4 + (np.abs(y) / b) ** 2.4
        return canvas.coverage((np.sqrt(level) / taper - 1.0) * b)

    canvas.paint(whole, trunk(0.0), anatomy.hu["fat"])
    canvas.paint(whole, trunk(anatomy.fat), anatomy.hu["muscle"])
    sx, sy, sz = anatomy.scale
    box, covered = canvas.ellipsoid(Ellipsoid((0.0, 14.0 * sy, -130.0 * sz), (128.0 * sx, 66.0 * sy, 140.0 * sz)))
    canvas.paint(box, covered, anatomy.hu["fat"])
    _paint_bowel(canvas)


def _paint_bowel(canvas: Canvas) -> None:
    """Paint loops of bowel with fluid and some gas in the front of the lower abdomen."""
    sx, sy, sz = canvas.anatomy.scale
    uniform = canvas.rng.uniform
    for _ in range(14):
        center = (uniform(-95, 95) * sx, uniform(12, 58) * sy, uniform(-185, -95) * sz)
        radius = uniform(9, 15)
        length = (uniform(-30, 30), uniform(-8, 8), uniform(-20, 20))
        end = tuple(start + step for start, step in zip(center, length, strict=True))
        box, covered = canvas.capsule(center, end, radius)
        canvas.paint(box, covered, 55.0)
        gas = uniform() < 0.35
        box, covered = canvas.capsule(center, end, radius - 3.0)
        canvas.paint(box, covered, -700.0 if gas else uniform(20, 50))


def _paint_lungs(canvas: Canvas) -> None:
    anatomy = canvas.anatomy
    for side in SIDES:
        lung = anatomy.lungs[side]
        (cx, cy), (a, b) = lung.center, lung.radii
        box = canvas.box((cx - a, cy - b, lung.bottom), (cx + a, cy + b, lung.apex))
        x, y, z = canvas.coordinates(box)
        top = np.maximum(z - lung.shoulder, 0.0) / (lung.apex - lung.shoulder)
        level = np.sqrt(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + top**2)
        dome = anatomy.domes[side]
        below = np.sqrt(sum(((v - c) / r) ** 2 for v, c, r in zip((x, y, z), dome.center, dome.radii, strict=True)))
        outside = np.maximum((level - 1.0) * a, (1.0 - below) * min(dome.radii))
        aerated = canvas.coverage(np.maximum(outside, lung.bottom - z))
        # Blood pools behind: the lung is a little denser there.
        canvas.paint(box, aerated, anatomy.hu["lung"] - 0.35 * (y - cy))
        _paint_lung_vessels(canvas, cx, a, b)
        for finding, center in canvas.of_kind("lung nodule", "consolidation"):
            if str(finding.location).startswith(side):
                _paint_lung_lesion(canvas, finding, center, box, aerated)
        for finding, _ in canvas.of_kind("pleural effusion"):
            if finding.location == side:
                depth = anatomy.effusion_field(side, x, y, z) - finding.level
                fluid = aerated * canvas.coverage(depth)
                canvas.paint_finding(box, fluid, finding)


def _paint_lung_vessels(canvas: Canvas, center_x: float, half_width: float, half_depth: float) -> None:
    """Paint vessels that run from the hilum outward."""
    sign = 1.0 if center_x > 0 else -1.0
    uniform = canvas.rng.uniform
    hilum = (center_x - sign * 0.72 * half_width, -4.0, 95.0 * canvas.anatomy.scale[2])
    for _ in range(9):
        end = (
            center_x + sign * uniform(-0.35, 0.6) * half_width,
            uniform(-0.7, 0.7) * half_depth,
            hilum[2] + uniform(-75, 85),
        )
        box, covered = canvas.capsule(hilum, end, uniform(1.2, 2.2))
        canvas.paint(box, covered, 20.0)


def _paint_lung_lesion(
    canvas: Canvas, finding: PhantomFinding, center: Point, lung_box: Box, aerated: np.ndarray
) -> None:
    """Paint a sharp nodule, or a consolidation with a blurred border that stops at the fissure and the pleura."""
    if finding.kind == "lung nodule":
        box, covered = canvas.ellipsoid(Ellipsoid(center, finding.radii))
        canvas.paint_finding(box, covered, finding)
        return
    anatomy = canvas.anatomy
    side, part, _ = str(finding.location).split()
    x, y, z = canvas.coordinates(lung_box)
    cx, cy, cz = center
    a, b, c = finding.radii
    wave = 0.16 * (np.sin((x - cx) * (5.0 / a)) + np.sin((y - cy) * (4.0 / b) + 1.0) + np.sin((z - cz) * (4.5 / c)))
    distance = np.sqrt(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + ((z - cz) / c) ** 2) + wave - 1.0
    covered = canvas.coverage(distance * min(a, b, c), blur=7.0) * aerated
    covered = covered * anatomy.beside_fissures(part, side, y, z)
    canvas.paint_finding(lung_box, covered, finding)


def _paint_abdomen(canvas: Canvas) -> None:
    """Paint what lies below the diaphragm: stomach, spleen, vena cava, liver and its lesions."""
    anatomy = canvas.anatomy
    hu = anatomy.hu
    for side in SIDES:
        box, covered = canvas.ellipsoid(anatomy.domes[side].grown(-1.5))
        # Fat fills what no organ takes, down to the middle of the dome only: below lies the abdomen's own fat.
        covered = covered * (canvas.coordinates(box)[2] > anatomy.domes[side].center[2])
        canvas.paint(box, covered, hu["fat"])
    box, covered = canvas.ellipsoid(anatomy.stomach)
    canvas.paint(box, covered, 65.0)
    box, covered = canvas.ellipsoid(anatomy.stomach.grown(-4.0))
    level = anatomy.stomach.center[1] + 0.25 * anatomy.stomach.radii[1]
    content = np.where(canvas.coordinates(box)[1] > level, -950.0, hu["stomach"]).astype(np.float32)
    canvas.paint(box, covered, content)
    box, covered = canvas.ellipsoid(anatomy.spleen)
    canvas.paint(box, covered, hu["spleen"])
    for finding, _ in canvas.of_kind("splenomegaly"):
        canvas.mark(box, covered > 0.5, finding)
    sx, sy, sz = anatomy.scale
    front = anatomy.spine_center + anatomy.spine_radii[1]
    vena_cava = (24.0 * sx, front + 10.0, anatomy.bottom - 20.0), (24.0 * sx, front + 14.0, 10.0 * sz)
    box, covered = canvas.capsule(*vena_cava, 11.0)
    canvas.paint(box, covered, 120.0)
    for side in SIDES:
        box, covered = canvas.ellipsoid(anatomy.liver[side])
        canvas.paint(box, covered, hu["liver"])
    for end in ((95.0, 20.0, -20.0), (80.0, -20.0, -50.0), (-20.0, 35.0, -30.0)):
        stop = (end[0] * sx, end[1] * sy, end[2] * sz)
        box, covered = canvas.capsule((28.0 * sx, 8.0 * sy, -55.0 * sz), stop, 4.0)
        canvas.paint(box, covered, hu["liver"] + 30.0)
    for finding, center in canvas.of_kind("hypodense liver lesion", "hyperdense liver lesion"):
        box, covered = canvas.ellipsoid(Ellipsoid(center, finding.radii))
        canvas.paint_finding(box, covered, finding)


def _paint_kidneys(canvas: Canvas) -> None:
    anatomy = canvas.anatomy
    for side in SIDES:
        box, covered = canvas.ellipsoid(anatomy.kidneys[side].grown(6.0))
        canvas.paint(box, covered, anatomy.hu["fat"])
    _paint_abdominal_aorta(canvas)
    for side in SIDES:
        kidney = anatomy.kidneys[side]
        (x, y, z), (a, b, c) = kidney
        medial = -1.0 if side == "right" else 1.0
        box, covered = canvas.ellipsoid(kidney)
        canvas.paint(box, covered, anatomy.hu["kidney"])
        sinus = Ellipsoid((x + medial * 0.55 * a, y, z), (0.34 * a, 0.24 * b, 0.3 * c))
        box, covered = canvas.ellipsoid(sinus)
        canvas.paint(box, covered, -60.0)
    # A pelvis first, then cysts, stones last: the small ones stay on top.
    for kind in ("hydronephrosis", "renal cyst", "kidney stone"):
        for finding, center in canvas.of_kind(kind):
            if kind == "hydronephrosis":
                _paint_hydronephrosis(canvas, finding, center)
                continue
            box, covered = canvas.ellipsoid(Ellipsoid(center, finding.radii))
            canvas.paint_finding(box, covered, finding)


def _paint_hydronephrosis(canvas: Canvas, finding: PhantomFinding, center: Point) -> None:
    """Paint a dilated pelvis with two calyces and the wide beginning of the ureter."""
    x, y, z = center
    a, b, c = finding.radii
    medial = -1.0 if finding.location == "right" else 1.0
    shapes = [canvas.ellipsoid(Ellipsoid(center, finding.radii))]
    shapes += [canvas.ellipsoid(Ellipsoid((x - medial * 0.5 * a, y, z + up * c), (0.6 * a,) * 3)) for up in (-0.8, 0.8)]
    end = (x + medial * 1.3 * a, y + 6.0, z - c - 35.0)
    shapes.append(canvas.capsule((x + medial * 0.6 * a, y, z - 0.5 * c), end, 0.3 * b + 1.5))
    for box, covered in shapes:
        canvas.paint_finding(box, covered, finding)


def _paint_abdominal_aorta(canvas: Canvas) -> None:
    """Paint the abdominal aorta in front of the spine, wide where it has an aneurysm."""
    anatomy = canvas.anatomy
    sx, sy, sz = anatomy.scale
    x0, radius = anatomy.abdominal_aorta
    front = anatomy.spine_center + anatomy.spine_radii[1] + 2.0
    end = 10.0 * sz
    found = canvas.of_kind("aortic aneurysm")
    widest = found[0][0].radii[0] if found else radius
    reach = widest + abs(x0) + 4.0
    box = canvas.box((-reach, front - 4.0, anatomy.bottom - 20.0), (reach, front + 2.0 * widest + 4.0, end))
    x, y, z = canvas.coordinates(box)
    center_x, profile = np.full_like(z, x0), np.full_like(z, radius)
    if found:
        finding, center = found[0]
        bulge = np.clip(1.0 - ((z - center[2]) / finding.radii[2]) ** 2, 0.0, 1.0)
        profile = radius + (finding.radii[0] - radius) * bulge * (2.0 - bulge)
        center_x = x0 + (center[0] - x0) * bulge
    covered = canvas.coverage(np.sqrt((x - center_x) ** 2 + (y - front - profile) ** 2) - profile)
    canvas.paint(box, covered, anatomy.hu["aorta"])
    if found:
        canvas.mark(box, (covered > 0.5) & (profile > 1.25 * radius), found[0][0])


def _paint_heart_and_vessels(canvas: Canvas) -> None:
    anatomy = canvas.anatomy
    sx, sy, sz = anatomy.scale
    blood = anatomy.hu["aorta"]
    x, y, radius = anatomy.thoracic_aorta
    arch = 165.0 * sz
    root = (10.0 * sx, 14.0 * sy, 105.0 * sz)
    top = (12.0 * sx, 12.0 * sy, arch - 8.0)
    shapes = [
        canvas.capsule((x, y, arch), (x, y, 10.0 * sz), radius),
        canvas.capsule((x, y, 14.0 * sz), (anatomy.abdominal_aorta[0], y + 6.0, -6.0 * sz), radius - 1.0),
        canvas.capsule(root, top, radius + 3.0),
        canvas.capsule(top, (x, y, arch), radius + 1.0),
        canvas.capsule((26.0 * sx, 10.0 * sy, 90.0 * sz), (24.0 * sx, 6.0 * sy, 200.0 * sz), 8.0),
    ]
    for box, covered in shapes:
        canvas.paint(box, covered, blood)
    box, covered = canvas.ellipsoid(anatomy.heart)
    canvas.paint(box, covered, anatomy.hu["heart"])
    for finding, _ in canvas.of_kind("cardiomegaly"):
        canvas.mark(box, covered > 0.5, finding)
    carina = max(128.0 * sz, anatomy.heart.center[2] + anatomy.heart.radii[2] + 8.0)
    box, covered = canvas.capsule((0.0, -14.0 * sy, carina), (0.0, -4.0 * sy, anatomy.top + 20.0), 8.0)
    canvas.paint(box, covered, -960.0)


def _paint_bones(canvas: Canvas) -> None:
    anatomy = canvas.anatomy
    y0, (a, b) = anatomy.spine_center, anatomy.spine_radii
    bone, disc = anatomy.hu["bone"], anatomy.hu["disc"]
    back = y0 - b
    box = canvas.box((-a - 12.0, back - 36.0, -1e4), (a + 12.0, y0 + b, 1e4))
    x, y, z = canvas.coordinates(box)
    # arch and spinous process around the canal
    ring = np.sqrt(x**2 + (y - back + 7.0) ** 2)
    posterior = np.maximum(canvas.coverage(ring - 14.0), canvas.coverage(np.maximum(np.abs(x) - 4.0, back - 34.0 - y)))
    posterior = posterior * (y < back + 4.0)
    canvas.paint(box, posterior, bone - 30.0)
    canvas.paint(box, canvas.coverage(ring - 8.0), 25.0)
    body = canvas.coverage((np.sqrt((x / a) ** 2 + ((y - y0) / b) ** 2) - 1.0) * b)
    canvas.paint(box, body, disc)
    fractures = canvas.of_kind("vertebral fracture")
    denser = 110.0 * difficulty_settings(canvas.case.difficulty).contrast
    rise = np.clip((y - back) / (2.0 * b), 0.0, 1.0)  # 0 at the back of the body, 1 at its front
    for vertebra in anatomy.vertebrae:
        middle, half = (vertebra.top + vertebra.bottom) / 2.0, (vertebra.top - vertebra.bottom) / 2.0
        part = canvas.box((-a, y0 - b, vertebra.bottom - 4.0), (a, y0 + b, vertebra.top + 4.0))[2]
        inner = (slice(None), slice(None), slice(part.start - box[2].start, part.stop - box[2].start))
        place = (box[0], box[1], part)
        broken = next((finding for finding, center in fractures if abs(center[2] - middle) < half), None)
        # A wedge: the front loses the full height, the back a third of it, from the upper end plate.
        loss = 0.0 if broken is None else broken.height_loss * (0.35 + 0.65 * rise)
        ceiling = vertebra.bottom + 2.0 * half * (1.0 - loss)
        height = z[:, :, inner[2]]
        covered = body[:, :, 0:1] * canvas.coverage(np.maximum(vertebra.bottom - height, height - ceiling))
        canvas.paint(place, covered, bone if broken is None else bone + denser)
        if broken is not None:
            whole = (body[:, :, 0:1] > 0.5) & (height > vertebra.bottom) & (height < vertebra.top)
            canvas.mark(place, whole, broken)
    _paint_ribs(canvas)


def _paint_ribs(canvas: Canvas) -> None:
    """Paint ribs as slanted bands of a shell around the lungs."""
    anatomy = canvas.anatomy
    sx, sy, sz = anatomy.scale
    a, b = 133.0 * sx, 84.0 * sy
    box = canvas.box((-a - 5.0, -b - 5.0, -70.0 * sz), (a + 5.0, b + 5.0, 225.0 * sz))
    x, y, z = canvas.coordinates(box)
    flat = np.sqrt((x / a) ** 2 + (y / b) ** 2)[:, :, 0]
    columns = np.nonzero(np.abs(flat - 1.0) * b < 4.0)
    heights = z[0, 0] - 0.35 * y[0, columns[1], 0][:, None]
    bands = (heights % (27.0 * sz)) < 9.0
    region = canvas.hu[box]
    values = region[columns]
    values[bands] = anatomy.hu["bone"] + 40.0
    region[columns] = values


def _add_noise(canvas: Canvas) -> None:
    """Add Gaussian noise, correlated between neighbors in plane, and clip to what a scanner stores."""
    noise = canvas.rng.standard_normal(canvas.hu.shape, dtype=np.float32)
    noise[1:] += 0.5 * noise[:-1]
    noise[:, 1:] += 0.5 * noise[:, :-1]
    noise *= canvas.case.noise / 1.25
    canvas.hu += noise
    np.clip(canvas.hu, -1024.0, 3071.0, out=canvas.hu)
    np.rint(canvas.hu, out=canvas.hu)


def _to_stored_axes(case: PhantomCase, hu: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring volume and mask from RAS into the case's stored axis order, with the affine that belongs to it."""
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

    grid = case.grid
    affine = np.diag([*grid.spacing, 1.0])
    affine[:3, 3] = np.array(grid.origin) + np.array(grid.shift)
    transform = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(grid.axcodes))
    stored = [np.ascontiguousarray(apply_orientation(array, transform)) for array in (hu, mask)]
    return stored[0], stored[1], affine @ inv_ornt_aff(transform, hu.shape)
