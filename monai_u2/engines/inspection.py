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

"""A training that diverged: which cases it was at, and a file to look into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.engines import Trainer

from monai_u2.exceptions import InputError, NonFiniteError
from monai_u2.handlers.checkpoint_files import write_checkpoint
from monai_u2.networks.parallel import full_state
from monai_u2.processes import gather_from_processes, process_index

Batch = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def diverged(what: str, value: torch.Tensor, engine: Trainer, batch: Batch) -> NonFiniteError:
    """The error of a number that isn't finite and on which the next optimizer step depends.

    Args:
        what: what the number is, such as "loss".
        value: the number, a scalar.
        engine: the trainer.
        batch: this process's cases that it may come from, a batch or several, with `case_index (B,)`.
    """
    batches = [batch] if isinstance(batch, Mapping) else batch
    cases = [int(index) for part in batches for index in part.get("case_index", ())]
    named = f"training cases {', '.join(map(str, cases))}" if cases else "other processes' training cases"
    return NonFiniteError(
        f"{what} {value.item()} at iteration {engine.state.iteration} (epoch {engine.state.epoch}), of {named}, "
        "counted from 0 in the order in which their file names them. Look at them, or lower the learning rate."
    )


def save_for_inspection(trainer: Trainer, folder: str | Path) -> Path:
    """Save the model, the optimizer's state and the batch of a training that diverged, before the step was taken.

    Args:
        trainer: the trainer; with several processes each has to call this.
        folder: where the file goes, `nonfinite_step={steps done}.pt`; it holds images and texts.

    Returns:
        The file.

    Raises:
        InputError: when it can't be written.
    """
    path = Path(folder) / f"nonfinite_step={trainer.state.iteration - 1}.pt"
    content = {"network": full_state(trainer.network), "optimizer": full_state(trainer.optimizer)}
    content["batches"] = gather_from_processes(trainer.state.batch)
    if process_index() == 0:
        write_checkpoint(path, content)
    return path


def with_file(error: InputError, path: Path) -> NonFiniteError:
    """The error, with the file to look into."""
    return NonFiniteError(f"{error} The model, the optimizer's state and the batch before the step are in {path}.")
