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

"""A batch in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monai_u2.exceptions import InputError

Case = Mapping[str, Any]


class MicroBatches:
    """Collate a batch as a list of micro-batches, each padded for itself.

    See :class:`monai_u2.engines.MicroBatchIteration` for how they are trained on.

    Args:
        collate: from cases to a batch.
        size: largest number of cases of a micro-batch; None for the whole batch in one.

    Raises:
        InputError: when `size` isn't at least 1.
    """

    def __init__(self, collate: Callable[[Sequence[Case]], dict[str, Any]], size: int | None = None) -> None:
        if size is not None and (not isinstance(size, int) or size < 1):
            raise InputError(f"micro_batch_size is {size!r}; expected a whole number of cases, 1 or more, or null.")
        self.collate = collate
        self.size = size

    def __call__(self, cases: Sequence[Case]) -> list[dict[str, Any]]:
        """
        Args:
            cases: the cases of the batch.
        """
        size = self.size or len(cases)
        return [self.collate(cases[start : start + size]) for start in range(0, len(cases), size)]
