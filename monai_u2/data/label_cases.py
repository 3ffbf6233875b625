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

"""Cases as MONAI Label gives them to a training: an image and the file of its report."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset

from monai_u2.exceptions import InputError

_logger = logging.getLogger(__name__)


class RecordedCases(list):
    """Cases that remember the file of records they were made of.

    Attributes:
        file: the file.
    """

    def __init__(self, file: str | os.PathLike[str], cases: Iterable[Mapping[str, Any]]) -> None:
        super().__init__(cases)
        self.file = Path(file)


def are_label_cases(cases: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether cases are MONAI Label's, with `image` and `label` alone, which the app has put in the place of those
    of the records.

    Raises:
        InputError: when there is none.
    """
    if not cases:
        raise InputError("there is no case to train on; expected some. Save reports as final labels of their images.")
    return all(case.keys() == {"image", "label"} for case in cases)


def validation_dataset(dataset: Dataset, training_cases: Sequence[Mapping[str, Any]]) -> Dataset:
    """Return a validation's dataset; of one without cases (MONAI Label splits a few labels into all and none) it is the
    training's cases, which are then no measure of the model, only of what it has learned by heart."""
    if not len(dataset):
        _logger.warning("there are no validation cases: the %d training cases take their place.", len(training_cases))
        dataset.data = list(training_cases)
    return dataset
