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

import itertools
from copy import deepcopy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Spacingd

from monai_u2.evidence import TokenGrid, body_mask, fine_maps, locate, maps, voxel_map
from monai_u2.exceptions import InputError

# x, y, z in mm (RAS): a body with a dense ball in it
BODY, BALL, BALL_MM = (110.0, 90.0, 140.0), (40.0, -30.0, 50.0), 26.0


def write_ball(
    path: Path, spacing: tuple[float, float, float], order: tuple[int, ...], flips: tuple[int, ...], size: float = 1.0
) -> None:
    """A volume with a ball in it, its axes stored in any order and direction; a size above 1 is a larger patient."""
    edges = np.array([264.0, 224.0, 320.0]) * size
    shape = [round(edge / mm) for edge, mm in zip(edges, spacing)]
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.array(edges) / 2 + np.array(spacing) / 2
    mm = [affine[i, 3] + np.arange(n) * spacing[i] for i, n in enumerate(shape)]
    x, y, z = (values / size for values in np.meshgrid(*mm, indexing="ij"))
    hu = np.full(shape, -1000, np.int16)
    hu[(x / BODY[0]) ** 2 + (y / BODY[1]) ** 2 + (z / BODY[2]) ** 2 < 1] = 40
    hu[(x - BALL[0]) ** 2 + (y - BALL[1]) ** 2 + (z - BALL[2]) ** 2 < BALL_MM**2] = 900
    image = nib.Nifti1Image(hu, affine).as_reoriented(np.array(list(zip(order, flips))))
    nib.save(image, path)


@pytest.fixture(scope="module")
def parser(bundle: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.update({"bundle_root": str(bundle), "device": "cpu"})
    return parser


def ball_weights(image: torch.Tensor, grid: TokenGrid) -> torch.Tensor:
    """Weights as a model would give that looks at the ball: how much of it each token holds, `(1, T, N)`."""
    dense = (image.as_subclass(torch.Tensor) > 0.8).float()[:, None]
    return torch.nn.functional.avg_pool3d(dense, grid.token_size).flatten(1)[None]


ORIENTATIONS = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize(
    ("spacing", "size", "step"), [((4.0, 4.0, 4.0), 1.0, 1), ((3.0, 5.0, 8.0), 1.0, 1), ((4.0, 4.0, 6.0), 1.7, 7)]
)
def test_evidence_lands_on_the_same_place_from_all_48_orientations(
    parser: ConfigParser, tmp_path: Path, spacing: tuple[float, float, float], size: float, step: int
) -> None:
    """Also of a patient who is too large for the slabs and is shrunk, from some of them."""
    preprocessing = parser.get_parsed_content("preprocessing")
    tokens = [edge // patch for edge, patch in zip(parser["slab_size"], parser["patch_size"])]
    ball = np.array(BALL) * size
    peaks = []
    for order, flips in ORIENTATIONS[::step]:
        write_ball(tmp_path / "a.nii", spacing, order, flips, size)
        data = preprocessing({"image": str(tmp_path / "a.nii"), "question": "What is seen?"})
        stored = nib.load(tmp_path / "a.nii")
        grid = TokenGrid.of(data["image"], tokens)
        half_a_token = grid.token_mm[::-1] / 2  # along x, y, z
        assert (grid.token_mm[1] > 33) == (size > 1)
        weights = ball_weights(data["image"], grid)
        voxels = voxel_map(weights[0], data["image"], grid, preprocessing).numpy()
        assert voxels.shape == stored.shape
        np.testing.assert_allclose(data["image"].meta["original_affine"], stored.affine, atol=1e-5)
        index = np.argwhere(voxels > 0)
        middle = stored.affine[:3] @ [*np.average(index, axis=0, weights=voxels[voxels > 0]), 1]
        assert np.all(np.abs(middle - ball) <= half_a_token)
        body = body_mask(data["image"], grid)
        place = locate(fine_maps(weights, grid)[0].numpy() * body, body, grid, stored.affine, stored.shape)
        for name in ("peak", "center"):
            mm = np.array(getattr(place, f"{name}_lps_mm")) * [-1, -1, 1]
            assert np.all(np.abs(mm - ball) <= half_a_token + np.array(spacing) / 2)
            voxel = stored.affine[:3] @ [*getattr(place, f"{name}_voxel"), 1]
            assert np.all(np.abs(voxel - mm) <= np.array(spacing) / 2 + 0.1)
        low, high = np.array(place.box_voxel)
        assert np.all(low <= place.peak_voxel) and np.all(place.peak_voxel <= high)
        low_mm, high_mm = np.array(place.box_lps_mm) * [-1, -1, 1]
        assert np.all(np.minimum(low_mm, high_mm) <= ball) and np.all(np.maximum(low_mm, high_mm) >= ball)
        axis = place.slices["axis"]
        assert nib.aff2axcodes(stored.affine)[axis] in "SI"
        assert [place.slices["first"], place.slices["last"]] == [low[axis], high[axis]]
        peaks.append(place.peak_lps_mm)
    assert np.ptp(np.array(peaks), axis=0).max() <= max(spacing)


@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))])
def test_the_map_is_what_monais_invertd_gives_at_once(
    parser: ConfigParser, tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    """Evidence that crosses blocks, lies at the CT's edge, in a few blocks alone, or is too weak for the first step."""
    write_ball(tmp_path / "a.nii", (1.5, 2.0, 3.0), order, flips)
    preprocessing = parser.get_parsed_content("preprocessing")
    data = preprocessing({"image": str(tmp_path / "a.nii"), "question": "What is seen?"})
    grid = TokenGrid.of(data["image"], (2, 8, 12))
    everywhere = torch.rand((1, grid.slabs, 192), generator=torch.Generator().manual_seed(0))
    for weights in (everywhere, everywhere * (everywhere > 0.99), everywhere * 0.001):
        voxels = voxel_map(weights[0], data["image"], grid, preprocessing)
        slabs = torch.nn.functional.interpolate(
            grid.stacked(weights)[None],
            size=[n * edge for n, edge in zip(grid.shape, grid.token_size)],
            mode="trilinear",
        )
        case = {"image": data["image"], "map": MetaTensor(slabs.reshape(data["image"].shape))}
        at_once = Invertd("map", preprocessing, orig_keys="image", nearest_interp=False)(case)["map"][0]
        assert voxels.dtype == torch.float32
        assert torch.equal(voxels * 256, (voxels * 256).round())
        assert (voxels - at_once).abs().max() < 0.002 + 1e-4
        assert ((voxels - (at_once * 256).round() / 256).abs() > 0).float().mean() < 1e-3
    assert voxels.max() == 0


@pytest.mark.parametrize(
    "steps",
    [
        [Spacingd("image", (4.0, 5.0, 6.0), dtype=torch.float32)],
        [Spacingd("image", (2.0, 2.0, 2.0), dtype=torch.float32)],
        [Spacingd("image", (2.5, 2.5, 3.0), align_corners=True, dtype=torch.float32)],
        [Spacingd(["image", "label"], (4.0, 4.0, 4.0), lazy=True, dtype=torch.float32, allow_missing_keys=True)],
        [Orientationd("image", "SPL", labels=None), Spacingd("image", (5.0, 4.0, 4.0), padding_mode="zeros")],
        [Spacingd("image", (3.0, 3.0, 3.0)), Spacingd("image", (4.0, 4.0, 4.0), diagonal=True)],
    ],
    ids=["spacing", "identity", "align_corners", "lazy", "orientation", "two"],
)
@pytest.mark.parametrize("degrees", [0, 20])
def test_spacing_is_inverted_as_monai_does(steps: list, degrees: float) -> None:
    """Also of oblique CTs, and of edges that leave a last block of one voxel."""
    turn = np.eye(4)
    angle = np.deg2rad(degrees)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ np.diag([2.0, 2.0, 2.0, 1.0])
    volume = MetaTensor(torch.zeros(1, 65, 129, 30), affine=torch.from_numpy(affine))
    changed = Compose(steps)({"image": volume})["image"].clone()
    trace = changed.applied_operations
    weights = torch.nn.functional.interpolate(
        torch.rand((1, 1, 6, 6, 4), generator=torch.Generator().manual_seed(0)),
        size=changed.shape[1:],
        mode="trilinear",
    )[0]

    def traced() -> MetaTensor:
        return MetaTensor(weights.clone(), meta=deepcopy(changed.meta), applied_operations=deepcopy(trace))

    found = maps._inverted(traced(), steps, "image")
    for step in steps:
        step.lazy = False  # MONAI's own inverse leaves a volume as it is where Spacingd is lazy
    expected = Compose(steps).inverse({"image": traced()})["image"]
    assert found.shape == volume.shape
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)
    assert (found.float() - expected).abs().max() < 0.003 * len(steps)  # rounded once for each


def test_spacing_that_loses_the_place_is_refused() -> None:
    step = Spacingd("image", (4.0, 4.0, 4.0), recompute_affine=True)
    image = step({"image": MetaTensor(torch.zeros(1, 20, 20, 20), affine=torch.eye(4) * 2)})["image"]
    with pytest.raises(ValueError, match="recompute_affine loses where the image lies"):
        maps._inverted(image, [step], "image")


def test_padding_carries_nothing(parser: ConfigParser, tmp_path: Path) -> None:
    """Tokens without a part of the volume don't come back to it."""
    write_ball(tmp_path / "a.nii", (4.0, 4.0, 4.0), (0, 1, 2), (1, 1, 1))
    preprocessing = parser.get_parsed_content("preprocessing")
    data = preprocessing({"image": str(tmp_path / "a.nii"), "question": "What is seen?"})
    grid = TokenGrid.of(data["image"], (2, 8, 12))
    body = torch.from_numpy(body_mask(data["image"], grid)).float()[None, None]
    held = torch.nn.functional.adaptive_max_pool3d(body, grid.shape)[0, 0].unflatten(0, (grid.slabs, -1)).flatten(1)
    outside = torch.ones(held.shape) * (held == 0)
    assert 0 < outside.sum() < outside.numel()
    voxels = voxel_map(outside, data["image"], grid, preprocessing)
    inside = torch.from_numpy(nib.load(tmp_path / "a.nii").get_fdata() > 0)
    assert voxels[inside].mean() < 0.1


def test_what_cant_be_inverted_is_named(parser: ConfigParser, tmp_path: Path) -> None:
    write_ball(tmp_path / "a.nii", (4.0, 4.0, 4.0), (0, 1, 2), (1, 1, 1))
    steps = parser.get_parsed_content("preprocessing").transforms
    one_way = Compose([*steps[:4], CutTop(), *steps[4:]])
    data = one_way({"image": str(tmp_path / "a.nii"), "question": "What is seen?"})
    grid = TokenGrid.of(data["image"], (2, 8, 12))
    with pytest.raises(InputError, match="can't be inverted.*CutTop"):
        voxel_map(torch.rand(grid.slabs, 192), data["image"], grid, one_way)
    with pytest.raises(InputError, match="a Tensor without geometry"):
        TokenGrid.of(data["image"].as_tensor(), (2, 8, 12))


class CutTop:
    """Takes slices away and leaves no trace."""

    def __call__(self, data: dict) -> dict:
        image = data["image"]
        return {**data, "image": MetaTensor(image.as_tensor()[:, :-20], meta=image.meta)}


def test_fine_maps_peak_in_the_middle_of_the_heaviest_token() -> None:
    grid = TokenGrid(2, (2, 3, 4), (8, 8, 8), np.diag([2.0, 2.0, 2.0, 1.0]))
    weights = torch.zeros(1, 2, 24)
    weights[0, 1, 0] = 1.0  # third layer of tokens, first row and column
    fine = fine_maps(weights, grid)[0].numpy()
    assert fine.shape == (16, 12, 16) and fine.max() <= 1
    peak = np.argwhere(fine > 0.7)
    assert peak[:, 0].min() >= 8 and peak[:, 0].max() < 12
    middle = grid.fine_affine[:3] @ [*np.average(np.argwhere(fine > 0.5), axis=0), 1]
    expected = grid.token_affine[:3] @ [2, 0, 0, 1]
    assert np.abs(middle - expected)[0] < 1e-6 and np.abs(middle - expected).max() < 4


def test_the_table_is_no_body() -> None:
    grid = TokenGrid(1, (2, 4, 4), (8, 8, 8), np.eye(4))
    image = torch.zeros(1, 16, 32, 32)
    image[:, 2:14, 4:20, 4:28] = 0.5
    image[:, 4:12, 8:16, 8:20] = 0.05  # lungs
    image[:, :, 26:28] = 0.9  # table
    body = body_mask(image, grid)
    assert body[4, 6, 7] and not body[:, 13:].any()
    with pytest.raises(InputError, match="no place of the image is above the intensity 0.35"):
        body_mask(torch.zeros(1, 16, 32, 32), grid)
