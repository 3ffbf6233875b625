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


"""Sentences whose evidence doesn't fit what they say: diffuse, on the other side, or at another height."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from monai_u2.evidence.citations import peak_region
from monai_u2.evidence.maps import HU_WINDOW, TokenGrid, intensity_of

# darker than that, inside of the body, is lung
LUNG_HU = -600.0
# more even than that over the body is diffuse, see `Place.spread`
LARGEST_SPREAD = 0.95

_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_BOTH_SIDES = re.compile(r"\b(?:both|bilateral(?:ly)?)\b", re.IGNORECASE)
# sides of an organ, which may lie across the patient's midline
_OWN_SIDE = re.compile(
    r"\b(?:left|right)[\w ]*?(?:lobe of the liver|hepatic lobe|liver lobe|atri\w+|ventric\w+|coronary)\b"
    r"|\bliver[\w ]*?\b(?:left|right) lobe\b",
    re.IGNORECASE,
)
_LOBE = re.compile(r"\b(upper|lower) lobes?\b", re.IGNORECASE)
# organs of one cavity, and the height, in that of the lungs, below or above which they can't lie
_CHEST = re.compile(r"\b(?:lungs?|pulmonary|pleura\w*|heart|cardi\w+|pericardi\w+)\b", re.IGNORECASE)
_ABDOMEN = re.compile(
    r"\b(?:livers?|hepatic|splen\w+|spleen|kidneys?|renal|gallbladder|pancrea\w+|adrenals?)\b", re.IGNORECASE
)
_EITHER = re.compile(r"\b(?:aort\w+|arter\w+|veins?|vessels?|vascular)\b", re.IGNORECASE)
_LOWEST_IN_CHEST, _HIGHEST_IN_ABDOMEN = -0.5, 2 / 3


class EvidenceVerifier:
    """Check that the evidence of sentences lies where they say.

    The patient's midline is the middle of the body from left to right, by the affine; upper and lower lobe are told
    apart by thirds of the lungs' height. Organs of the chest don't lie half of that height below the lungs, organs of
    the abdomen not in the lungs' upper third. Sides of the liver and of the heart's chambers are not checked: they may
    lie across the midline.

    Args:
        image: slabs `(T, D, H, W)`.
        body: boolean, where the body is, on the fine grid.
        grid: the case's tokens.
        hu_window: HU of the intensities 0 and 1; where it begins above -600 HU, lungs can't be told from other tissue,
            and no heights are checked.
    """

    def __init__(
        self, image: torch.Tensor, body: np.ndarray, grid: TokenGrid, hu_window: Sequence[float] = HU_WINDOW
    ) -> None:
        self.grid = grid
        places = np.argwhere(body)
        volume = torch.as_tensor(image).reshape(1, 1, -1, *image.shape[2:]).float()
        dark = F.interpolate(volume, size=grid.fine_shape, mode="area")[0, 0].numpy() < intensity_of(LUNG_HU, hu_window)
        self.middle = float(np.median(self._coordinates(places, axis=0)))
        lungs = self._coordinates(np.argwhere(dark & body), axis=2)
        self.lungs = np.percentile(lungs, [2, 98]) if len(lungs) else None

    def _coordinates(self, places: np.ndarray, axis: int) -> np.ndarray:
        return places @ self.grid.fine_affine[axis, :3] + self.grid.fine_affine[axis, 3]

    def __call__(self, text: str, fine: np.ndarray, spread: float, region: str | None = None) -> list[str]:
        """What doesn't fit.

        Args:
            text: the sentence.
            fine: its map on the fine grid.
            spread: see :class:`monai_u2.evidence.Place`.
            region: what its line is about ("Left kidney"); it counts where the sentence names no side or lobe itself.

        Returns:
            Of "diffuse", "other side" and "other height" what is the case.
        """
        flags = ["diffuse"] if spread > LARGEST_SPREAD else []
        peak = peak_region(fine)
        weights, places = fine[peak] / fine[peak].sum(), np.argwhere(peak)
        about = f"{region}: {text}"
        side = named_side(text if region is None or _SIDE.search(text) or _BOTH_SIDES.search(text) else about)
        if side is not None:
            on_right = float(weights[self._coordinates(places, axis=0) > self.middle].sum())
            if (on_right if side == "right" else 1 - on_right) < 0.5:
                flags.append("other side")
        lobes = {match.lower() for match in _LOBE.findall(text) or _LOBE.findall(about)}
        if self.lungs is not None:
            low, high = self.lungs
            height = (float(weights @ self._coordinates(places, axis=2)) - low) / (high - low)
            own = region is None or any(organ.search(text) for organ in (_CHEST, _ABDOMEN, _EITHER))
            lowest, highest = _heights(lobes, text if own else region)
            if not lowest <= height <= highest:
                flags.append("other height")
        return flags


def _heights(lobes: set[str], about: str) -> tuple[float, float]:
    """Lowest and highest place of what a sentence is about, 0 and 1 at the ends of the lungs."""
    if len(lobes) == 1:
        return (1 / 3, np.inf) if lobes == {"upper"} else (-np.inf, 2 / 3)
    chest, abdomen = _CHEST.search(about), _ABDOMEN.search(about)
    if bool(chest) == bool(abdomen) or _EITHER.search(about):
        return -np.inf, np.inf
    return (_LOWEST_IN_CHEST, np.inf) if chest else (-np.inf, _HIGHEST_IN_ABDOMEN)


def named_side(text: str) -> str | None:
    """The one side of the patient that a sentence names, "left" or "right"; None for none or both."""
    if _BOTH_SIDES.search(text) or _OWN_SIDE.search(text):
        return None
    sides = {match.lower() for match in _SIDE.findall(text)}
    return sides.pop() if len(sides) == 1 else None
