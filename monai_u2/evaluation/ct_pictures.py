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

"""Three planes of a CT in two windows, as pictures that stand in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Orientation

from monai_u2.transforms.header import CorrectHeader
from monai_u2.transforms.load import BODY_HU, ExtractPlanes, LoadCT
from monai_u2.transforms.save_report import PLANES, SCALE_BAR_MM, trim_plane

WINDOWS: dict[str, tuple[float, float]] = {"soft tissue": (-160.0, 240.0), "lung": (-1350.0, 150.0)}
"""HU of black and of white; the planes of the lung window are those with most air in the body, the others go through
the middle of the body."""

_AIR_HU = -500.0
_STEP = 4  # voxels, as coarse as the search for the body's middle


@dataclass(frozen=True)
class CTPicture:
    """One plane in one window, in radiological convention, with square pixels.

    Args:
        plane: "axial", "coronal", or "sagittal".
        edges: what stands at the left, right, upper, and lower edge, such as `("R", "L", "A", "P")`.
        width: in pixels; all pictures of a CT have one scale.
        height: in pixels.
        bar_percent: length of the scale bar of :data:`~monai_u2.transforms.save_report.SCALE_BAR_MM` in % of the width.
        data_uri: the picture, PNG with 256 gray levels.
    """

    plane: str
    edges: tuple[str, str, str, str]
    width: int
    height: int
    bar_percent: float
    data_uri: str


def ct_pictures(
    path: str | Path, header: Mapping[str, Any] | None = None, *, size: int = 360
) -> dict[str, list[CTPicture]]:
    """Draw the axial, coronal, and sagittal plane of a CT in each of :data:`WINDOWS`.

    Args:
        path: a CT that :class:`~monai_u2.transforms.LoadCT` reads.
        header: what takes the place of the file's header, see :data:`monai_u2.data.HEADER_KEYS`.
        size: pixels along the volume's longest edge.

    Returns:
        window -> pictures.

    Raises:
        InputError: as :class:`~monai_u2.transforms.LoadCT` does.
    """
    header = dict(header or {})
    loaded = CorrectHeader()(LoadCT()(path, header.pop("volume_index", None)), **header)
    image = Orientation("SPL", labels=None)(loaded)
    extract = ExtractPlanes(size)
    pictures = {}
    for window, (black, white) in WINDOWS.items():
        planes, pixel_mm = extract(image, _most_air(image.as_tensor()[0]) if window == "lung" else None)
        pictures[window] = []
        for plane, (name, *edges) in zip(planes.numpy(), PLANES, strict=True):
            hu = trim_plane(plane).astype(np.float32)
            gray = ((hu - black) / (white - black) * 255).clip(0, 255).round().astype(np.uint8)
            height, width = gray.shape
            bar = 100 * SCALE_BAR_MM / pixel_mm / width
            pictures[window].append(CTPicture(name, tuple(edges), width, height, round(bar, 2), _png(gray)))
    return pictures


def _most_air(volume: torch.Tensor) -> list[int] | None:
    """Index along S, P, L of the planes with most air in the body; None where there is none."""
    coarse = volume[::_STEP, ::_STEP, ::_STEP]
    inside, body = coarse < _AIR_HU, (coarse > BODY_HU).to(torch.uint8)
    for axis in (1, 2):  # in the body is what has body on all four sides of an axial plane
        inside = inside & (body.cummax(axis)[0] * body.flip(axis).cummax(axis)[0].flip(axis)).bool()
    if not inside.any():
        return None
    return [_STEP * int(inside.sum(dim=[other for other in range(3) if other != axis]).argmax()) for axis in range(3)]


def _png(gray: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(gray).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
