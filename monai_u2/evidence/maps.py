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


"""Weights of visual tokens as places: on the token grid, on a finer grid in mm, and on the voxels of the CT itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Compose, InvertibleTransform, Spacingd, allow_missing_keys_mode
from monai.utils import optional_import

from monai_u2.exceptions import InputError

ndimage, _ = optional_import("scipy.ndimage")

# places per token along each axis, at which maps are read
FINENESS = 4
# denser than that is body
BODY_HU = -300.0
# HU of the slabs' intensities 0 and 1 in the bundle's own preprocessing
HU_WINDOW = (-1000.0, 1000.0)
# edge in voxels of what is resampled at once: MONAI's grid has 28 bytes for each of its voxels
_BLOCK = 64
# maps of as many different values take a fraction of the space, and of the time to pack them
_VOXEL_STEPS = 256


@dataclass(frozen=True)
class TokenGrid:
    """The grid of a case's visual tokens, its slabs stacked along the depth.

    Args:
        slabs: number of slabs T.
        tokens: tokens of one slab along depth, height and width `(d, h, w)`.
        token_size: size of a token in voxels of the slabs.
        affine: of the slabs' voxels `(T D, H, W)` to RAS mm `(4, 4)`.
    """

    slabs: int
    tokens: tuple[int, int, int]
    token_size: tuple[int, int, int]
    affine: np.ndarray

    @classmethod
    def of(cls, image: MetaTensor, tokens: Sequence[int]) -> TokenGrid:
        """Grid of the tokens `(d, h, w)` of slabs `(T, D, H, W)`.

        Raises:
            InputError: when the image has lost its geometry.
        """
        if not isinstance(image, MetaTensor):
            raise InputError(
                f"the image is a {type(image).__name__} without geometry; expected the MetaTensor that the "
                "preprocessing gives. Find the evidence before the image is turned into a plain tensor."
            )
        size = tuple(edge // count for edge, count in zip(image.shape[1:], tokens, strict=True))
        return cls(len(image), tuple(tokens), size, np.asarray(image.affine.cpu(), dtype=np.float64))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tokens along depth, height and width of the volume."""
        depth, height, width = self.tokens
        return self.slabs * depth, height, width

    @property
    def fine_shape(self) -> tuple[int, int, int]:
        return tuple(FINENESS * count for count in self.shape)

    @property
    def token_affine(self) -> np.ndarray:
        """From a token's index to RAS mm."""
        return self.affine @ _scaled(np.array(self.token_size, dtype=np.float64))

    @property
    def fine_affine(self) -> np.ndarray:
        """From a place of the fine grid to RAS mm."""
        return self.token_affine @ _scaled(np.full(3, 1 / FINENESS))

    @property
    def token_mm(self) -> np.ndarray:
        """Size of a token in mm along depth, height and width."""
        return np.linalg.norm(self.token_affine[:3, :3], axis=0)

    def stacked(self, weights: torch.Tensor) -> torch.Tensor:
        """`(S, T, N)` to `(S, T d, h, w)`."""
        return weights.unflatten(2, self.tokens).flatten(1, 2)


def fine_maps(weights: torch.Tensor, grid: TokenGrid) -> torch.Tensor:
    """Weights of tokens `(S, T, N)`, interpolated linearly between their middles: `(S, T d f, h f, w f)`."""
    return F.interpolate(grid.stacked(weights)[:, None].float(), size=grid.fine_shape, mode="trilinear")[:, 0]


def intensity_of(hu: float, hu_window: Sequence[float] = HU_WINDOW) -> float:
    """Intensity of the slabs for an attenuation in HU, 0 and 1 at the ends of the window and outside of it."""
    low, high = hu_window
    return float(np.clip((hu - low) / (high - low), 0, 1))


def body_mask(image: torch.Tensor, grid: TokenGrid, hu_window: Sequence[float] = HU_WINDOW) -> np.ndarray:
    """Where the body is, lungs and bowel included, on the fine grid.

    Args:
        image: slabs `(T, D, H, W)`.
        grid: their tokens.
        hu_window: HU of the intensities 0 and 1. Body is denser than -300 HU, or than the window's lower end.

    Returns:
        Boolean, `grid.fine_shape`: the largest connected part that is denser, its holes filled slice by slice.

    Raises:
        InputError: when nothing is that dense.
    """
    volume = torch.as_tensor(image).reshape(1, 1, -1, *image.shape[2:]).float()
    threshold = intensity_of(BODY_HU, hu_window)
    dense = F.interpolate(volume, size=grid.fine_shape, mode="area")[0, 0].numpy() > threshold
    parts, count = ndimage.label(dense)
    if count == 0:
        raise InputError(f"no place of the image is above the intensity {threshold}; expected a body in it.")
    largest = np.bincount(parts.ravel())[1:].argmax() + 1
    return np.stack([ndimage.binary_fill_holes(plane) for plane in parts == largest])


def voxel_map(weights: torch.Tensor, image: MetaTensor, grid: TokenGrid, preprocessing: Any, key: str = "image") -> Any:
    """Weights of tokens on the voxels of the CT as it was loaded, through the inverses of MONAI's transforms.

    Args:
        weights: `(T, N)`, 0 to 1.
        image: the slabs that the preprocessing gave `(T, D, H, W)`, with the trace of its transforms.
        grid: their tokens.
        preprocessing: the composed transforms.
        key: the image's key in them.

    Returns:
        MetaTensor `(X, Y, Z)`, float32 in steps of 1/256, 0 where the preprocessing cut the image off.

    Raises:
        InputError: when the transforms can't be inverted.
    """
    slabs = F.interpolate(grid.stacked(weights[None])[None].float(), size=_volume_size(grid), mode="trilinear")
    trace = deepcopy(image.applied_operations)
    traced = MetaTensor(slabs.reshape(image.shape), meta=deepcopy(image.meta), applied_operations=trace)
    steps = preprocessing.flatten().transforms if isinstance(preprocessing, Compose) else [preprocessing]
    one_way = [type(step).__name__ for step in steps if not isinstance(step, InvertibleTransform)]
    reason = ""
    try:
        inverted = _inverted(traced, steps, key)
    except (ValueError, RuntimeError, KeyError) as error:
        reason = f" ({error})"
    else:
        expected = tuple(int(size) for size in image.meta["spatial_shape"])
        original = np.asarray(image.meta["original_affine"], dtype=np.float64)
        same = np.allclose(np.asarray(inverted.affine), original, atol=1e-3)
        if tuple(inverted.shape[1:]) == expected and same:
            rounded = inverted.dtype == torch.float16
            return inverted[0].float() if rounded else _in_steps(inverted[0].float())
        reason = f" (the map comes back as {tuple(inverted.shape[1:])} voxels, the CT has {expected})"
    raise InputError(
        f"the preprocessing can't be inverted{reason}, so evidence has no place in the CT; these of its transforms "
        f"have no inverse: {', '.join(one_way) or 'none'}. Use invertible ones for what changes the geometry."
    )


def _inverted(volume: MetaTensor, steps: Sequence[Any], key: str) -> MetaTensor:
    for step in reversed([step for step in steps if isinstance(step, InvertibleTransform)]):
        if isinstance(step, Spacingd) and key in step.keys:
            volume = _inverted_spacing(volume, step)
        else:
            with allow_missing_keys_mode(step):
                volume = step.inverse({key: volume})[key]
    return volume


def _inverted_spacing(volume: MetaTensor, step: Spacingd) -> MetaTensor:
    """`Spacingd.inverse`, block by block and in float16: at once a large CT takes gigabytes. Blocks without evidence
    are left out."""
    if step.spacing_transform.recompute_affine:
        raise ValueError("Spacingd with recompute_affine loses where the image lies in the patient")
    resample = step.spacing_transform.sp_resample
    operation = resample.pop_transform(volume)
    options = dict(operation["extra_info"])
    affine, size = np.asarray(options["src_affine"], dtype=np.float64), [int(edge) for edge in operation["orig_size"]]
    to_volume = np.linalg.solve(np.asarray(volume.affine, dtype=np.float64), affine)
    result = torch.zeros((len(volume), *size), dtype=torch.float16)

    def fill(first: tuple[int, ...]) -> None:
        block = result[(..., *(slice(start, start + _BLOCK) for start in first))]
        if _read_by(volume, block.shape[1:], to_volume @ _moved(first)).max() < 0.5 / _VOXEL_STEPS:
            return
        resampled = resample(
            volume,
            dst_affine=torch.from_numpy(affine @ _moved(first)),
            spatial_size=block.shape[1:],
            mode=options["mode"],
            padding_mode=options["padding_mode"],
            align_corners=False,  # in indexes of voxels it is the same, but for a block of one voxel
            dtype=torch.float32,
            lazy=False,
        )
        block.copy_(_in_steps(resampled.as_tensor()))

    # PyTorch samples one volume by one thread
    with resample.trace_transform(False), ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(fill, itertools.product(*(range(0, edge, _BLOCK) for edge in size))))
    meta = {**volume.meta, "affine": torch.from_numpy(affine)}
    return MetaTensor(result, meta=meta, applied_operations=volume.applied_operations)


def _read_by(volume: MetaTensor, size: Sequence[int], to_volume: np.ndarray) -> torch.Tensor:
    """The voxels between which a block of `size` voxels is interpolated."""
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, edge - 1) for edge in size))])
    places = (to_volume @ corners.T)[:3]
    last = np.array(volume.shape[1:]) - 1
    low = np.clip(np.floor(places.min(axis=1)) - 1, 0, last).astype(int)
    high = np.clip(np.ceil(places.max(axis=1)) + 1, 0, last).astype(int)
    return volume.as_tensor()[(..., *(slice(start, end + 1) for start, end in zip(low, high)))]


def _moved(first: Sequence[int]) -> np.ndarray:
    """From the index of a voxel in a block to that in the volume, where the block begins at `first`."""
    matrix = np.eye(4)
    matrix[:3, 3] = first
    return matrix


def _in_steps(values: torch.Tensor) -> torch.Tensor:
    return values.mul_(_VOXEL_STEPS).round_().div_(_VOXEL_STEPS)


def _volume_size(grid: TokenGrid) -> tuple[int, int, int]:
    return tuple(count * size for count, size in zip(grid.shape, grid.token_size))


def _scaled(factor: np.ndarray) -> np.ndarray:
    """From the index of a cell that is `factor` voxels wide to the index of a voxel; both count from middles."""
    matrix = np.diag([*factor, 1.0])
    matrix[:3, 3] = (factor - 1) / 2
    return matrix
