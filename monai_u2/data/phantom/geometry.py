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

"""The phantom's anatomy as numbers: where each organ lies and which places a lesion may take.

Coordinates are patient millimeters in RAS+ (x to the right, y to the front, z to the head) around the body's axis, with
z = 0 a little above the middle of the liver. Only additions, multiplications, square roots and ``Generator.random`` are
used here, so that a case has the same numbers on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from monai_u2.data.phantom.difficulty import Difficulty, difficulty_settings

T = TypeVar("T")
Point = tuple[float, float, float]
SIDES = ("right", "left")
LOBES = ("right upper lobe", "right middle lobe", "right lower lobe", "left upper lobe", "left lower lobe")


class Draws:
    """Random choices made from ``Generator.random`` alone, the part of NumPy's stream that stays put."""

    def __init__(self, seed: Sequence[int]) -> None:
        self._random = np.random.default_rng(list(seed)).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self._random() * len(choices))]


class Ellipsoid(NamedTuple):
    """An axis-aligned ellipsoid: center and semi-axes in mm."""

    center: Point
    radii: Point

    def level(self, points: np.ndarray) -> np.ndarray:
        """Return for points (N, 3) a number that is below 1 inside, 1 on the surface, above 1 outside."""
        scaled = (points - np.array(self.center)) / np.array(self.radii)
        return scaled[:, 0] * scaled[:, 0] + scaled[:, 1] * scaled[:, 1] + scaled[:, 2] * scaled[:, 2]

    def grown(self, margin: float) -> Ellipsoid:
        x, y, z = self.radii
        return Ellipsoid(self.center, (x + margin, y + margin, z + margin))


class Lung(NamedTuple):
    """A lung: an elliptic cylinder from ``bottom`` to ``shoulder`` that closes as a half ellipsoid up to ``apex``."""

    center: tuple[float, float]
    radii: tuple[float, float]
    bottom: float
    shoulder: float
    apex: float

    def contains(self, points: np.ndarray) -> np.ndarray:
        x = (points[:, 0] - self.center[0]) / self.radii[0]
        y = (points[:, 1] - self.center[1]) / self.radii[1]
        z = np.maximum(points[:, 2] - self.shoulder, 0.0) / (self.apex - self.shoulder)
        return (x * x + y * y + z * z < 1.0) & (points[:, 2] > self.bottom)


class Vertebra(NamedTuple):
    """One vertebral body between two heights (mm); ``region`` is "thoracic" or "lumbar"."""

    bottom: float
    top: float
    region: str


@dataclass(frozen=True)
class Anatomy:
    """One patient's organs (mm) and their attenuation (HU)."""

    body: tuple[float, float]  # semi-axes right-left and front-back
    fat: float  # thickness of the subcutaneous fat
    table: float | None  # distance of the table below the back, None without a table
    scale: Point  # of the reference anatomy along x, y, z
    bottom: float  # what the scan covers
    top: float
    lungs: dict[str, Lung]
    domes: dict[str, Ellipsoid]  # the space below each half of the diaphragm
    oblique_fissure: tuple[float, float]  # z = first + second * y
    horizontal_fissure: float
    heart: Ellipsoid
    liver: dict[str, Ellipsoid]  # right and left lobe
    liver_border: float  # x of the plane between the lobes
    spleen: Ellipsoid
    stomach: Ellipsoid
    kidneys: dict[str, Ellipsoid]
    vertebrae: tuple[Vertebra, ...]
    spine_center: float  # y of the vertebral bodies
    spine_radii: tuple[float, float]
    thoracic_aorta: tuple[float, float, float]  # x, y, radius of its descending part
    abdominal_aorta: tuple[float, float]  # x, radius
    hu: dict[str, float]

    @property
    def thorax_width(self) -> float:
        """Inner width of the thorax in mm, the denominator of the heart's ratio."""
        right, left = self.lungs["right"], self.lungs["left"]
        return right.center[0] + right.radii[0] - left.center[0] + left.radii[0]

    def in_lung(self, side: str, points: np.ndarray) -> np.ndarray:
        """Return which of the points (N, 3) lie in aerated lung: not in diaphragm, heart or aorta."""
        x, y, radius = self.thoracic_aorta
        away = (points[:, 0] - x) * (points[:, 0] - x) + (points[:, 1] - y) * (points[:, 1] - y) > (radius + 2.0) ** 2
        outside = (self.domes[side].level(points) > 1.0) & (self.heart.grown(3.0).level(points) > 1.0)
        return self.lungs[side].contains(points) & outside & away

    def in_lobe(self, lobe: str, points: np.ndarray) -> np.ndarray:
        """Return which of the points (N, 3) lie in aerated lung of a lobe of :data:`LOBES`."""
        side, part, _ = lobe.split()
        return self.in_lung(side, points) & self.beside_fissures(part, side, points[:, 1], points[:, 2])

    def beside_fissures(self, part: str, side: str, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return where heights z and depths y (broadcast) belong to the "upper", "middle" or "lower" lobe of a side."""
        below = z < self.oblique_fissure[0] + self.oblique_fissure[1] * y
        if part == "lower":
            return below
        if side == "left":
            return ~below
        return ~below & ((z >= self.horizontal_fissure) if part == "upper" else (z < self.horizontal_fissure))

    def in_liver_lobe(self, side: str, points: np.ndarray, kidney_margin: float) -> np.ndarray:
        """Return which of the points (N, 3) lie in a lobe of the liver and in no organ drawn over it.

        ``kidney_margin`` (mm) is the distance that is kept to the right kidney.
        """
        right = points[:, 0] > self.liver_border
        inside = np.minimum(self.liver["right"].level(points), self.liver["left"].level(points)) < 1.0
        off_kidney = self.kidneys["right"].grown(kidney_margin).level(points) > 1.0
        off_spine = points[:, 1] > self.spine_center + self.spine_radii[1] + 2.0 * self.abdominal_aorta[1] + 4.0
        off_spine |= points[:, 0] > self.spine_radii[0] + 4.0
        free = (self.heart.level(points) > 1.0) & off_kidney & off_spine
        return inside & free & (right if side == "right" else ~right)

    def effusion_height(self, side: str, points: np.ndarray) -> np.ndarray:
        """Return the height of points (N, 3) above the deepest place of the pleura: fluid fills up to a level of it.

        The patient lies on the back, so fluid gathers there; a little more of it at the base and along the chest wall.
        """
        return self.effusion_field(side, points[:, 0], points[:, 1], points[:, 2])

    def effusion_field(self, side: str, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """:meth:`effusion_height` for coordinates that broadcast."""
        lung = self.lungs[side]
        across = (x - lung.center[0]) / lung.radii[0]
        return y + 0.14 * (z - lung.shoulder) - 10.0 * across * across


def draw_anatomy(draws: Draws, *, big_heart: bool, big_spleen: bool, settings: Difficulty | None = None) -> Anatomy:
    """Draw one patient. Normal and enlarged organs come from ranges that don't touch.

    ``settings`` say how large enlarged organs are, those of the default difficulty where they aren't given.
    """
    settings = settings or difficulty_settings("default")
    half_width, half_depth = draws.uniform(150.0, 185.0), draws.uniform(101.0, 125.0)
    fat = draws.uniform(8.0, 13.0) + 0.5 * (half_width - 150.0)
    sx = (half_width - fat) / 145.0
    sy = (half_depth - 0.55 * fat) / 93.0
    length = draws.uniform(400.0, 460.0)
    sz = length / 430.0
    bottom, top = -187.0 * sz, 243.0 * sz
    shift = {side: draws.uniform(-6.0, 6.0) * sz for side in SIDES}
    lungs = {
        side: Lung(
            center=(sign * 69.0 * sx, 0.0),
            radii=(58.0 * sx, 77.0 * sy),
            bottom=-48.0 * sz,
            shoulder=70.0 * sz,
            apex=(230.0 + draws.uniform(-8.0, 6.0)) * sz,
        )
        for side, sign in (("right", 1.0), ("left", -1.0))
    }
    domes = {
        "right": Ellipsoid((62.0 * sx, 4.0 * sy, -45.0 * sz + shift["right"]), (68.0 * sx, 78.0 * sy, 80.0 * sz)),
        "left": Ellipsoid((-62.0 * sx, 4.0 * sy, -45.0 * sz + shift["left"]), (68.0 * sx, 78.0 * sy, 68.0 * sz)),
    }
    thorax_width = 2.0 * (69.0 + 58.0) * sx
    heart_width = thorax_width * (draws.uniform(*settings.heart_ratio) if big_heart else draws.uniform(0.38, 0.46))
    heart_height = 0.40 * heart_width
    heart = Ellipsoid(
        (-(0.10 + draws.uniform(-0.02, 0.02)) * heart_width, 22.0 * sy, 4.0 * sz + heart_height),
        (heart_width / 2.0, min(0.40 * heart_width, 60.0 * sy), heart_height),
    )
    dome = domes["right"]
    liver_scale = draws.uniform(0.94, 1.0)
    liver = {
        "right": Ellipsoid(
            (54.0 * sx, dome.center[1], dome.center[2] - 4.0),
            (72.0 * sx * liver_scale, 74.0 * sy * liver_scale, dome.radii[2] - 3.0),
        ),
        "left": Ellipsoid(
            (-12.0 * sx, 32.0 * sy, -34.0 * sz),
            (60.0 * sx * liver_scale, 36.0 * sy, 36.0 * sz),
        ),
    }
    spleen_length = draws.uniform(*settings.sizes["splenomegaly"]) if big_spleen else draws.uniform(80.0, 110.0)
    spleen = Ellipsoid(
        (-99.0 * sx + (6.0 if big_spleen else 0.0), -24.0 * sy, 14.0 * sz + shift["left"] - spleen_length / 2.0),
        (0.2 * spleen_length + 3.0, 0.28 * spleen_length + 8.0, spleen_length / 2.0),
    )
    stomach = Ellipsoid(
        (-52.0 * sx, 26.0 * sy, (-30.0 + draws.uniform(-6.0, 6.0)) * sz + shift["left"]),
        (draws.uniform(32.0, 40.0) * sx, draws.uniform(30.0, 38.0) * sy, draws.uniform(32.0, 42.0) * sz),
    )
    kidneys = {
        side: Ellipsoid(
            (sign * (62.0 + draws.uniform(-3.0, 5.0)) * sx, -40.0 * sy, (height + draws.uniform(-6.0, 6.0)) * sz),
            (draws.uniform(25.0, 29.0), draws.uniform(23.0, 27.0), draws.uniform(48.0, 56.0)),
        )
        for side, sign, height in (("right", 1.0, -112.0), ("left", -1.0, -98.0))
    }
    border = (-46.0 + draws.uniform(-8.0, 8.0)) * sz
    spine_radii = (draws.uniform(20.0, 23.0), draws.uniform(16.0, 18.0))
    spine_center = -56.0 * sy
    hu = {
        "fat": draws.uniform(-110.0, -90.0),
        "muscle": draws.uniform(45.0, 60.0),
        "lung": draws.uniform(-880.0, -820.0),
        "heart": draws.uniform(120.0, 140.0),
        "aorta": draws.uniform(140.0, 165.0),
        "liver": draws.uniform(102.0, 118.0),
        "spleen": draws.uniform(112.0, 130.0),
        "kidney": draws.uniform(165.0, 195.0),
        "stomach": draws.uniform(5.0, 30.0),
        "bone": draws.uniform(230.0, 280.0),
        "disc": draws.uniform(70.0, 90.0),
    }
    return Anatomy(
        body=(half_width, half_depth),
        fat=fat,
        table=draws.uniform(2.0, 8.0) if draws.chance(0.5) else None,
        scale=(sx, sy, sz),
        bottom=bottom,
        top=top,
        lungs=lungs,
        domes=domes,
        oblique_fissure=((66.0 + draws.uniform(-6.0, 6.0)) * sz, -1.2 * sz / sy),
        horizontal_fissure=(98.0 + draws.uniform(-5.0, 5.0)) * sz,
        heart=heart,
        liver=liver,
        liver_border=(12.0 + draws.uniform(-4.0, 4.0)) * sx,
        spleen=spleen,
        stomach=stomach,
        kidneys=kidneys,
        vertebrae=_stack_vertebrae(border, bottom, top, sz),
        spine_center=spine_center,
        spine_radii=spine_radii,
        thoracic_aorta=(-24.0 * sx, -38.0 * sy, draws.uniform(11.0, 13.0)),
        abdominal_aorta=(-6.0 * sx, draws.uniform(9.0, 12.0)),
        hu=hu,
    )


def _stack_vertebrae(border: float, bottom: float, top: float, scale: float) -> tuple[Vertebra, ...]:
    """Stack vertebral bodies and discs from the thoracolumbar border (mm) downward and upward."""
    vertebrae = []
    height, disc = 29.0 * scale, 8.0 * scale
    edge = border
    while edge > bottom - height:
        vertebrae.append(Vertebra(edge - height, edge, "lumbar"))
        edge -= height + disc
    height, disc = 24.0 * scale, 6.0 * scale
    edge = border + disc
    while edge < top + height:
        vertebrae.append(Vertebra(edge, edge + height, "thoracic"))
        edge += height + disc
    return tuple(sorted(vertebrae))


# Directions in which a lesion needs room around its center: along the axes and diagonals.
_AROUND = np.array(
    [(0.0, 0.0, 0.0)]
    + [tuple(sign * float(i == axis) for i in range(3)) for axis in range(3) for sign in (-1.0, 1.0)]
    + [(0.577 * x, 0.577 * y, 0.577 * z) for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)]
)


def place_lesion(
    draws: Draws, inside: Callable[[np.ndarray], np.ndarray], low: Point, high: Point, room: float, tries: int = 512
) -> tuple[Point, float]:
    """Draw a center in a box whose surroundings of ``room`` mm are inside a region.

    Args:
        inside: tells for points (N, 3) which lie in the region.
        low, high: corners of the box (mm).
        room: radius (mm) that must be free; where it finds no place it shrinks step by step.
        tries: candidates for each radius.

    Returns:
        the center and the free radius (mm).

    Raises:
        RuntimeError: when the region has no point in the box.
    """
    spots = np.array([[draws.uniform(low[axis], high[axis]) for axis in range(3)] for _ in range(tries)])
    spots = spots[inside(spots)]
    if len(spots) == 0:
        raise RuntimeError(f"no place for a lesion of radius {room} mm between {low} and {high}")
    for shrink in (1.0, 0.85, 0.7, 0.55, 0.4, 0.25):
        around = spots[:, None, :] + shrink * room * _AROUND[None]
        fits = inside(around.reshape(-1, 3)).reshape(len(spots), -1).all(axis=1)
        if fits.any():
            return _as_point(spots[int(np.argmax(fits))]), shrink * room
    return _as_point(spots[0]), 0.0


def _as_point(coordinates: np.ndarray) -> Point:
    x, y, z = (float(value) for value in coordinates)
    return x, y, z
