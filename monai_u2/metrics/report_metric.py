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

"""MONAI metrics of texts: what each batch of reports gives is buffered as numbers and gathered over processes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric

from monai_u2.exceptions import InputError
from monai_u2.processes import gather_from_processes

Scorer = Callable[[Sequence[str], Sequence[str]], dict[str, np.ndarray]]


class GatheredMetric(CumulativeIterationMetric):
    """A MONAI metric whose rows of numbers are gathered over processes, also where one of them has seen no case.

    MONAI's own gathering would wait for that process forever.
    """

    def _sync(self) -> None:
        if self._synced:
            return
        parts = gather_from_processes([torch.stack(buffer).cpu() for buffer in self._buffers or []])
        parts = [part for part in parts if part]
        self._synced_tensors = [torch.cat(buffers) for buffers in zip(*parts)] or None
        self._synced = True

    def gathered(self) -> np.ndarray:
        """Numbers `(cases, K)` of all cases of all processes since the last reset; each process has to call this.

        Raises:
            ValueError: when no process has seen a case.
        """
        buffer = self.get_buffer()
        if buffer is None:
            raise ValueError(f"{type(self).__name__} has seen no case.")
        return buffer.cpu().numpy()


class ReportMetric(GatheredMetric):
    """Base of metrics that take decoded texts: `metric(y_pred=reports, y=references)`, lists of strings.

    A batch becomes numbers `(B, K)`, so that no text is sent between processes.
    """

    def _compute_list(self, y_pred: Sequence[str], y: Sequence[str] | None = None, **kwargs: Any) -> torch.Tensor:
        if isinstance(y, (list, tuple)) and len(y_pred) != len(y):
            raise InputError(f"{len(y_pred)} reports and {len(y)} references; expected as many.")
        return torch.as_tensor(self._rows(list(y_pred), None if y is None else list(y)))

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        raise TypeError(f"{type(self).__name__} takes lists of strings, got {type(y_pred).__name__}.")

    @abstractmethod
    def _rows(self, reports: list[str], references: list[str] | None) -> np.ndarray:
        """Numbers `(B, K)` of a batch."""


class MeanReportScore(ReportMetric):
    """Mean of a score over cases, of any function that scores reports case by case.

    Args:
        scorer: from reports and references to `name -> scores (cases,)`, such as
            :func:`monai_u2.metrics.rouge_scores`. NaN where a case has no score: it is kept out of the mean.
        name: the score to give as a number, for a key metric; all of them as a dict without.

    Raises:
        InputError: when the scorer gives no score of this name.
    """

    def __init__(self, scorer: Scorer, name: str | None = None) -> None:
        super().__init__()
        self.scorer = scorer
        self.name = name
        self._names: list[str] = []

    def _rows(self, reports: list[str], references: list[str] | None) -> np.ndarray:
        scores = self.scorer(reports, references)
        if self.name is not None and self.name not in scores:
            raise InputError(f"there is no score {self.name!r}; expected one of {', '.join(scores)}.")
        self._names = [self.name] if self.name is not None else list(scores)
        return np.stack([scores[name] for name in self._names], axis=1).astype(float)

    def aggregate(self) -> float | dict[str, float]:
        """The means of the cases since the last reset; NaN where no case has a score."""
        rows = self.gathered()
        names = next(names for names in gather_from_processes(self._names) if names)
        means = {name: exact_mean(column[~np.isnan(column)]) for name, column in zip(names, rows.T)}
        return means if self.name is None else means[self.name]


def exact_mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean that doesn't depend on the values' order, so that one and several processes agree to the last bit."""
    return math.fsum(values) / len(values) if len(values) else float("nan")
