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


"""Is this CT one that the model was made for?"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import optional_import

from monai_u2.exceptions import InputError
from monai_u2.transforms.load import oriented_spacing

__all__ = ["CheckScope", "CheckScoped", "measure_ct"]

ndimage, _ = optional_import("scipy.ndimage")

logger = logging.getLogger(__name__)

BODY_HU = -300.0
LUNG_HU = -600.0
BONE_HU = 200.0
# body parts are measured on a grid about this coarse: enough for extents, and fast
GRID_MM = 4.0
# no CT of a patient is without fat or air, and none without anything denser than water
HU_LOWEST_AT_MOST = -50.0
HU_HIGHEST_AT_LEAST = 30.0

_MEASURES = {
    "extent_s_mm": ("head-to-foot extent", "mm", 1.0),
    "extent_p_mm": ("front-to-back extent of the body", "mm", 1.0),
    "extent_l_mm": ("left-to-right extent of the body", "mm", 1.0),
    "lung_share": ("lung-like share of the body", "%", 100.0),
    "bone_share": ("bone-like share of the body", "%", 100.0),
}
_REACTIONS = ("warn", "refuse")


class CheckScope(Transform):
    """Compare a CT with the training data's ranges and say where it lies outside.

    Args:
        ranges: measure (see :py:func:`measure_ct`) -> (lowest, highest) of the training data.
        trained_on: what the training data are, for the message.
        on_out_of_scope: "warn" returns the texts, "refuse" raises an :py:class:`~monai_u2.exceptions.InputError`.

    Raises:
        ValueError: an unknown measure, an empty range, or an unknown reaction.
    """

    def __init__(
        self,
        ranges: Mapping[str, Sequence[float]],
        trained_on: str = "chest–abdomen CT",
        on_out_of_scope: str = "warn",
    ) -> None:
        unknown = sorted(set(ranges) - set(_MEASURES))
        if unknown:
            raise ValueError(f"ranges has unknown measures {unknown}; expected some of {sorted(_MEASURES)}.")
        for name, bounds in ranges.items():
            if len(bounds) != 2 or not bounds[0] < bounds[1]:
                raise ValueError(f"ranges[{name!r}] is {bounds}; expected (lowest, highest).")
        if on_out_of_scope not in _REACTIONS:
            raise ValueError(f"on_out_of_scope is {on_out_of_scope!r}; expected one of {_REACTIONS}.")
        self.ranges = {name: (float(low), float(high)) for name, (low, high) in ranges.items()}
        self.trained_on = trained_on
        self.on_out_of_scope = on_out_of_scope

    def __call__(self, image: MetaTensor) -> tuple[dict[str, float], list[str]]:
        """Measure a CT (1, S, P, L) in HU.

        Returns:
            The measures, and a text for each way in which the CT is unlike the training data.

        Raises:
            InputError: there is such a text, and ``on_out_of_scope`` is "refuse".
            ValueError: the image's axes aren't S, P, L.
        """
        measures = measure_ct(image)
        texts = _hu_texts(image)
        outside = [
            _range_text(name, measures[name], bounds)
            for name, bounds in self.ranges.items()
            if not bounds[0] <= measures[name] <= bounds[1]
        ]
        if outside:
            texts.append(
                f"outside the training distribution: not a {self.trained_on} like those of training: "
                + "; ".join(outside)
            )
        if texts and self.on_out_of_scope == "refuse":
            raise InputError(f"{'; '.join(texts)}. Give a {self.trained_on}, or set on_out_of_scope to 'warn'.")
        for text in texts:
            logger.warning(text)
        return measures, texts


class CheckScoped(MapTransform):
    """Dictionary version of :py:class:`CheckScope`: adds to ``warnings`` and ``scope`` of the case's info.

    Args:
        keys: keys of CT images (1, S, P, L) in HU, before any windowing.
        info_key: key of the dict that :py:class:`monai_u2.transforms.LoadCTd` made.
        ranges: measure -> (lowest, highest) of the training data.
        trained_on: what the training data are, for the message.
        on_out_of_scope: "warn" or "refuse".
        allow_missing_keys: pass over keys that aren't there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        info_key: str,
        ranges: Mapping[str, Sequence[float]],
        trained_on: str = "chest–abdomen CT",
        on_out_of_scope: str = "warn",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.info_key = info_key
        self.check = CheckScope(ranges, trained_on, on_out_of_scope)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            measures, texts = self.check(d[key])
            info = d[self.info_key]
            d[self.info_key] = info | {"scope": measures, "warnings": [*info["warnings"], *texts]}
        return d


def measure_ct(image: MetaTensor) -> dict[str, float]:
    """Measure the body in a CT (1, S, P, L) in HU, on a grid of about 4 mm.

    The body is the largest connected thing denser than −300 HU after the table has been opened away, its holes filled
    plane by plane. ``extent_s_mm``, ``extent_p_mm``, ``extent_l_mm`` are its extents; ``lung_share`` and ``bone_share``
    are the parts of it below −600 HU and above 200 HU. All are 0 where there is no body.
    """
    spacing = oriented_spacing(image)
    steps = [max(1, round(GRID_MM / mm)) for mm in spacing]
    volume = image.as_tensor()[0, :: steps[0], :: steps[1], :: steps[2]].cpu().numpy()
    body = ndimage.binary_opening(volume > BODY_HU, np.ones((1, 3, 3), dtype=bool))
    labels, num = ndimage.label(body)
    if not num:
        return dict.fromkeys(_MEASURES, 0.0)
    body = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    body = np.stack([ndimage.binary_fill_holes(plane) for plane in body])
    extents = [
        np.ptp(np.nonzero(body.any(axis=tuple({0, 1, 2} - {axis})))[0] * steps[axis]) * spacing[axis]
        + steps[axis] * spacing[axis]
        for axis in range(3)
    ]
    values = volume[body]
    shares = [(values < LUNG_HU).mean(), (values > BONE_HU).mean()]
    return dict(
        zip(_MEASURES, [round(float(mm), 1) for mm in extents] + [round(float(s), 3) for s in shares], strict=True)
    )


def _hu_texts(image: MetaTensor) -> list[str]:
    low, high = (float(value) for value in image.as_tensor().aminmax())
    if low <= HU_LOWEST_AT_MOST and high >= HU_HIGHEST_AT_LEAST:
        return []
    return [
        f"voxels not in HU: they lie in {low:g} to {high:g}; expected air near -1000, water near 0, bone above 200 HU"
    ]


def _range_text(name: str, value: float, bounds: tuple[float, float]) -> str:
    title, unit, factor = _MEASURES[name]
    low, high = (bound * factor for bound in bounds)
    return f"{title} {value * factor:.3g} {unit}, trained on {low:.3g}–{high:.3g} {unit}"
