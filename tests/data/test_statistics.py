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

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_u2.data import plot_statistics, record_statistics
from monai_u2.exceptions import InputError


def write_image(file: Path, spacing: tuple[float, float, float], shape: tuple[int, int, int] = (4, 5, 6)) -> str:
    nib.save(nib.Nifti1Image(np.zeros(shape, dtype=np.int16), np.diag([*spacing, 1.0])), file)
    return file.name


@pytest.fixture
def records(tmp_path: Path) -> Path:
    first = {"image": write_image(tmp_path / "a.nii.gz", (1, 2, 3)), "findings": ["mass", "stone"], "patient": "7"}
    second = {"image": write_image(tmp_path / "b.nii", (3, 2, 5)), "findings": [], "patient": "7"}
    third = {"image": "none.nii.gz", "findings": ["mass"], "patient": 8}
    fourth = {"image": write_image(tmp_path / "d.nii.gz", (9, 9, 9)), "spacing": [2, 2, 4]}
    lines = [
        first | {"question": "What?", "answer": "A mass and a stone."},
        first | {"question": "Is there a mass?", "answer": "Yes.", "kind": "presence"},
        second | {"question": "What?", "answer": "Nothing."},
        third | {"question": "What?", "answer": "A mass."},
        fourth | {"question": "What?", "answer": "左肾见一囊肿"},
    ]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_everything_is_counted(records: Path) -> None:
    counted = record_statistics(records)
    assert (counted["num_records"], counted["num_images"], counted["num_patients"]) == (5, 4, 2)
    assert counted["kinds"] == {"report": 4, "presence": 1}
    words = counted["answer_words"]["report"]
    assert (words["count"], words["mean"], words["quartiles"]) == (4, 3.5, [1.0, 1.75, 3.5, 5.25, 6.0])
    assert sum(words["histogram"]) == 4 and len(words["edges"]) == len(words["histogram"]) + 1
    assert counted["findings"] == {"mass": 2, "stone": 1}
    assert counted["findings_per_image"] == {"0": 1, "1": 1, "2": 1} and counted["num_images_without_findings_key"] == 1
    assert json.loads(json.dumps(counted)) == counted


def test_geometry_is_that_of_the_headers_or_of_the_records(records: Path) -> None:
    counted = record_statistics(records)
    spacing, extent = counted["spacing_mm"], counted["extent_mm"]
    assert spacing["left_right"]["quartiles"] == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert spacing["head_foot"]["quartiles"] == [3.0, 3.5, 4.0, 4.5, 5.0]
    assert extent["front_back"]["quartiles"] == [10.0, 10.0, 10.0, 10.0, 10.0]
    assert spacing["left_right"]["edges"] == spacing["head_foot"]["edges"]
    assert [entry["image"] for entry in counted["unreadable"]] == ["none.nii.gz"]


def test_workers_count_the_same(records: Path) -> None:
    assert record_statistics(records, workers=2) == record_statistics(records)


def only(records: Path, **changes: Any) -> None:
    """Leave the last record alone, which has no findings."""
    line = json.loads(records.read_text().splitlines()[-1]) | changes
    records.write_text(json.dumps(line) + "\n")


@pytest.mark.parametrize("changes", [None, {}, {"image": "none.nii.gz", "kind": "size"}])
def test_a_plot_is_drawn_whatever_is_missing(records: Path, changes: dict[str, Any] | None) -> None:
    if changes is not None:
        only(records, **changes)
    file = records.with_name("stats.png")
    plot_statistics(record_statistics(records), file)
    with Image.open(file) as picture:
        assert picture.format == "PNG" and min(picture.size) > 500
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10
    assert list(records.parent.glob("*.tmp")) == []


def test_a_broken_line_is_refused(records: Path) -> None:
    records.write_text(records.read_text() + "{\n")
    with pytest.raises(InputError, match="line 6: is not JSON"):
        record_statistics(records)
