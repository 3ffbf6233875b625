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

"""What a record says in place of a file's header."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from monai_u2.data.records import HEADER_KEYS
from monai_u2.transforms.load import describe_ct


class CorrectHeader(Transform):
    """Give a loaded CT the voxel size, directions and HU that its data set's tables say, where the file's are wrong.

    The position of the first voxel stays that of the file. What is None stays as the file has it.
    """

    def __call__(
        self,
        img: MetaTensor,
        spacing: Sequence[float] | None = None,
        image_orientation: Sequence[float] | None = None,
        rescale_slope: float | None = None,
        rescale_intercept: float | None = None,
    ) -> MetaTensor:
        """
        Args:
            img: `(1, X, Y, Z)`, axes as in the file, with its affine to RAS mm.
            spacing: voxel size along X, Y, Z in mm.
            image_orientation: directions of X and Y in LPS, see :mod:`monai_u2.data.records`; Z is their cross product.
            rescale_slope: factor of the stored values.
            rescale_intercept: added after it, in HU.

        Returns:
            Image of the same shape.
        """
        out = img
        if rescale_slope is not None or rescale_intercept is not None:
            out = out * (1.0 if rescale_slope is None else rescale_slope) + (rescale_intercept or 0.0)
        if spacing is None and image_orientation is None:
            return out
        affine = img.affine.cpu().numpy().astype(np.float64)
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        directions = affine[:3, :3] / lengths
        if image_orientation is not None:
            first, second = np.asarray(image_orientation, dtype=np.float64).reshape(2, 3)
            axes = np.stack([first, second, np.cross(first, second)], axis=1)
            directions = np.diag([-1.0, -1.0, 1.0]) @ axes / np.linalg.norm(axes, axis=0)
        # rounded as a NIfTI header would, so that a file that was mended gives the same numbers
        affine[:3, :3] = (directions * (lengths if spacing is None else np.asarray(spacing))).astype(np.float32)
        out = MetaTensor(out, meta=dict(img.meta), applied_operations=img.applied_operations)
        out.affine = torch.as_tensor(affine)
        out.meta["original_affine"] = affine.copy()
        return out


class CorrectHeaderd(MapTransform):
    """Dictionary version of :class:`CorrectHeader`: takes `spacing`, `image_orientation`, `rescale_slope` and
    `rescale_intercept` from the case, and takes these keys away, so that nothing is applied twice.

    A case without them stays as it is. Put it right after :class:`monai_u2.transforms.LoadCTd`.

    Args:
        keys: keys of loaded CTs.
        info_key: key of the case's info (see :class:`monai_u2.transforms.LoadCTd`), whose geometry follows.
        allow_missing_keys: whether a missing key is no error.
    """

    def __init__(self, keys: KeysCollection, info_key: str | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.info_key = info_key
        self.correct = CorrectHeader()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        header = {key: d.pop(key) for key in HEADER_KEYS if key in d}
        header.pop("volume_index", None)  # LoadCTd has followed it
        if not header:
            return d
        for key in self.key_iterator(d):
            d[key] = self.correct(d[key], **header)
            if self.info_key is not None:
                d[self.info_key] = d[self.info_key] | describe_ct(d[key])
        return d
