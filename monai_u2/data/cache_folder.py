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

"""A folder of preprocessed cases that several processes fill, and that outlives kills and full disks."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import pickle
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from monai.data import MetaTensor

from monai_u2.data.transform_description import hash_description
from monai_u2.exceptions import InputError

_logger = logging.getLogger(__name__)

DESCRIPTION_FILE = "preprocessing.json"
_ENTRY_SUFFIX = ".pt"
_TEMPORARY_SUFFIX = ".tmp"


class CacheFolder:
    """Entries of one preprocessing: `cache_dir/HASH/KEY.pt`, beside a `preprocessing.json` that says what it is.

    An entry is written under a temporary name and moved, so that it is whole or absent. Writers lock their temporary
    file; what a killed one left behind is locked by nobody and removed when the folder is opened next. Entries are
    PyTorch files (nested dictionaries and :class:`monai.data.MetaTensor` as they are; safetensors would hold flat
    tensors alone), read with `weights_only=True` after a check of the sums that the format holds.

    Args:
        cache_dir: folder of the caches of all preprocessings; made where needed.
        description: what the entries come from, plain JSON types.

    Raises:
        InputError: where the folder can't be made, is a file, or holds another preprocessing than its name says.
    """

    def __init__(self, cache_dir: str | os.PathLike[str], description: Mapping[str, Any]) -> None:
        digest = hash_description(description)
        self.path = Path(cache_dir) / digest[:16]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            self._describe(description, digest)
        except OSError as error:
            raise InputError(
                f"cache folder {self.path}: {error.strerror or error}; expected a folder to read and write. Give "
                "another cache_dir, or null for no cache."
            ) from error

    def _describe(self, description: Mapping[str, Any], digest: str) -> None:
        """Write what the entries come from where nobody did, and check it where somebody did."""
        file = self.path / DESCRIPTION_FILE
        filled = any(self.path.glob(f"*{_ENTRY_SUFFIX}"))  # asked first: other processes describe, then fill
        if not file.is_file():
            if filled:
                raise InputError(
                    f"cache folder {self.path} holds entries, but no {DESCRIPTION_FILE} that says what they are. "
                    "Delete this folder (it is filled again) or give another cache_dir."
                )
            _write_whole(file, json.dumps(description, indent=1).encode())
        try:
            found = hash_description(json.loads(file.read_text(encoding="utf-8")))
        except ValueError:
            found = None
        if found != digest:
            raise InputError(
                f"{file} is {'damaged' if found is None else 'that of another preprocessing'}; expected what the "
                "folder's name stands for. Delete this folder (it is filled again) or give another cache_dir."
            )

    def _remove_leftovers(self) -> None:
        for file in self.path.glob(f".*{_TEMPORARY_SUFFIX}"):
            # a file that can't be locked or removed is another writer's
            with contextlib.suppress(OSError), file.open("rb") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
                _logger.info("removed %s, which a killed writer left in the cache", file.name)

    def read(self, key: str) -> Any:
        """Return an entry; None where there is none, or a damaged one, which is named in a warning and removed.

        Raises:
            InputError: where the file can't be read.
        """
        file = self.path / f"{key}{_ENTRY_SUFFIX}"
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(
                f"cache entry {file} can't be read ({error.strerror}); expected a file that may be read. Mend its "
                "permissions, delete it, or give another cache_dir."
            ) from error
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if archive.testzip() is not None:  # torch.load doesn't look at the sums
                    raise zipfile.BadZipFile("wrong sum")
            entry = torch.load(io.BytesIO(content), weights_only=True)
            if not isinstance(entry, dict) or entry.get("key") != key:
                raise ValueError("another entry")
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
            _logger.warning("cache entry %s is damaged (%s): preprocessed again", file, type(error).__name__)
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
            return None
        return entry["case"]

    def write(self, key: str, case: Mapping[str, Any]) -> None:
        """Write an entry; the last of several writers wins.

        Args:
            key: hexadecimal digits.
            case: what :func:`storable` returns.

        Raises:
            InputError: the folder can't be written, such as of a full disk; then there is no entry.
        """
        buffer = io.BytesIO()
        torch.save({"key": key, "case": case}, buffer)
        try:
            _write_whole(self.path / f"{key}{_ENTRY_SUFFIX}", buffer.getvalue())
        except OSError as error:
            free = shutil.disk_usage(self.path).free / 1e6
            raise InputError(
                f"cache folder {self.path}: an entry of {buffer.tell() / 1e6:.1f} MB can't be written "
                f"({error.strerror or error}; {free:.0f} MB are free); no entry was left. Free space (folders of other "
                "preprocessings beside this one may go), give a cache_dir on a larger disk, a smaller cache_dtype, or "
                "cache_dir null for no cache."
            ) from error


def storable(value: Any, where: str = "case", track_meta: bool = True) -> Any:
    """Arrays to tensors and numbers of numpy to Python's, through lists and dictionaries and the metadata of tensors.

    Args:
        value: tensors, arrays, numbers, texts, and lists and dictionaries of them.
        where: name of the value, for the message.
        track_meta: whether tensors keep their metadata.

    Raises:
        InputError: for a value that a PyTorch file without pickled code can't hold.
    """
    if isinstance(value, MetaTensor) and track_meta:
        meta = storable(dict(value.meta), f"{where}.meta")
        operations = storable(value.applied_operations, f"{where}.applied_operations")
        return MetaTensor(value.as_tensor().clone(), meta=meta, applied_operations=operations)
    if isinstance(value, torch.Tensor):
        # cloned: of a view the whole storage would be written
        return (value.as_tensor() if isinstance(value, MetaTensor) else value).detach().cpu().clone()
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of MONAI's enumerations, too
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Mapping):
        return {storable(key): storable(item, f"{where}.{key}", track_meta) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(storable(item, f"{where}[{i}]", track_meta) for i, item in enumerate(value))
    raise InputError(
        f"{where} is a {type(value).__name__}, which the cache can't hold; expected tensors, arrays, numbers, texts, "
        "and lists and dictionaries of them. Delete the key before the end of the cached transforms."
    )


def _write_whole(file: Path, content: bytes) -> None:
    """Write a file under a temporary name, locked, and move it."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}")
    try:
        with _open_locked(temporary) as opened:
            _write(opened, content)
            os.replace(temporary, file)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _open_locked(path: Path) -> Iterator[BinaryIO]:
    """Open a new file and lock it, so that it isn't taken for what a killed writer left."""
    while True:
        with path.open("wb") as opened:
            with contextlib.suppress(OSError):  # some network file systems have no locks; then nothing is cleared
                fcntl.flock(opened, fcntl.LOCK_EX)
            if os.fstat(opened.fileno()).st_nlink:  # not cleared between opening and locking
                yield opened
                return


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
