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

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from monai_u2.exceptions import InputError
from monai_u2.transforms import LoadWindowedVolume, LoadWindowedVolumed


def write_pictures(folder: Path, names: list[str], size: tuple[int, int] = (4, 6)) -> None:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(np.full(size, 20 * i, dtype=np.uint8)).save(folder / name)


def test_pictures_are_stacked_by_number(tmp_path: Path) -> None:
    """Not by letters, by which 10.png would come before 2.png."""
    write_pictures(tmp_path / "series", [f"{i}.png" for i in range(12)])
    (tmp_path / "series" / "readme.txt").write_text("no picture")
    volume = LoadWindowedVolume()(tmp_path / "series")
    assert volume.shape == (1, 12, 4, 6) and volume.dtype == torch.float32
    assert (volume[0, :, 0, 0] * 255).round().tolist() == [20 * i for i in range(12)]


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (3, 4, 5)])
def test_prepared_arrays(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.linspace(0, 1, 60, dtype=np.float32).reshape(shape)
    np.save(tmp_path / "volume.npy", array)
    case = LoadWindowedVolumed(keys="image", info_key="info")({"image": str(tmp_path / "volume.npy")})
    np.testing.assert_array_equal(case["image"].numpy(), array.reshape(1, 3, 4, 5))
    assert case["info"]["source"] == "pictures" and case["info"]["shape"] == [3, 4, 5]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((1, 3, 4, 5), 300.0), "values lie in 300 to 300; expected gray values"),
        (np.linspace(-1000, 400, 60).reshape(1, 3, 4, 5), "expected gray values in .0, 1.*LoadCTd"),
        (np.full((3, 4, 5), np.nan), "expected gray values"),
        (np.zeros((3, 4, 5)), "all values are 0"),
        (np.zeros((3, 4)), r"is float64 \(3, 4\); expected floats"),
        (np.zeros((3, 4, 5), dtype=np.int16), "is int16"),
        (np.array([{"a": 1}]), "can't be read as .npy"),
    ],
)
def test_what_is_no_such_volume_is_refused(tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "volume.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        LoadWindowedVolume()(tmp_path / "volume.npy")


def test_broken_series_are_refused(tmp_path: Path) -> None:
    load = LoadWindowedVolume()
    with pytest.raises(InputError, match="no such folder of pictures or .npy file"):
        load(tmp_path / "nothing")
    write_pictures(tmp_path / "series", ["1.png"])
    with pytest.raises(InputError, match="holds 1 pictures; expected at least two"):
        load(tmp_path / "series")
    write_pictures(tmp_path / "series", ["2.png"], size=(5, 6))
    with pytest.raises(InputError, match=r"series/2.png: is \(5, 6\) pixels, 1.png \(4, 6\)"):
        load(tmp_path / "series")
    (tmp_path / "series" / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="series/2.png: can't be read as a picture"):
        load(tmp_path / "series")
