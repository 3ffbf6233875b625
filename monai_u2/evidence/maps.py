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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, InvertibleTransform
from monai.utils import optional_import

from monai_u2.exceptions import InputError

ndimage, _ = optional_import("scipy.ndimage")

# places per token along each axis, at which maps are read
FINENESS = 4
# denser than that is body, as an intensity of the slabs: -300 HU in a window of -1000 to 1000 HU
BODY_INTENSITY = 0.35


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


def body_mask(image: torch.Tensor, grid: TokenGrid, threshold: float = BODY_INTENSITY) -> np.ndarray:
    """Where the body is, lungs and bowel included, on the fine grid.

    Args:
        image: slabs `(T, D, H, W)`.
        grid: their tokens.
        threshold: intensity above which a place is body.

    Returns:
        Boolean, `grid.fine_shape`: the largest connected part that is denser, its holes filled slice by slice.

    Raises:
        InputError: when nothing is that dense.
    """
    volume = torch.as_tensor(image).reshape(1, 1, -1, *image.shape[2:]).float()
    dense = F.interpolate(volume, size=grid.fine_shape, mode="area")[0, 0].numpy() > threshold
    parts, count = ndimage.label(dense)
    if count == 0:
        raise InputError(f"no place of the image is above the intensity {threshold}; expected a body in it.")
    largest = np.bincount(parts.ravel())[1:].argmax() + 1
    return np.stack([ndimage.binary_fill_holes(plane) for plane in parts == largest])


def voxel_map(weights: torch.Tensor, image: MetaTensor, grid: TokenGrid, preprocessing: Any, key: str = "image") -> Any:
    """Weights of tokens on the voxels of the CT as it was loaded, through MONAI's :class:`monai.transforms.Invertd`.

    Args:
        weights: `(T, N)`.
        image: the slabs that the preprocessing gave `(T, D, H, W)`, with the trace of its transforms.
        grid: their tokens.
        preprocessing: the composed transforms.
        key: the image's key in them.

    Returns:
        MetaTensor `(X, Y, Z)`, 0 where the preprocessing cut the image off.

    Raises:
        InputError: when the transforms can't be inverted.
    """
    slabs = F.interpolate(grid.stacked(weights[None])[None].float(), size=_volume_size(grid), mode="trilinear")
    data = {key: image, "map": MetaTensor(slabs.reshape(image.shape), affine=image.affine)}
    steps = preprocessing.transforms if isinstance(preprocessing, Compose) else [preprocessing]
    one_way = [type(step).__name__ for step in steps if not isinstance(step, InvertibleTransform)]
    reason = ""
    try:
        inverted = Invertd("map", preprocessing, orig_keys=key, nearest_interp=False)(data)["map"]
    except (ValueError, RuntimeError, KeyError) as error:
        reason = f" ({error})"
    else:
        expected = tuple(int(size) for size in image.meta["spatial_shape"])
        original = np.asarray(image.meta["original_affine"], dtype=np.float64)
        same = np.allclose(np.asarray(inverted.affine), original, atol=1e-3)
        if tuple(inverted.shape[1:]) == expected and same:
            return inverted[0]
        reason = f" (the map comes back as {tuple(inverted.shape[1:])} voxels, the CT has {expected})"
    raise InputError(
        f"the preprocessing can't be inverted{reason}, so evidence has no place in the CT; these of its transforms "
        f"have no inverse: {', '.join(one_way) or 'none'}. Use invertible ones for what changes the geometry."
    )


def _volume_size(grid: TokenGrid) -> tuple[int, int, int]:
    return tuple(count * size for count, size in zip(grid.shape, grid.token_size))


def _scaled(factor: np.ndarray) -> np.ndarray:
    """From the index of a cell that is `factor` voxels wide to the index of a voxel; both count from middles."""
    matrix = np.diag([*factor, 1.0])
    matrix[:3, 3] = (factor - 1) / 2
    return matrix
