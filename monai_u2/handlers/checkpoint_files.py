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

"""Checkpoint files: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from monai_u2.exceptions import InputError

TEMPORARY = ".{}.tmp"  # name of a file that is being written


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint under a temporary name beside `path`, and move it there once it is on the disk.

    Args:
        path: file; its folder is made where needed, a file of this name is replaced.
        content: tensors, numbers, texts, lists and dicts.

    Raises:
        InputError: when it can't be written, such as on a full disk; what was there before is still there.
    """
    temporary = path.with_name(TEMPORARY.format(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter for a full disk
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path}: can't be written ({error}); what was written before is whole. Make room, or give another folder, "
            "and resume."
        ) from error


def check_checkpoint(path: Path) -> None:
    """Check that a checkpoint is whole, by the checksums of its parts.

    Args:
        path: file.

    Raises:
        InputError: when it is cut off or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if part := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {part} is wrong")
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(f"{path}: is damaged ({error}); expected a whole checkpoint.") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Args:
        path: file.

    Raises:
        InputError: when it can't be read, or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than weights, and nothing of it was run; expected a checkpoint."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{path}: can't be read ({error}); expected a whole checkpoint.") from error
