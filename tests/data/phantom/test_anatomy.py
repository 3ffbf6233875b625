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

from __future__ import annotations

import numpy as np
import pytest
from nibabel import Nifti1Image, as_closest_canonical
from nibabel.orientations import aff2axcodes
from scipy.ndimage import binary_dilation, map_coordinates

from monai_u2.data.phantom.anatomy import render_case
from monai_u2.data.phantom.cases import draw_case
from monai_u2.data.phantom.findings import FINDING_LABELS, PhantomCase

NUMBERS = range(40)
# least difference in HU between a lesion and what is around it, after resampling to 5 x 4 x 4 mm
CONTRAST = {
    "lung nodule": 400,
    "consolidation": 400,
    "hypodense liver lesion": 25,
    "hyperdense liver lesion": 35,
    "kidney stone": 200,
    "hydronephrosis": 60,
    "renal cyst": 25,
    "vertebral fracture": 60,
    "aortic aneurysm": 100,
    "splenomegaly": 80,
    "cardiomegaly": 80,
}


@pytest.fixture(scope="module")
def rendered() -> list[tuple[PhantomCase, np.ndarray, np.ndarray, np.ndarray]]:
    return [(case, *render_case(case)) for case in map(draw_case, NUMBERS)]


def in_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = as_closest_canonical(Nifti1Image(array, affine))
    return np.asarray(image.dataobj), image.affine


def test_types_shapes_and_stored_axes(rendered: list) -> None:
    seen = set()
    for case, hu, mask, affine in rendered:
        assert hu.dtype == np.int16 and mask.dtype == np.uint8 and hu.shape == mask.shape
        assert hu.min() >= -1024 and hu.max() < 3000
        assert "".join(aff2axcodes(affine)) == case.grid.axcodes
        seen.add(case.grid.axcodes)
        ras, ras_affine = in_ras(hu, affine)
        assert ras.shape == case.grid.shape
        np.testing.assert_allclose(np.diag(ras_affine)[:3], case.grid.spacing)
    assert len(seen) > 5


def test_rendering_is_deterministic(rendered: list) -> None:
    case, hu, mask, affine = rendered[2]
    for first, again in zip((hu, mask, affine), render_case(draw_case(case.number)), strict=True):
        np.testing.assert_array_equal(first, again)


def test_each_finding_is_marked_at_its_center_and_nothing_else_is(rendered: list) -> None:
    for case, _, mask, affine in rendered:
        marked = {FINDING_LABELS[value - 1] for value in np.unique(mask) if value}
        assert marked == set(case.labels), case.number
        for finding in case.findings:
            index = np.round(np.linalg.solve(affine, [*finding.center, 1.0])[:3]).astype(int)
            assert mask[tuple(index)] == FINDING_LABELS.index(finding.label) + 1, (case.number, finding)


def test_organs_lie_on_their_side(rendered: list) -> None:
    for case, hu, _, affine in rendered:
        anatomy = case.anatomy
        places = {
            "liver": np.array(anatomy.liver["right"].center) + [25.0, 30.0, 0.0],
            "spleen": np.array(anatomy.spleen.center) + [0.0, 0.0, 20.0],
        }
        assert places["liver"][0] > 30.0 and places["spleen"][0] < -30.0  # RAS: the right is positive
        for organ, place in places.items():
            mirrored = place * [-1.0, 1.0, 1.0]
            here, there = (mean_around(hu, affine, point + case.grid.shift) for point in (place, mirrored))
            lesions = [f for f in case.findings if f.kind.endswith("liver lesion")]
            assert abs(here - anatomy.hu[organ]) < (90 if lesions else 15), (case.number, organ, here)
            if organ == "liver":
                assert there < here - 20 or lesions, (case.number, here, there)


def mean_around(hu: np.ndarray, affine: np.ndarray, point: np.ndarray) -> float:
    """Return the mean HU of the 3 x 3 x 3 voxels around a point in patient mm."""
    index = np.round(np.linalg.solve(affine, [*point, 1.0])[:3]).astype(int)
    return float(hu[tuple(slice(i - 1, i + 2) for i in index)].mean())


def test_findings_stand_out_after_resampling_to_5_4_4_mm(rendered: list) -> None:
    seen = set()
    for case, hu, mask, affine in rendered:
        volume, ras_affine = in_ras(hu.astype(np.float32), affine)
        labels, _ = in_ras(mask, affine)
        spacing = np.diag(ras_affine)[:3]
        for finding in case.findings:
            if finding.kind not in CONTRAST:
                continue
            seen.add(finding.kind)
            marked = labels == FINDING_LABELS.index(finding.label) + 1
            low = [max(0, int(axis.min()) - 12) for axis in np.nonzero(marked)]
            high = [
                min(size, int(axis.max()) + 12) for axis, size in zip(np.nonzero(marked), marked.shape, strict=True)
            ]
            steps = np.array([4.0, 4.0, 5.0]) / spacing
            axes = [np.arange(start, end, step) for start, end, step in zip(low, high, steps, strict=True)]
            grid = np.meshgrid(*axes, indexing="ij")
            values = map_coordinates(volume, grid, order=1)
            share = map_coordinates(marked.astype(np.float32), grid, order=1)
            core = share >= min(0.5, 0.9 * share.max())
            ring = binary_dilation(core, iterations=3) & ~binary_dilation(core) & (share < 0.01)
            contrast = values[core].mean() - np.median(values[ring])
            assert abs(contrast) > CONTRAST[finding.kind], (case.number, finding.label, contrast)
            if finding.kind == "hypodense liver lesion":
                assert contrast < 0
    assert seen == set(CONTRAST)


def test_effusion_has_its_volume_and_lies_behind(rendered: list) -> None:
    seen = 0
    for case, _, mask, affine in rendered:
        for finding in case.findings:
            if finding.kind != "pleural effusion":
                continue
            seen += 1
            voxels = np.argwhere(mask == FINDING_LABELS.index(finding.label) + 1)
            volume = len(voxels) * abs(np.linalg.det(affine[:3, :3])) / 1000.0
            assert 0.7 < volume / finding.volume_ml < 1.3, (case.number, volume, finding.volume_ml)
            y = (voxels @ affine[1, :3] + affine[1, 3]).mean() - case.grid.shift[1]
            assert y < -10.0
    assert seen > 3
