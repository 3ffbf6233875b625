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

import pytest

from monai_u2.data.phantom.findings import FINDING_KINDS, FINDING_LABELS, SPLIT_RANGES, finding_locations, split_of


def test_labels_are_distinct_and_fit_the_mask() -> None:
    assert len(FINDING_KINDS) == 12
    assert len(FINDING_LABELS) == len(set(FINDING_LABELS)) == 27
    assert FINDING_LABELS[0] == "lung nodule, right upper lobe"
    assert FINDING_LABELS[-1] == "vertebral fracture, lumbar spine"
    assert [label for label in FINDING_LABELS if "," not in label] == [
        "cardiomegaly",
        "aortic aneurysm",
        "splenomegaly",
    ]


def test_locations_make_up_the_labels() -> None:
    assert sum(max(1, len(finding_locations(kind))) for kind in FINDING_KINDS) == len(FINDING_LABELS)


@pytest.mark.parametrize(
    ("number", "split"),
    [(0, "train"), (99_999, "train"), (100_000, "validation"), (200_000, "test"), (299_999, "test")],
)
def test_split_of(number: int, split: str) -> None:
    assert split_of(number) == split


@pytest.mark.parametrize("number", [-1, 300_000])
def test_split_of_refuses_other_numbers(number: int) -> None:
    with pytest.raises(ValueError, match=f"case number {number} belongs to no split"):
        split_of(number)


def test_splits_share_no_number() -> None:
    ranges = sorted(SPLIT_RANGES.values())
    assert all(end <= start for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False))
