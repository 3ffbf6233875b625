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

"""Random transforms that don't depend on what was loaded before."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.data import Dataset
from torch.utils.data import Dataset as TorchDataset


class SeededDataset(TorchDataset):
    """Cases whose random transforms follow from seed, epoch and case alone.

    MONAI's random transforms go on from where the last case left them. Here they start anew for each case, so that it
    is the same whichever process loads it, and in whatever order; there is no state that a resumed training would need.
    This holds for transforms that draw from their own `R`, as MONAI's do.

    Args:
        dataset: a MONAI dataset of dictionaries with a transform.
        seed: 0 or more.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """
        Args:
            key: `(epoch, index)`, as :class:`ResumableBatchSampler` gives it.

        Returns:
            The case, with its index as `case_index`.
        """
        epoch, index = key
        seed = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0]
        self.dataset.transform.set_random_state(int(seed))
        return {**self.dataset[index], "case_index": index}
