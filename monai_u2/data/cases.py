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

"""What the readers of data sets yield, and the words that they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SPLITS = ("test", "validation", "train")
"""In the order in which the readers yield them: what is held out is known before the training cases come."""

REPORT_QUESTION = "Describe the findings of this CT."

NO_IMAGE = "no image file"
NO_REPORT = "no report"
IMAGE_WITHOUT_REPORT = "image without a report"

_WORDS_FOR_NONE = frozenset(
    (
        "",
        "not given",
        "not available",
        "n/a",
        "na",
        "nan",
        "none",
        "null",
        "nil",
        "-",
        "--",
        "tbd",
        "not provided",
        "no report",
    )
)


def is_missing(text: str) -> bool:
    """Tell whether a text is empty, or a word that stands for a missing one, such as "Not given."."""
    return text.strip().rstrip(".").casefold() in _WORDS_FOR_NONE


@dataclass(frozen=True)
class DatasetCase:
    """A volume with its records.

    Attributes:
        split: one of :data:`SPLITS`.
        name: the data set's own name of the volume.
        patient: whose volume it is; all volumes of a patient belong into one split.
        records: records of the volume, see :mod:`monai_u2.data.records`; `image` is an absolute path.
    """

    split: str
    name: str
    patient: str
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class DroppedCase:
    """A volume or a report that no record is made of.

    Attributes:
        split: one of :data:`SPLITS`.
        name: the data set's own name of the volume.
        patient: whose volume it is.
        reason: why, in a few words that many cases share.
    """

    split: str
    name: str
    patient: str
    reason: str


@dataclass(frozen=True)
class Note:
    """What a user has to know about all of a data set's cases."""

    text: str
