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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.handlers import CheckpointSaver

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
            f"broken "
            "off, or train without resume."
        )
    return str(found[max(found)])


class BestModelSaver(CheckpointSaver):
    """Save the model with the best key metric under a fixed name, and remember that metric over a resume.

    A part of the resumable checkpoint, so that the first validation after a resume doesn't replace a better model.

    Args:
        save_dir: folder of the model.
        save_dict: what to save, one object.
        filename: name of the file.
    """

    def __init__(self, save_dir: str, save_dict: dict[str, Any], filename: str = "model.pt") -> None:
        super().__init__(save_dir, save_dict, save_key_metric=True, key_metric_filename=filename)
        self.path = Path(save_dir) / filename

    def state_dict(self) -> dict[str, Any]:
        """The best key metric so far."""
        return dict(self._key_metric_checkpoint.state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the best key metric of an earlier run where its model is still there."""
        if self.path.is_file():
            self._key_metric_checkpoint.load_state_dict(state_dict)
