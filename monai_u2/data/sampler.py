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

"""Batches that are the same for every number of processes and after a resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from monai_u2.exceptions import InputError
from monai_u2.processes import number_of_processes, process_index

BATCHES_SORTED = 50  # among so many batches, cases are put together by their lengths


class ResumableBatchSampler(Sampler[list[tuple[int, int]]]):
    """Shuffled batches that follow from the seed and the epoch's number alone, from any batch of the epoch on.

    Nothing but the numbers of epoch and batch is needed to go on in the middle of an epoch: what was trained on is
    left out without being loaded. Several processes share each batch evenly. What doesn't fill a whole batch at the end
    of an epoch is dropped, other cases each time.

    Give it to a `DataLoader` as `batch_sampler`, with a :class:`SeededDataset`, and tell it the epoch by
    :class:`monai_u2.handlers.SamplerEpoch`.

    Args:
        num_cases: number of cases.
        batch_size: cases of a batch, over all processes.
        seed: 0 or more.
        lengths: of each case; cases of similar length then share a batch, so that less is padded. None for any batches.

    Raises:
        InputError: when there are fewer cases than a batch holds, or the processes can't share it evenly.
    """

    def __init__(self, num_cases: int, batch_size: int, seed: int, lengths: Sequence[float] | None = None) -> None:
        if not 1 <= batch_size <= num_cases:
            raise InputError(
                f"batch_size is {batch_size}, the data has {num_cases} cases; expected 1 to {num_cases}. Change "
                "batch_size, or add cases."
            )
        if batch_size % number_of_processes():
            raise InputError(
                f"batch_size is {batch_size}, which {number_of_processes()} processes can't share evenly; expected a "
                "multiple of their number. Change --batch_size, or start another number of processes."
            )
        self.num_cases = num_cases
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.epoch = 1
        self.first_batch = 0

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose what the next iteration gives.

        Args:
            epoch: number of the epoch.
            first_batch: number of its batches to leave out.
        """
        self.epoch = epoch
        self.first_batch = first_batch

    def batches(self, epoch: int) -> np.ndarray:
        """Indexes of the cases of an epoch, `(batches, batch_size)`, over all processes."""
        draw = np.random.default_rng([self.seed, epoch])
        batches = draw.permutation(self.num_cases)[: len(self) * self.batch_size].reshape(len(self), self.batch_size)
        if self.lengths is None:
            return batches
        # sorted in parts of an epoch alone, so that batches aren't the same in each
        parts = [part.ravel() for part in np.array_split(batches, max(4, -(-len(self) // BATCHES_SORTED)))]
        order = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])
        return draw.permutation(order.reshape(batches.shape))

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return self.num_cases // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """This process's share of each batch, lists of `(epoch, index)`, the keys of a :class:`SeededDataset`."""
        for batch in self.batches(self.epoch)[self.first_batch :]:
            yield [(self.epoch, int(index)) for index in batch[process_index() :: number_of_processes()]]

    def state_dict(self) -> dict[str, Any]:
        """What has to be the same for a resumed training to see the same batches; of lengths their hash."""
        lengths = (
            None if self.lengths is None else hashlib.sha256(self.lengths.astype(np.float64).tobytes()).hexdigest()
        )
        return {"num_cases": self.num_cases, "batch_size": self.batch_size, "seed": self.seed, "lengths": lengths}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """
        Raises:
            InputError: when the batches aren't those of the state.
        """
        for name, value in self.state_dict().items():
            if state_dict.get(name) != value:
                raise InputError(
                    f"{name} is {value}, that of the training to resume was {state_dict.get(name)}: its batches would "
                    "be others. Give what it had, or start a new training from its model."
                )
