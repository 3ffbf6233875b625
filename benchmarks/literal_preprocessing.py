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

"""The published preprocessing written out step by step: the baseline of `preprocess.py`.

Its steps are those of MONAI that the published code composes, in its order and its precision.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import CropForeground, GaussianSmooth, ScaleIntensityRangePercentiles


def literal_preprocessing(volume: np.ndarray, in_plane_size: int, depth: int, slab_depth: int) -> torch.Tensor:
    """A stored volume `(X, Y, Z)` to slabs `(depth / slab_depth, slab_depth, in_plane_size, in_plane_size)`."""
    stack = volume.astype(np.float64).transpose(2, 0, 1)[None]
    scaled = ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)(stack)
    cropped = torch.as_tensor(CropForeground(allow_smaller=True)(scaled)).as_subclass(torch.Tensor)
    resized = cropped.permute(0, 2, 3, 1)

    rows, columns, slices = resized.shape[1:]
    ratio = min(in_plane_size / rows, in_plane_size / columns)
    size = (int(rows * ratio), int(columns * ratio), slices if depth >= slices else depth)
    if any(new < old for new, old in zip(size, resized.shape[1:])):
        sigma = [max(0.0, (old / new - 1) / 2) for new, old in zip(size, resized.shape[1:])]
        resized = torch.as_tensor(GaussianSmooth(sigma=sigma)(resized)).as_subclass(torch.Tensor)
    resized = F.interpolate(resized[None], size=size, mode="trilinear", align_corners=True)[0, 0]

    padded = torch.zeros(in_plane_size, in_plane_size, depth)
    padded[: size[0], : size[1], : size[2]] = resized
    return padded.permute(2, 0, 1).reshape(-1, slab_depth, in_plane_size, in_plane_size)
