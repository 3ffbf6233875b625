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


"""Loading a CT, and three planes of it to look at."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirst, MapTransform, Transform
from monai.utils import ImageMetaKey

from monai_u2.data.ct_reader import CTReader
from monai_u2.exceptions import InputError

__all__ = ["ExtractPlanes", "ExtractPlanesd", "LoadCT", "LoadCTd", "describe_ct", "oriented_spacing"]

# value of the pixels of a canvas outside the plane: no HU can be it
OUTSIDE_PLANE = -32768
BODY_HU = -300.0


class LoadCT(Transform):
    """Load one CT (NIfTI, NRRD, MetaImage, DICOM) as MetaTensor (1, X, Y, Z), float32 in HU, affine in RAS mm.

    Args:
        series_uid: SeriesInstanceUID to read where a DICOM folder holds several.
    """

    def __init__(self, series_uid: str | None = None) -> None:
        self.reader = CTReader(series_uid)

    def __call__(self, filename: str | Path, volume_index: int | None = None) -> MetaTensor:
        """Load ``filename``.

        Args:
            filename: file or folder.
            volume_index: which volume of a 4-D NIfTI file; None refuses such files.

        Raises:
            InputError: see :py:meth:`monai_u2.data.CTReader.read`; for an empty path, too.
        """
        if not str(filename):
            raise InputError(
                "the image's path is empty, as apps give it for unknown images; expected a file or folder."
            )
        # not through MONAI's LoadImage: making one warns of optional codecs that this reader never uses
        path = Path(filename).expanduser()
        array, meta = self.reader.get_data(self.reader.read(path, volume_index))
        meta[ImageMetaKey.FILENAME_OR_OBJ] = str(path)
        array = np.asarray(array, dtype=np.float32)  # in its own order: a copy to another takes as long as unpacking
        if min(array.strides) < 0:  # which PyTorch can't hold
            array = array.copy()
        return EnsureChannelFirst()(MetaTensor(array, meta=meta))


class LoadCTd(MapTransform):
    """Dictionary version of :py:class:`LoadCT`; a case's ``volume_index`` says which volume of a 4-D file is meant.

    Args:
        keys: keys of paths.
        info_key: where to put :py:func:`describe_ct` of the (last) image, with ``timings_s["read"]``; None for nowhere.
        series_uid: SeriesInstanceUID to read where a DICOM folder holds several.
        allow_missing_keys: pass over keys that aren't there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        info_key: str | None = None,
        series_uid: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.info_key = info_key
        self.load = LoadCT(series_uid)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            start = time.monotonic()
            d[key] = self.load(d[key], d.get("volume_index"))
            if self.info_key is not None:
                d[self.info_key] = describe_ct(d[key]) | {
                    "timings_s": {"read": round(time.monotonic() - start, 3)},
                    "loaded_at": time.monotonic(),
                }
        return d


def describe_ct(image: MetaTensor) -> dict[str, Any]:
    """Describe a loaded CT (1, X, Y, Z) in plain JSON types, without names, paths, or dates.

    Returns:
        ``source`` ("nifti", "nrrd", "metaimage", "dicom"), ``series`` (16 hex digits that tell scans apart), ``shape``,
        ``spacing_mm``, and ``extent_mm`` along the array's axes, their ``orientation`` (such as "RAS"), ``warnings``.
    """
    affine = image.affine.cpu().numpy()
    shape = [int(size) for size in image.shape[1:]]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return {
        "source": image.meta["source"],
        "series": image.meta["series"],
        "shape": shape,
        "spacing_mm": [round(float(mm), 4) for mm in spacing],
        "extent_mm": [round(float(mm * size), 1) for mm, size in zip(spacing, shape, strict=True)],
        "orientation": "".join(nib.aff2axcodes(affine)),
        "warnings": image.meta["warnings"].splitlines(),
    }


def oriented_spacing(image: MetaTensor) -> np.ndarray:
    """Return the voxel size (S, P, L) in mm of an image (1, S, P, L).

    Raises:
        ValueError: the image's axes are others.
    """
    affine = image.affine.cpu().numpy()
    codes = "".join(nib.aff2axcodes(affine))
    if codes != "SPL":
        raise ValueError(
            f"image has axes {codes}; expected SPL: put Orientationd(axcodes='SPL') before this transform."
        )
    return np.linalg.norm(affine[:3, :3], axis=0)


class ExtractPlanes(Transform):
    """Take the axial, coronal, and sagittal plane through the middle of the body, all at one scale.

    Each plane is resampled to square pixels and laid into the upper left corner of a canvas of fixed size, as one looks
    at it: axial with anterior up, coronal and sagittal with the head up, the patient's right on the left (in the
    sagittal plane: anterior on the left). So cases of any geometry can be collated.

    Args:
        size: width and height of the canvas in pixels; the volume's longest edge fills it.
    """

    def __init__(self, size: int = 512) -> None:
        self.size = size

    def __call__(self, image: MetaTensor, places: Sequence[int] | None = None) -> tuple[torch.Tensor, float]:
        """Take planes of a CT (1, S, P, L) in HU.

        Args:
            image: the CT.
            places: index of the axial, coronal, and sagittal plane along S, P, and L; None: the middle of the body.

        Returns:
            The planes (3, size, size), int16 in HU, ``OUTSIDE_PLANE`` where a canvas is empty, and the size of
            a pixel in mm.

        Raises:
            ValueError: the image's axes aren't S, P, L.
        """
        spacing = oriented_spacing(image)
        volume = image.as_tensor()[0]
        places = _body_middle(volume) if places is None else places
        pixel_mm = float(max(spacing * np.array(volume.shape)) / self.size)
        planes = torch.full((3, self.size, self.size), OUTSIDE_PLANE, dtype=torch.int16)
        for canvas, axis in zip(planes, range(3), strict=True):
            plane = volume.select(axis, places[axis])
            mm = np.delete(spacing, axis)
            size = [max(1, round(n * edge / pixel_mm)) for n, edge in zip(plane.shape, mm, strict=True)]
            pixels = F.interpolate(plane[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
            if axis > 0:
                pixels = pixels.flip(0)  # rows run to superior, and a picture's run down
            canvas[: size[0], : size[1]] = pixels.round().clamp(-32767, 32767).to(torch.int16)
        return planes, pixel_mm


class ExtractPlanesd(MapTransform):
    """Dictionary version of :py:class:`ExtractPlanes`.

    Args:
        keys: keys of CT images (1, S, P, L) in HU.
        planes_key: where to put the planes; the pixels' size goes to ``f"{planes_key}_mm"``.
        size: width and height of the canvas in pixels.
        allow_missing_keys: pass over keys that aren't there.
    """

    def __init__(
        self, keys: KeysCollection, planes_key: str = "planes", size: int = 512, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.planes_key = planes_key
        self.extract = ExtractPlanes(size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[self.planes_key], d[f"{self.planes_key}_mm"] = self.extract(d[key])
        return d


def _body_middle(volume: torch.Tensor) -> list[int]:
    """Index of the center of gravity of what is denser than lung, on every fourth voxel; the middle if nothing is."""
    body = volume[::4, ::4, ::4] > BODY_HU
    places = body.nonzero()
    if not len(places):
        return [size // 2 for size in volume.shape]
    return [
        min(int(4 * place), size - 1) for place, size in zip(places.float().mean(0).tolist(), volume.shape, strict=True)
    ]
