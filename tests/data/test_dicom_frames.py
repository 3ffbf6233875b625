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
from pydicom import Dataset

from monai_u2.data.dicom_frames import frames_of, stack_frames
from monai_u2.exceptions import InputError


def header(index: int, **values: Any) -> Dataset:
    """One slice's header: axial, 0.8 mm between rows, 0.6 mm between columns, 2 mm from slice to slice."""
    dataset = Dataset()
    dataset.Rows, dataset.Columns = 6, 4
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-10, 5, 100 + 2 * index]
    dataset.PixelSpacing = [0.8, 0.6]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def stack(headers: dict[int, Dataset]) -> tuple[list[int], np.ndarray]:
    """Return the order in which the headers, by their number, are stacked, and the affine."""
    frames = [frame for i, one in headers.items() for frame in frames_of(Path("series") / f"{i}.dcm", one)]
    ordered, affine = stack_frames(frames)
    return [int(frame.file.stem) for frame in ordered], affine


def test_slices_are_sorted_and_the_affine_is_ras() -> None:
    order, affine = stack({i: header(i) for i in (3, 0, 2, 1)})
    assert order == [0, 1, 2, 3]
    expected = [[-0.6, 0, 0, 10], [0, -0.8, 0, -5], [0, 0, 2, 100], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, expected)


def test_positions_with_one_decimal_are_regular() -> None:
    heights = np.round(0.625 * np.arange(40), 1)
    headers = {i: header(i, ImagePositionPatient=[0, 0, height]) for i, height in enumerate(heights)}
    order, affine = stack(headers)
    assert order == list(range(40))
    assert affine[2, 2] == pytest.approx(0.625, abs=0.01)


@pytest.mark.parametrize("numbers", [(0, 1, 2, 4, 5), (0, 1, 3), (0, 2, 3)])
def test_missing_slice_is_placed(numbers: tuple[int, ...]) -> None:
    before = next(a for a, b in zip(numbers, numbers[1:], strict=False) if b - a == 2)
    place = (
        rf"{before}\.dcm and {before + 2}\.dcm: a gap of 4\.00 mm .*{100 + 2 * before}\.00 to {104 + 2 * before}\.00 mm"
    )
    with pytest.raises(
        InputError, match=rf"{place}.*distance is 2\.00 mm: about 1 slice.* missing\. Give the whole series"
    ):
        stack({i: header(i) for i in numbers})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ImagePositionPatient": [-10, 5, 102]}, r"1\.dcm and 2\.dcm: two slices at the same position \(102\.00 mm"),
        ({"ImagePositionPatient": [-10, 5, 104.7]}, r"2\.dcm: it lies 0\.70 mm off the regular stack of 5 slices"),
        ({"ImagePositionPatient": [-7, 5, 104]}, r"2\.dcm: it lies 3\.00 mm off the regular stack"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, r"0\.dcm and 2\.dcm: ImageOrientationPatient differs"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, r"2\.dcm: ImageOrientationPatient is .* right angles"),
        ({"PixelSpacing": [0.6, 0.8]}, r"0\.dcm and 2\.dcm: PixelSpacing differs .*\[0\.8, 0\.6\] and \[0\.6, 0\.8\]"),
        ({"PixelSpacing": [0.6, 0]}, r"2\.dcm: PixelSpacing is \[0\.6, 0\.0\] mm"),
        ({"Rows": 5}, r"0\.dcm and 2\.dcm: size \(rows, columns\) differs .*\(6, 4\) and \(5, 4\)"),
        ({"SamplesPerPixel": 3}, r"2\.dcm: a color image \(3 samples"),
        ({"RescaleType": "Z_EFF"}, r"2\.dcm: RescaleType is Z_EFF; expected HU"),
        ({"RescaleIntercept": None}, r"2\.dcm: RescaleIntercept is missing, so HU isn't known"),
        ({"ImagePositionPatient": None}, r"2\.dcm: ImagePositionPatient is missing, so the slice's place isn't known"),
    ],
)
def test_one_slice_unlike_the_others_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stack({i: header(i, **(changes if i == 2 else {})) for i in range(5)})


def test_gantry_tilt_is_refused_by_name() -> None:
    tilt = np.deg2rad(15.0)
    orientation = [1, 0, 0, 0, np.cos(tilt), np.sin(tilt)]
    with pytest.raises(InputError, match=r"series: gantry tilt of 15\.0 degrees .*reconstructed without tilt"):
        stack({i: header(i, ImageOrientationPatient=orientation) for i in range(5)})


def test_rounding_of_the_orientation_is_no_tilt() -> None:
    orientation = [1, 0, 0, 0, 0.9999995, 0.001]
    assert stack({i: header(i, ImageOrientationPatient=orientation) for i in range(5)})[0] == [0, 1, 2, 3, 4]
