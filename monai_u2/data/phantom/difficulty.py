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

"""How hard a phantom is to read: sizes, contrast, noise and number of its findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from monai_u2.exceptions import InputError

Range = tuple[float, float]


@dataclass(frozen=True)
class Difficulty:
    """What a step of the ladder sets. The words of severity mean the same on every step.

    Args:
        sizes: kind of finding -> range of its ``size_mm``. A nodule or a liver lesion becomes smaller where its organ
            has no room for it.
        heart_ratio: width of an enlarged heart over that of the thorax.
        effusion_ml: severity -> range of an effusion's volume; beside a lesion of the lower lobe it is always small.
        effusions: severities of the other effusions.
        hydronephroses: severities of hydronephrosis.
        height_loss: share of its height that a fractured vertebral body loses in front.
        contrast: factor on the difference in HU to the organ, of nodules, liver lesions, stones, cysts and fractures.
            Nodules and cysts only lose contrast: by default they are solid and water already.
        noise: standard deviation (HU).
        frequency: factor on the probability of each kind of finding.
    """

    sizes: Mapping[str, Range]
    heart_ratio: Range
    effusion_ml: Mapping[str, Range]
    effusions: tuple[str, ...]
    hydronephroses: tuple[str, ...]
    height_loss: Range
    contrast: float
    noise: Range
    frequency: float


_DEFAULT = Difficulty(
    sizes={
        "lung nodule": (10.0, 30.0),
        "consolidation": (25.0, 60.0),
        "aortic aneurysm": (35.0, 70.0),
        "hypodense liver lesion": (12.0, 40.0),
        "hyperdense liver lesion": (12.0, 40.0),
        "splenomegaly": (135.0, 170.0),
        "kidney stone": (7.0, 14.0),
        "renal cyst": (12.0, 40.0),
    },
    heart_ratio=(0.56, 0.66),
    effusion_ml={"small": (180.0, 280.0), "moderate": (400.0, 600.0), "large": (800.0, 1100.0)},
    effusions=("small", "moderate", "large"),
    hydronephroses=("mild", "moderate", "severe"),
    height_loss=(0.30, 0.60),
    contrast=1.0,
    noise=(10.0, 20.0),
    frequency=1.0,
)

_SETTINGS: dict[str, Difficulty] = {
    "easy": replace(
        _DEFAULT,
        sizes={kind: ((low + high) / 2.0, high) for kind, (low, high) in _DEFAULT.sizes.items()},
        heart_ratio=(0.61, 0.66),
        effusions=("moderate", "large"),
        hydronephroses=("moderate", "severe"),
        height_loss=(0.45, 0.60),
        contrast=1.5,
        noise=(4.0, 8.0),
        frequency=0.7,
    ),
    "default": _DEFAULT,
    # Enlarged organs stay above what counts as normal: half of the thorax, an aorta of 30 mm, a spleen of 120 mm.
    "hard": Difficulty(
        sizes={
            "lung nodule": (6.0, 16.0),
            "consolidation": (18.0, 35.0),
            "aortic aneurysm": (32.0, 45.0),
            "hypodense liver lesion": (8.0, 20.0),
            "hyperdense liver lesion": (8.0, 20.0),
            "splenomegaly": (120.0, 135.0),
            "kidney stone": (5.0, 9.0),
            "renal cyst": (8.0, 20.0),
        },
        heart_ratio=(0.50, 0.56),
        effusion_ml={"small": (80.0, 240.0), "moderate": (300.0, 400.0)},
        effusions=("small", "moderate"),
        hydronephroses=("mild", "moderate"),
        height_loss=(0.20, 0.40),
        contrast=0.6,
        noise=(20.0, 35.0),
        frequency=1.3,
    ),
}

DIFFICULTIES: tuple[str, ...] = tuple(_SETTINGS)
"""The steps of the ladder, the easiest first."""


def difficulty_settings(difficulty: str) -> Difficulty:
    """Return what a step of the ladder sets.

    Raises:
        InputError: for a step that is none of :data:`DIFFICULTIES`.
    """
    if difficulty not in DIFFICULTIES:
        raise InputError(f"difficulty is {difficulty!r}; expected one of {', '.join(DIFFICULTIES)}")
    return _SETTINGS[difficulty]
