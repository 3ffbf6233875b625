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
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from monai_u2.exceptions import InputError
from monai_u2.transforms import CheckSameGeometryd, FitToSlabs, FitToSlabsd, RandSimulateThickSlicesd

AFFINE = torch.tensor([[0.0, 0.0, -2.0, 90.0], [0.0, -2.0, 0.0, 80.0], [3.0, 0.0, 0.0, -70.0], [0, 0, 0, 1]])


def gaussian_at(shape: tuple[int, ...], center: tuple[float, ...], width: float = 3.0) -> torch.Tensor:
    axes = [torch.arange(n, dtype=torch.float64) - c for n, c in zip(shape, center)]
    distance = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None] ** 2
    return torch.exp(-distance / (2 * width**2))[None].float()


def center_of_mass(volume: torch.Tensor) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in volume.shape], indexing="ij"), axis=-1)
    weights = volume.numpy()
    return (grid * weights[..., None]).sum(axis=(0, 1, 2)) / weights.sum()


@pytest.mark.parametrize(
    ("shape", "slabs"), [((20, 24, 30), 3), ((16, 20, 20), 2), ((7, 40, 60), 1), ((40, 50, 30), 4)]
)
def test_shape_and_world_position(shape: tuple[int, int, int], slabs: int) -> None:
    center = tuple(0.4 * n for n in shape)
    image = MetaTensor(gaussian_at(shape, center, width=0.1 * min(shape)), affine=AFFINE)
    out = FitToSlabs((8, 32, 40), max_slabs=4)(image)
    assert out.shape == (slabs, 8, 32, 40)
    found = center_of_mass(out.as_tensor().reshape(-1, 32, 40))
    world = (out.affine.numpy() @ np.append(found, 1))[:3]
    expected = (AFFINE.numpy() @ np.append(center, 1))[:3]
    np.testing.assert_allclose(world, expected, atol=0.3)  # mm


def test_what_fits_is_not_resampled() -> None:
    image = torch.rand(1, 20, 24, 30)
    out = FitToSlabs((8, 32, 40))(image)
    assert torch.equal(out.reshape(-1, 32, 40)[:20, 4:28, 5:35], image[0])
    assert out.sum() == pytest.approx(image.sum().item(), rel=1e-5)


def test_inverse_restores_volume_and_affine() -> None:
    image = MetaTensor(gaussian_at((45, 50, 30), (20, 22, 14), width=6.0), affine=AFFINE)
    fit = FitToSlabs((8, 32, 40), max_slabs=4)
    back = fit.inverse(fit(image))
    assert back.shape == image.shape
    torch.testing.assert_close(back.affine, image.affine)
    assert back.applied_operations == []
    assert (back - image).abs().max() < 0.1
    untouched = MetaTensor(torch.rand(1, 20, 24, 30), affine=AFFINE)
    torch.testing.assert_close(fit.inverse(fit(untouched)).as_tensor(), untouched.as_tensor())


def test_invertd_brings_a_prediction_back() -> None:
    pre = Compose([FitToSlabsd(keys="image", slab_size=(8, 32, 40))])
    data = pre({"image": MetaTensor(torch.rand(1, 20, 24, 30), affine=AFFINE)})
    data["pred"] = MetaTensor(data["image"].as_tensor() * 2, affine=data["image"].affine)
    inverted = Invertd(keys="pred", transform=pre, orig_keys="image", nearest_interp=False)(data)
    assert inverted["pred"].shape == (1, 20, 24, 30)
    torch.testing.assert_close(inverted["pred"].affine.float(), AFFINE)


def test_masks_stay_whole_numbers() -> None:
    mask = torch.randint(0, 5, (1, 30, 60, 70)).float()
    out = FitToSlabs((8, 32, 40), max_slabs=2, mode="nearest")(mask)
    assert set(out.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}


def test_too_long_a_volume_is_refused_where_depth_must_not_change() -> None:
    with pytest.raises(InputError, match="volume of 20 slices is longer than 2 slabs of 8 slices = 16"):
        FitToSlabs((8, 32, 40), max_slabs=2, depth="pad")(torch.rand(1, 20, 24, 30))


def test_unknown_options_are_named() -> None:
    with pytest.raises(ValueError, match="depth 'crop' must be one of"):
        FitToSlabs(depth="crop")
    with pytest.raises(ValueError, match="mode 'cubic' must be one of"):
        FitToSlabs(mode="cubic")
    with pytest.raises(ValueError, match=r"volume \(2, 8, 8, 8\) must be \(1, depth, height, width\)"):
        FitToSlabs()(torch.rand(2, 8, 8, 8))


def test_shrinking_is_told() -> None:
    fit = FitToSlabsd(keys="image", slab_size=(8, 32, 40), info_key="info")
    info = {"warnings": ["before"]}
    assert fit({"image": torch.rand(1, 20, 24, 30), "info": info})["info"] == info
    warnings = fit({"image": torch.rand(1, 20, 64, 30), "info": info})["info"]["warnings"]
    assert warnings[0] == "before" and "to 100% in depth, 50% in plane" in warnings[1]


def test_masks_must_lie_on_the_images_grid() -> None:
    check = CheckSameGeometryd("mask", reference_key="image")
    image = MetaTensor(torch.rand(1, 4, 5, 6), affine=AFFINE)
    assert check({"image": image, "mask": image})["mask"] is image
    with pytest.raises(InputError, match=r"mask has the shape \(1, 4, 5, 5\), its image \(1, 4, 5, 6\)"):
        check({"image": image, "mask": image[..., :5]})
    moved = MetaTensor(image.as_tensor(), affine=AFFINE + torch.tensor([[0.0, 0, 0, 3], [0] * 4, [0] * 4, [0] * 4]))
    with pytest.raises(InputError, match="affines differ by up to 3 mm"):
        check({"image": image, "mask": moved})


def test_thick_slices_are_blurred_along_the_depth_alone() -> None:
    transform = RandSimulateThickSlicesd("image", prob=1.0, zoom_range=(0.5, 0.5))
    slabs = torch.zeros(2, 16, 8, 8)
    slabs[1, 8, 4, 4] = 1.0
    thick = transform({"image": slabs})["image"]
    assert thick.shape == slabs.shape and not thick[0].any()
    assert torch.equal(thick[1].sum(dim=0) > 0, slabs[1].sum(dim=0) > 0)  # nothing moves in plane
    profile = thick[1, :, 4, 4]
    assert 0 < profile.max() < 1 and (profile > 0).sum() > 1
    ramp = torch.arange(16.0)[None, :, None, None].expand(1, 16, 4, 4)
    torch.testing.assert_close(transform({"image": ramp})["image"], ramp)  # nor along the depth


def test_thick_slices_keep_the_type_and_take_slabs_alone() -> None:
    transform = RandSimulateThickSlicesd("image", prob=1.0)
    out = transform({"image": MetaTensor(torch.rand(1, 16, 4, 4), affine=AFFINE)})["image"]
    assert isinstance(out, MetaTensor) and torch.equal(out.affine, AFFINE.to(out.affine))
    single = torch.rand(1, 1, 4, 4)
    torch.testing.assert_close(transform({"image": single})["image"], single)
    with pytest.raises(ValueError, match=r"image has the shape \(16, 4, 4\); expected slabs \(T, D, H, W\)"):
        transform({"image": torch.rand(16, 4, 4)})


def test_thick_slices_are_drawn_by_the_seed() -> None:
    slabs = torch.rand(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    runs = []
    for _ in range(2):
        transform = RandSimulateThickSlicesd("image", prob=0.5).set_random_state(3)
        runs.append(torch.stack([transform({"image": slabs})["image"] for _ in range(8)]))
    assert torch.equal(*runs)
    changed = (runs[0] != slabs).flatten(1).any(dim=1)
    assert changed.any() and not changed.all()


@pytest.mark.parametrize("zoom_range", [(0.0, 1.0), (0.5, 1.5), (0.9, 0.5), (0.5,)])
def test_factors_of_thick_slices_are_checked(zoom_range: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be two factors above 0"):
        RandSimulateThickSlicesd("image", zoom_range=zoom_range)
