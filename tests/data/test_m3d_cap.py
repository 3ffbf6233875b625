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
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_u2.data import load_records, prepare_dataset
from monai_u2.exceptions import InputError
from monai_u2.transforms import LoadWindowedVolumed

Replica = Callable[..., Path]


@pytest.mark.parametrize("form", ["pictures", "npy"])
def test_series_with_texts(m3d_cap: Replica, tmp_path: Path, form: str) -> None:
    summary = prepare_dataset("m3d_cap", m3d_cap(form), tmp_path / "out")
    assert summary["cases"] == {"train": 2, "validation": 2, "test": 1}
    records = load_records(tmp_path / "out/train.jsonl")
    assert all(record["answer"].startswith("FINDINGS:") for record in records)
    volume = LoadWindowedVolumed(keys="image")(records[0])["image"]
    assert volume.shape[:2] == (1, 12)
    lines = [*map(json.loads, (tmp_path / "out/dropped.jsonl").open())]
    reasons = {line["case"].removeprefix("ct_case/"): line["reason"] for line in lines}
    assert reasons == {
        "000002/Coronal_bone_window": "not axial",
        "000003/Axial_non_contrast": "no report",
        "000004/Axial_non_contrast": "no image file",
        "000005/Axial_non_contrast": "its patient is in the split test",
        "000009/Axial": "image without a report",
    }


def test_all_planes(m3d_cap: Replica, tmp_path: Path) -> None:
    source = m3d_cap()
    summary = prepare_dataset("m3d_cap", source, tmp_path / "out", planes="all")
    assert summary["cases"]["train"] == 3 and summary["patients"]["train"] == 2
    # the folder with the index may be given as well
    assert prepare_dataset("m3d_cap", source / "M3D_Cap", tmp_path / "in")["records"]["train"] == 2


def test_a_text_in_the_index(m3d_cap: Replica, tmp_path: Path) -> None:
    source = m3d_cap()
    path = source / "M3D_Cap/M3D_Cap.json"
    index = json.loads(path.read_text())
    index["validation"][0]["text"] = "A cyst."
    index["validation"].append(index["validation"][0])
    path.write_text(json.dumps(index))
    summary = prepare_dataset("m3d_cap", source, tmp_path / "out")
    assert load_records(tmp_path / "out/validation.jsonl")[0]["answer"] == "A cyst."
    assert summary["dropped"]["validation"] == {"given twice": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"has no list 'train' \(found: list\)"),
        ('{"train": [{"image": "a"}]}', r"train\[0\]: has image; expected image and text"),
        ('{"train": {}}', "'train' is a dict; expected a list"),
    ],
)
def test_another_structure_is_named(m3d_cap: Replica, tmp_path: Path, content: str, message: str) -> None:
    source = m3d_cap()
    (source / "M3D_Cap/M3D_Cap.json").write_text(content)
    with pytest.raises(InputError, match=message):
        prepare_dataset("m3d_cap", source, tmp_path / "out")
