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

"""Preprocessed cases on disk, keyed by the preprocessing and the files themselves."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import PersistentDataset
from monai.transforms import Compose, RandomizableTrait, reset_ops_id
from monai.utils import ensure_tuple

from monai_u2.data.cache_folder import CacheFolder, storable
from monai_u2.data.folders import files_below
from monai_u2.data.records import HEADER_KEYS
from monai_u2.data.transform_description import describe_transforms, hash_description
from monai_u2.exceptions import InputError

_logger = logging.getLogger(__name__)

CACHE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}
"""How intensities may be stored, all read back as float32."""

LARGEST_ERRORS = {"float32": 0.0, "float16": 2.0**-12, "uint8": 1 / 510}
"""Largest difference of an intensity in [0, 1] from what was preprocessed."""

_DETACHED_HEADERS = (".mhd", ".nhdr")
_DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)[ \t]*(.*?)\s*$", flags=re.MULTILINE | re.IGNORECASE)


class CachedDataset(PersistentDataset):
    """MONAI's `PersistentDataset` with a key that nothing stale fits.

    The first `cache_n_trans` transforms see the keys `file_keys` of a case alone and run once; their result is stored
    and takes the place of these keys. The other transforms, all random ones among them, run each time. So questions and
    answers may change, and several records of one image share one entry.

    An entry's key is the hash of the cached transforms (see :func:`describe_transforms`), of `dtype` and `track_meta`,
    and of the case's files: resolved path, size and time of modification in nanoseconds; of a folder those of all files
    in it; of a MetaImage or NRRD header its data file's, too. A case is what was stored also when it is preprocessed
    now, so that it is the same the first time and later. Processes may share the folder and fill it together; see
    :class:`CacheFolder`.

    Args:
        data: cases.
        transform: all transforms.
        cache_dir: folder; null for no cache.
        cache_n_trans: number of transforms that are cached, as of :class:`monai.data.CacheNTransDataset`.
        file_keys: keys of the files (or of any values) that the cached transforms read, beside
            :data:`monai_u2.data.HEADER_KEYS`, which say what is wrong with a file's header.
        dtype: one of :data:`CACHE_DTYPES`, in which `dtype_keys` are stored. `float16` and `uint8` are for intensities
            in [0, 1], with errors up to :data:`LARGEST_ERRORS`. Everything else keeps its type.
        dtype_keys: keys of the floating point images.
        track_meta: whether tensors keep their metadata (affine, applied operations).

    Raises:
        InputError: a random transform among the cached ones, one that can't be described, an unknown dtype, or a folder
            that :class:`CacheFolder` refuses; from indexing: intensities out of [0, 1] with a small `dtype`, a full
            disk.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Sequence[Any] | Compose,
        cache_dir: str | os.PathLike[str] | None,
        cache_n_trans: int,
        file_keys: KeysCollection = ("image", "lesion_mask"),
        dtype: str = "float32",
        dtype_keys: KeysCollection = "image",
        track_meta: bool = False,
    ) -> None:
        # not given the folder: MONAI would make it and, in set_data, delete all that is in it
        super().__init__(data, transform, cache_dir=None, track_meta=track_meta)
        if dtype not in CACHE_DTYPES:
            raise InputError(f"cache dtype {dtype!r}; expected one of {', '.join(CACHE_DTYPES)}.")
        self.cache_n_trans = cache_n_trans
        self.file_keys = (*ensure_tuple(file_keys), *HEADER_KEYS)
        self.dtype = dtype
        self.dtype_keys = ensure_tuple(dtype_keys)
        cached = self.transform.transforms[:cache_n_trans]
        for transform in Compose(cached).flatten().transforms:
            if isinstance(transform, RandomizableTrait):
                raise InputError(
                    f"{type(transform).__name__} is random, but among the {cache_n_trans} cached transforms: each case "
                    "would be changed once and for all. Put it after them."
                )
        self.folder: CacheFolder | None = None
        if cache_dir is not None:
            description = {**describe_transforms(cached), "dtype": dtype, "dtype_keys": self.dtype_keys}
            self.folder = CacheFolder(cache_dir, {**description, "track_meta": track_meta})
            error = LARGEST_ERRORS[dtype]
            if error:
                _logger.info("cache in %s: the largest error of an intensity in [0, 1] is %.2g", dtype, error)

    def set_data(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Set the cases. Nothing is deleted: entries of other cases don't fit these."""
        self.data = data

    def _pre_transform(self, item_transformed: Mapping[str, Any]) -> dict[str, Any]:
        case = self.transform(item_transformed, end=self.cache_n_trans, threading=True)
        reset_ops_id(case)
        return case

    def _post_transform(self, item_transformed: dict[str, Any]) -> Any:
        return self.transform(item_transformed, start=self.cache_n_trans)

    def _cachecheck(self, item_transformed: Mapping[str, Any]) -> dict[str, Any]:
        source = {key: item_transformed[key] for key in self.file_keys if key in item_transformed}
        rest = {key: deepcopy(value) for key, value in item_transformed.items() if key not in source}
        if self.folder is None:
            return rest | self._decoded(self._encoded(self._pre_transform(deepcopy(source))))
        key = hash_description({name: _identity(value) for name, value in source.items()})
        stored = self.folder.read(key)
        if stored is None:
            stored = self._encoded(self._pre_transform(deepcopy(source)))
            self.folder.write(key, stored)
        return rest | self._decoded(stored)

    def _encoded(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """The case as it is stored, and the keys of its images."""
        stored = {key: storable(value, key, track_meta=self.track_meta) for key, value in case.items()}
        images = [key for key in self.dtype_keys if key in case and torch.is_floating_point(stored[key])]
        return {"case": stored | {key: self._encoded_image(key, stored[key]) for key in images}, "images": images}

    def _encoded_image(self, key: str, image: torch.Tensor) -> torch.Tensor:
        if self.dtype == "float32":
            return image.to(torch.float32)
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):
            raise InputError(
                f"{key} ranges from {low:g} to {high:g}; expected [0, 1], which alone {self.dtype} holds in the cache. "
                "Scale it among the cached transforms, or take the cache dtype float32."
            )
        return (image * 255).round().to(torch.uint8) if self.dtype == "uint8" else image.to(torch.float16)

    def _decoded(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        images = {key: stored["case"][key].to(torch.float32) for key in stored["images"]}
        return stored["case"] | {key: image / 255 if self.dtype == "uint8" else image for key, image in images.items()}


def _identity(value: Any) -> Any:
    """Tell files apart: paths with size and time of modification; of what is no path, a description of the value."""
    if isinstance(value, (list, tuple)):
        return [_identity(item) for item in value]
    if not isinstance(value, (str, os.PathLike)) or not Path(value).expanduser().exists():
        return describe_transforms([value])["transforms"]
    path = Path(value).expanduser().resolve()
    files = files_below(path) if path.is_dir() else [path, *_data_files(path)]
    stats = [(file, file.stat()) for file in files if file.is_file()]
    return [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def _data_files(path: Path) -> list[Path]:
    """Files that a header without voxels points to: one, or for a list or pattern, whatever lies beside it."""
    if path.suffix.lower() not in _DETACHED_HEADERS:
        return []
    with path.open("rb") as header:
        found = _DATA_FILE.search(header.read(1 << 16))
    name = "" if found is None else os.fsdecode(found[1])
    if name.upper() == "LOCAL":
        return []
    return [path.parent / name] if name and (path.parent / name).is_file() else sorted(path.parent.iterdir())
