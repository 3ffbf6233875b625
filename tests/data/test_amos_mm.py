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
from typing import Any

import pytest
import torch

from monai_u2.data import load_records, prepare_dataset
from monai_u2.exceptions import InputError
from monai_u2.transforms import LoadCTd

Replica = Callable[..., Path]


def prepared(source: Path, output: Path, **options: Any) -> dict[str, list[dict[str, Any]]]:
    prepare_dataset("amos_mm", source, output, **options)
    records: dict[str, list[dict[str, Any]]] = {}
    for record in load_records(output / "train.jsonl"):
        records.setdefault(Path(record["image"]).name.removesuffix(".nii.gz"), []).append(record)
    return records


@pytest.mark.parametrize("merged", [False, True])
def test_reports_by_region(amos_mm: Replica, tmp_path: Path, merged: bool) -> None:
    records = prepared(amos_mm(merged), tmp_path / "out")
    assert [*records] == ["amos_0001", "amos_0002", "amos_0003"]
    assert records["amos_0001"][0]["answer"] == (
        "FINDINGS:\nChest: The lungs are clear.\nAbdomen: A cyst of 11 mm.\nPelvis: Normal.\nIMPRESSION:\nCyst."
    )
    # its findings lie one object deeper, and its pelvis is empty
    assert records["amos_0003"][0]["answer"] == (
        "FINDINGS:\nChest: The lungs are clear.\nAbdomen: A cyst of 13 mm.\nIMPRESSION:\nCyst."
    )
    reasons = {line["case"]: line["reason"] for line in map(json.loads, (tmp_path / "out/dropped.jsonl").open())}
    assert reasons == {
        "amos_7008.nii.gz": "its patient is in the split validation",
        "amos_0004.nii.gz": "no report",
        "amos_0005.nii.gz": "no image file",
        "amos_0009.nii.gz": "image without a report",
    }


def test_chosen_regions(amos_mm: Replica, tmp_path: Path) -> None:
    records = prepared(amos_mm(), tmp_path / "out", regions="abdomen,pelvis", by_region=True, impression=False)
    assert records["amos_0001"][0]["answer"] == "FINDINGS:\nAbdomen: A cyst of 11 mm.\nPelvis: Normal."
    assert [(r["kind"], r["question"]) for r in records["amos_0001"][1:]] == [
        ("region", "What is seen in the abdomen?"),
        ("region", "What is seen in the pelvis?"),
    ]
    assert len(records["amos_0003"]) == 2


@pytest.mark.parametrize("merged", [False, True])
def test_multiple_choice_questions(amos_mm: Replica, tmp_path: Path, merged: bool) -> None:
    """An answer that is none of the options is told of."""
    source = amos_mm(merged)
    records = prepared(source, tmp_path / "out", task="vqa")
    (record,) = records["amos_0004"]
    assert record["question"] == "Where is the cyst?\nA. Liver\nB. Kidney\nC. Spleen\nD. Lung"
    assert (record["answer"], record["kind"], record["question_type"]) == ("B. Kidney", "multiple_choice", "anatomy")
    summary = json.loads((tmp_path / "out/prepared.json").read_text())
    assert summary["dropped"]["validation"]["a question without text, options or an answer among them"] == 2
    both = prepared(source, tmp_path / "both", task="both")
    assert [record["kind"] for record in both["amos_0001"]] == ["report", "multiple_choice"]
    assert [record["kind"] for record in both["amos_0004"]] == ["multiple_choice"]


def test_the_first_volume_of_four_axes(amos_mm: Replica, tmp_path: Path) -> None:
    """The record says which one; a record that doesn't is refused."""
    record = prepared(amos_mm(), tmp_path / "out")["amos_0002"][0]
    assert record["volume_index"] == 0
    load = LoadCTd(keys="image")
    first, second = (load({**record, "volume_index": index})["image"] for index in (0, 1))
    assert torch.equal(first.as_tensor(), -second.as_tensor())
    assert float(first.min()) <= -1000 and float(second.min()) > -1000
    with pytest.raises(InputError, match="4-D image"):
        load({"image": record["image"]})
    with pytest.raises(InputError, match="holds 2 volumes; asked for is volume_index 2"):
        load({**record, "volume_index": 2})
    single = load_records(tmp_path / "out/train.jsonl")[0]
    assert load({"image": single["image"]})["image"].shape == load(single)["image"].shape
    with pytest.raises(InputError, match="holds 1 volume; asked for is volume_index 1"):
        load({**single, "volume_index": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", r"has no list 'training' \(found: list\)|has no list 'validation' \(found: list\)"),
        ('{"train": []}', r"has no list 'validation' \(found: train\)"),
        ('{"training": [], "validation": [{"img": "x"}]}', r"validation\[0\]: has img; expected image"),
        (
            '{"training": [], "validation": [{"image": "amos_0101.nii.gz", "labels": {"report": "text"}}]}',
            "amos_0101.nii.gz: its report has no findings by region",
        ),
        (
            '{"training": [], "validation": [{"image": "amos_0101.nii.gz", "labels": {"report": {"findings": '
            '{"chest": 3}}}}]}',
            "'chest' of its report is a int; expected a text",
        ),
    ],
)
def test_another_structure_is_named(amos_mm: Replica, tmp_path: Path, content: str, message: str) -> None:
    source = amos_mm()
    (source / "report_generation_train_val.json").write_text(content)
    with pytest.raises(InputError, match=message):
        prepare_dataset("amos_mm", source, tmp_path / "out")


def test_an_image_given_twice_is_told_of(amos_mm: Replica, tmp_path: Path) -> None:
    source = amos_mm()
    path = source / "report_generation_train_val.json"
    content = json.loads(path.read_text())
    content["training"].append(content["training"][1])
    path.write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    summary = prepare_dataset("amos_mm", source, tmp_path / "out")
    assert summary["dropped"]["train"]["given twice"] == 1 and summary["cases"]["train"] == 3
