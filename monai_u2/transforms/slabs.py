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

"""Slabs: the form in which the model reads a CT volume."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, RandomizableTransform, Resize
from monai.utils import convert_to_dst_type, convert_to_tensor, ensure_tuple_rep

from monai_u2.exceptions import InputError
from monai_u2.transforms.resize import resize_volume

DEPTH_OPTIONS = ("resample", "pad")
MODE_OPTIONS = ("trilinear", "nearest")
# the training phantoms themselves are shrunk to as little as this
SHRINKING_TO_TELL = 0.85


class FitToSlabs(InvertibleTransform):
    """Fit an oriented volume to slabs: `(1, depth, height, width)` to `(T, D, H, W)`.

    In plane the volume is shrunk, keeping its ratio, only where it is larger than `(H, W)`, and padded symmetrically
    with zeros; in depth it is padded with zeros at its end to a multiple of D and split. The voxel size of the slabs is
    that of the input, but where something had to shrink; the affine is kept right, and :meth:`inverse` undoes it all.

    Args:
        slab_size: size of one slab `(D, H, W)` in voxels.
        max_slabs: largest number of slabs T.
        depth: what happens to a volume longer than `max_slabs` slabs: `"resample"` shrinks it in depth, `"pad"`
            refuses it.
        mode: interpolation, `"trilinear"` (smoothed before shrinking) for images, `"nearest"` for masks.

    Raises:
        ValueError: when an option is unknown.
    """

    def __init__(
        self,
        slab_size: Sequence[int] = (32, 256, 256),
        max_slabs: int = 8,
        depth: str = "resample",
        mode: str = "trilinear",
    ) -> None:
        if depth not in DEPTH_OPTIONS:
            raise ValueError(f"depth {depth!r} must be one of {DEPTH_OPTIONS}.")
        if mode not in MODE_OPTIONS:
            raise ValueError(f"mode {mode!r} must be one of {MODE_OPTIONS}.")
        self.slab_size = tuple(slab_size)
        self.max_slabs = max_slabs
        self.depth = depth
        self.mode = mode

    def fitted_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Size of the volume after shrinking, before padding."""
        depth, height, width = shape
        if 0 in shape:
            raise InputError(
                f"volume {tuple(shape)} is empty: no voxel of it is foreground; expected a CT in HU. Check its values, "
                "and the rescale slope and intercept."
            )
        scale = min(1.0, self.slab_size[1] / height, self.slab_size[2] / width)
        max_depth = self.max_slabs * self.slab_size[0]
        if depth > max_depth and self.depth == "pad":
            raise InputError(
                f"volume of {depth} slices is longer than {self.max_slabs} slabs of {self.slab_size[0]} slices = "
                f"{max_depth}: "
                "raise max_slabs, use a larger spacing in depth, or depth='resample'."
            )
        return min(depth, max_depth), max(1, round(height * scale)), max(1, round(width * scale))

    def _resize(self, volume: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        if tuple(volume.shape[1:]) == tuple(shape):
            return volume
        if self.mode == "trilinear":
            return resize_volume(volume[0], shape)[None]
        return convert_to_tensor(Resize(shape, mode=self.mode)(volume), track_meta=False)

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """
        Args:
            img: `(1, depth, height, width)`, axes to superior, posterior, left (any orientation works the same).

        Returns:
            `(T, D, H, W)`.

        Raises:
            ValueError: when `img` isn't one channel of a volume.
            InputError: when the volume is too long and `depth` is `"pad"`.
        """
        if img.ndim != 4 or img.shape[0] != 1:
            raise ValueError(f"volume {tuple(img.shape)} must be (1, depth, height, width).")
        original = tuple(img.shape[1:])
        fitted = self.fitted_shape(original)
        data = self._resize(convert_to_tensor(img, track_meta=False), fitted)
        slabs = -(-fitted[0] // self.slab_size[0])
        in_plane = [(size - fit) // 2 for size, fit in zip(self.slab_size[1:], fitted[1:])]
        before = (0, *in_plane)
        after = [slabs * self.slab_size[0] - fitted[0]]
        after += [size - fit - start for size, fit, start in zip(self.slab_size[1:], fitted[1:], in_plane)]
        padding = [value for pair in reversed(list(zip(before, after))) for value in pair]
        data = F.pad(data, padding).reshape(slabs, *self.slab_size)
        if not isinstance(img, MetaTensor):
            return data
        scale = np.array(original) / np.array(fitted)
        to_original = np.eye(4)
        to_original[:3, :3] = np.diag(scale)
        to_original[:3, 3] = -np.array(before) * scale + (scale - 1) / 2  # voxel centers, not corners, are scaled
        affine = img.affine
        out = MetaTensor(data, meta=img.meta, applied_operations=img.applied_operations)
        out.affine = affine @ convert_to_tensor(to_original, dtype=affine.dtype, track_meta=False)
        info = {"fitted": fitted, "before": before, "affine": affine.tolist()}
        self.push_transform(out, orig_size=original, extra_info=info)
        return out

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """`(T, D, H, W)` with its trace, to `(1, depth, height, width)` in the geometry before."""
        operation = self.pop_transform(data)
        info = operation["extra_info"]
        volume = convert_to_tensor(data, track_meta=False).reshape(1, -1, *self.slab_size[1:])
        region = tuple(slice(start, start + size) for start, size in zip(info["before"], info["fitted"]))
        volume = self._resize(volume[(slice(None), *region)], operation["orig_size"])
        out = MetaTensor(volume, meta=data.meta, applied_operations=data.applied_operations)
        out.affine = torch.as_tensor(info["affine"], dtype=data.affine.dtype)
        return out


class FitToSlabsd(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`FitToSlabs`.

    Args:
        keys: keys of the volumes.
        slab_size: see :class:`FitToSlabs`, as the next two.
        max_slabs: see :class:`FitToSlabs`.
        depth: see :class:`FitToSlabs`.
        mode: interpolation of each key.
        info_key: key of the case's info (see :class:`monai_u2.transforms.LoadCTd`); a warning goes there where the
            first
            key's volume had to shrink.
        allow_missing_keys: whether a missing key is no error.
    """

    def __init__(
        self,
        keys: KeysCollection,
        slab_size: Sequence[int] = (32, 256, 256),
        max_slabs: int = 8,
        depth: str = "resample",
        mode: str | Sequence[str] = "trilinear",
        info_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.info_key = info_key
        self.fits = [FitToSlabs(slab_size, max_slabs, depth, m) for m in ensure_tuple_rep(mode, len(self.keys))]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if self.info_key is not None:
            shape = d[self.keys[0]].shape[1:]
            shares = [new / old for new, old in zip(self.fits[0].fitted_shape(shape), shape)]
            if min(shares) < SHRINKING_TO_TELL:
                depth, plane = shares[0], shares[1]
                text = f"shrunk to fit the slabs: to {depth:.0%} in depth, {plane:.0%} in plane; sizes may be misjudged"
                info = d[self.info_key]
                d[self.info_key] = info | {"warnings": [*info["warnings"], text]}
        for key, fit in self.key_iterator(d, self.fits):
            d[key] = fit(d[key])
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key, fit in self.key_iterator(d, self.fits):
            d[key] = fit.inverse(d[key])
        return d


class CheckSameGeometryd(MapTransform):
    """Check that masks lie on the grid of their image: same shape, same affine.

    Args:
        keys: keys of the masks.
        reference_key: key of the image.
        atol: largest difference of the affines' entries in mm.
        allow_missing_keys: whether a missing key is no error.
    """

    def __init__(
        self, keys: KeysCollection, reference_key: str, atol: float = 1e-2, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reference_key = reference_key
        self.atol = atol

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        reference = d[self.reference_key]
        for key in self.key_iterator(d):
            if d[key].shape != reference.shape:
                raise InputError(
                    f"{key} has the shape {tuple(d[key].shape)}, its {self.reference_key} {tuple(reference.shape)}; "
                    "expected a mask on the image's grid. Resample the mask to the image."
                )
            difference = float((d[key].affine - reference.affine).abs().max())
            if difference > self.atol:
                raise InputError(
                    f"{key} lies elsewhere than its {self.reference_key}: their affines differ by up to {difference:g} "
                    f"mm; "
                    "expected a mask on the image's grid. Resample the mask to the image."
                )
        return d


class RandSimulateThickSlicesd(RandomizableTransform, MapTransform):
    """Make slices thicker: resample slabs along their depth to fewer slices and back, both linearly.

    As :class:`monai.transforms.RandSimulateLowResolutiond`, but along the slices alone, as in scans with few, thick
    slices; the first and the last slice stay where they are.

    Args:
        keys: keys of slabs `(T, D, H, W)`.
        prob: probability of the change.
        zoom_range: range of the factor on the number of slices D.
        allow_missing_keys: don't raise where a key is missing.

    Raises:
        ValueError: when the factors don't lie above 0 and up to 1, in ascending order; for what are no slabs.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        zoom_range: Sequence[float] = (0.4, 1.0),
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if len(zoom_range) != 2 or not 0 < zoom_range[0] <= zoom_range[1] <= 1:
            raise ValueError(f"zoom_range {tuple(zoom_range)} must be two factors above 0 and up to 1, ascending.")
        self.zoom_range = tuple(zoom_range)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.randomize(None)
        zoom = self.R.uniform(*self.zoom_range)
        if not self._do_transform:
            return d
        for key in self.key_iterator(d):
            slabs = convert_to_tensor(d[key])
            if slabs.ndim != 4:
                raise ValueError(f"{key} has the shape {tuple(slabs.shape)}; expected slabs (T, D, H, W).")
            depth, *plane = slabs.shape[1:]
            for size in (max(2, round(depth * zoom)), depth):
                slabs = F.interpolate(slabs[None], (size, *plane), mode="trilinear", align_corners=True)[0]
            d[key] = convert_to_dst_type(slabs, d[key])[0]
        return d
