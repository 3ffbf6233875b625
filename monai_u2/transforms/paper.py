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

"""What the official preprocessing does and MONAI has no transform for."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform, generate_spatial_bounding_box
from monai.utils import convert_to_tensor

from monai_u2.exceptions import InputError
from monai_u2.transforms.resize import resize_volume


class ScalePercentilesAndCrop(Transform):
    """Scale intensities between two percentiles of the volume to [0, 1], and crop it to what lies above the lower one.

    As MONAI's `ScaleIntensityRangePercentiles` (with `clip`) and `CropForeground` after each other, in half of the
    time: one pass finds both percentiles, and only what is left is scaled.

    Args:
        lower: lower percentile in percent, which becomes 0.
        upper: upper percentile in percent, which becomes 1.
    """

    def __init__(self, lower: float = 0.5, upper: float = 99.5) -> None:
        self.lower = lower
        self.upper = upper

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """
        Args:
            img: `(1, X, Y, Z)`.

        Returns:
            float32 `(1, X', Y', Z')`, without metadata.

        Raises:
            InputError: when both percentiles are the same.
        """
        volume = convert_to_tensor(img, track_meta=False)
        low, high = (float(value) for value in np.percentile(volume.cpu().numpy(), [self.lower, self.upper]))
        if not low < high:
            raise InputError(
                f"the percentiles {self.lower:g} and {self.upper:g} of the volume are both {low:g}; expected a CT with "
                "something in it. Crop padding away, or check the export."
            )
        start, end = generate_spatial_bounding_box(volume, partial(operator.lt, low))
        region = tuple(slice(first, last) for first, last in zip(start, end))
        cropped = volume[(slice(None), *region)].to(torch.float32, copy=True)
        return cropped.sub_(low).div_(high - low).clamp_(0, 1)


class ScalePercentilesAndCropd(MapTransform):
    """Dictionary version of :class:`ScalePercentilesAndCrop`.

    Args:
        keys: keys of volumes `(1, X, Y, Z)`.
        lower: see :class:`ScalePercentilesAndCrop`, as the next one.
        upper: see :class:`ScalePercentilesAndCrop`.
        allow_missing_keys: don't raise where a key is missing.
    """

    def __init__(
        self, keys: KeysCollection, lower: float = 0.5, upper: float = 99.5, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scale = ScalePercentilesAndCrop(lower, upper)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.scale(d[key])
        return d


class PaperResize(Transform):
    """Resize a volume as the published code does, pad it with zeros, and cut it into slabs.

    In plane the larger side becomes `in_plane_size`, up or down, and the other follows (both truncated to whole voxels,
    by which a size may miss its target by one); a depth above `depth` becomes `depth`. Where an axis shrinks the volume
    is smoothed first. Zeros fill the ends. The published order of the axes is that of the file, without orientation
    and spacing: left and right may be either way, and a voxel has any size. For that reason the bundle's default is
    :class:`FitToSlabs` after orientation and spacing; this is for models that were trained on the published one.

    Args:
        in_plane_size: size of both axes in plane, in voxels.
        depth: largest depth, to which shorter volumes are padded.
        slab_depth: depth of one slab; must divide `depth`.

    Raises:
        ValueError: when `depth` is not divisible by `slab_depth`.
    """

    def __init__(self, in_plane_size: int = 256, depth: int = 256, slab_depth: int = 32) -> None:
        if depth % slab_depth:
            raise ValueError(f"depth {depth} must be divisible by slab_depth {slab_depth}.")
        self.in_plane_size = in_plane_size
        self.depth = depth
        self.slab_depth = slab_depth

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """
        Args:
            img: `(1, X, Y, Z)`, axes as in a NIfTI file.

        Returns:
            `(T, slab_depth, in_plane_size, in_plane_size)`, `T = depth / slab_depth`, axes Z, X, Y.

        Raises:
            InputError: when the volume isn't of this form or empty.
        """
        volume = convert_to_tensor(img)
        if volume.ndim != 4 or volume.shape[0] != 1 or 0 in volume.shape:
            raise InputError(
                f"volume {tuple(volume.shape)}; expected one channel of voxels, (1, X, Y, Z). (Of a volume of one "
                "intensity the crop leaves nothing.)"
            )
        rows, columns, depth = volume.shape[1:]
        ratio = min(self.in_plane_size / rows, self.in_plane_size / columns)
        size = (int(rows * ratio), int(columns * ratio), min(depth, self.depth))
        if 0 in size:
            raise InputError(f"volume {tuple(volume.shape)} would be resized to {size}; expected a volume, not a line.")
        resized = resize_volume(convert_to_tensor(volume, track_meta=False)[0], size, align_corners=True)
        target = (self.in_plane_size, self.in_plane_size, self.depth)
        missing = [wanted - there for wanted, there in zip(target, resized.shape)]
        padded = F.pad(resized, (0, missing[2], 0, missing[1], 0, missing[0]))
        return padded.permute(2, 0, 1).unflatten(0, (-1, self.slab_depth)).contiguous()


class PaperResized(MapTransform):
    """Dictionary version of :class:`PaperResize`.

    Args:
        keys: keys of volumes `(1, X, Y, Z)`.
        in_plane_size: see :class:`PaperResize`, as the next two.
        depth: see :class:`PaperResize`.
        slab_depth: see :class:`PaperResize`.
        allow_missing_keys: don't raise where a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        in_plane_size: int = 256,
        depth: int = 256,
        slab_depth: int = 32,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.resize = PaperResize(in_plane_size, depth, slab_depth)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.resize(d[key])
        return d
