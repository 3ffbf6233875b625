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

"""Checkpoints of a training run."""

from __future__ import annotations

import os
import re
from pathlib import Path

from monai_u2.exceptions import InputError


def latest_checkpoint(folder: str | os.PathLike[str]) -> str:
    """Path of the `checkpoint_epoch=N.pt` with the largest N, as MONAI's `CheckpointSaver` writes them.

    Args:
        folder: folder of the checkpoints.

    Raises:
        InputError: when there is none.
    """
    found = {}
    for path in Path(folder).glob("checkpoint_epoch=*.pt"):
        match = re.fullmatch(r"checkpoint_epoch=(\d+)\.pt", path.name)
        if match:
            found[int(match[1])] = path
    if not found:
        raise InputError(
            f"nothing to resume from: no checkpoint_epoch=*.pt in {folder}; give the ckpt_dir of the run that was "
            f"broken off, "
            "or train without resume."
        )
    return str(found[max(found)])
