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

"""Volumes that are pictures: gray values of a display window, without HU, spacing and orientation."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from monai_u2.exceptions import InputError

PICTURE_SUFFIXES = (".jpeg", ".jpg", ".png")


def list_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of the numbers in their names: 2.png before 10.png."""
    pictures = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
    return sorted(pictures, key=lambda path: ([int(n) for n in re.findall(r"\d+", path.stem)], path.name))


class LoadWindowedVolume(Transform):
    """Load a volume of gray values: a `.npy` of floats in [0, 1], or a folder of 8-bit pictures, one a slice.

    As M3D-Cap has them. Gray values of a display window are no HU, and nothing says how large a voxel is or which way
    the axes run: the tensor has no affine, and transforms that need one don't fit it.
    """

    def __call__(self, filename: str | Path) -> torch.Tensor:
        """
        Args:
            filename: the file, `(1, D, H, W)` or `(D, H, W)`, or the folder.

        Returns:
            float32 `(1, D, H, W)`, in [0, 1].

        Raises:
            InputError: when nothing is there, it can't be read or isn't such a volume.
        """
        path = Path(filename).expanduser()
        if path.is_dir():
            volume = self._read_pictures(path)
        elif path.suffix == ".npy" and path.is_file():
            volume = self._read_array(path)
        else:
            raise InputError(
                f"{path.name}: no such folder of pictures or .npy file; expected a folder of "
                f"{', '.join(PICTURE_SUFFIXES)} (one a slice), or a .npy of floats in [0, 1]. Check the path."
            )
        if volume.min() == volume.max():
            raise InputError(f"{path.name}: all values are {volume.min():g}; expected a volume. Check the file.")
        return torch.from_numpy(volume)[None]

    def _read_pictures(self, path: Path) -> np.ndarray:
        from PIL import Image, UnidentifiedImageError

        slices: list[np.ndarray] = []
        pictures = list_pictures(path)
        for picture in pictures:
            try:
                with Image.open(picture) as image:
                    slices.append(np.asarray(image.convert("L"), dtype=np.float32) / 255)
            except (UnidentifiedImageError, OSError) as error:
                raise InputError(f"{path.name}/{picture.name}: can't be read as a picture; copy it again.") from error
            if slices[-1].shape != slices[0].shape:
                raise InputError(
                    f"{path.name}/{picture.name}: is {slices[-1].shape} pixels, {pictures[0].name} {slices[0].shape}; "
                    "expected slices of one size. Drop the case."
                )
        if len(slices) < 2:
            raise InputError(f"{path.name}: holds {len(slices)} pictures; expected at least two slices. Drop the case.")
        return np.stack(slices)

    def _read_array(self, path: Path) -> np.ndarray:
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path.name}: can't be read as .npy ({error}); copy it again.") from error
        if array.ndim == 4 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != 3 or min(array.shape) < 2 or array.dtype.kind != "f":
            raise InputError(
                f"{path.name}: is {array.dtype} {array.shape}; expected floats of (1, depth, height, width)."
            )
        volume = array.astype(np.float32)
        if not np.isfinite(volume).all() or volume.min() < 0 or volume.max() > 1:
            raise InputError(
                f"{path.name}: its values lie in {volume.min():g} to {volume.max():g}; expected gray values in [0, 1]. "
                "Load a volume in HU with LoadCTd."
            )
        return volume


class LoadWindowedVolumed(MapTransform):
    """Dictionary version of :class:`LoadWindowedVolume`.

    Args:
        keys: keys of paths.
        info_key: where to put the (last) volume's `source` ("pictures"), `shape` and `warnings`; None for nowhere.
        allow_missing_keys: whether a missing key is no error.
    """

    def __init__(self, keys: KeysCollection, info_key: str | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.info_key = info_key
        self.load = LoadWindowedVolume()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.load(d[key])
            if self.info_key is not None:
                warning = "gray values of pictures, not HU; voxel size and left and right are unknown"
                d[self.info_key] = {"source": "pictures", "shape": [*d[key].shape[1:]], "warnings": [warning]}
        return d
