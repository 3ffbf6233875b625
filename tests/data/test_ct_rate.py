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

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from monai_u2.data import CT_RATE_LABELS, load_records, prepare_dataset
from monai_u2.exceptions import InputError

Replica = Callable[..., Path]


def prepared(source: Path, output: Path, split: str = "train", **options: Any) -> dict[str, dict[str, Any]]:
    prepare_dataset("ct_rate", source, output, **options)
    return {Path(record["image"]).name: record for record in load_records(output / f"{split}.jsonl")}


def test_records_of_the_fixed_volumes(ct_rate: Replica, tmp_path: Path) -> None:
    """No slope, intercept or spacing: a fixed volume has HU and a right header, though the table has a slope."""
    records = prepared(ct_rate(), tmp_path / "out")
    assert [*records] == [f"train_{name}.nii.gz" for name in ("1_a_1", "2_b_1", "5_a_1", "8_a_1")]
    record = records["train_2_b_1.nii.gz"]
    assert record.keys() == {"image", "question", "answer", "kind", "findings", "patient"}
    assert record["patient"] == "train_2"
    assert record["answer"].startswith("FINDINGS:\nLungs: ") and "\nIMPRESSION:\n" in record["answer"]
    assert records["train_1_a_1.nii.gz"]["findings"] == []
    assert records["train_5_a_1.nii.gz"]["findings"] == ["Hiatal hernia", "Lung nodule"]


def test_an_impression_that_is_not_given_is_left_out(ct_rate: Replica, tmp_path: Path) -> None:
    source = ct_rate()
    assert "IMPRESSION" not in prepared(source, tmp_path / "out")["train_8_a_1.nii.gz"]["answer"]
    without = prepared(source, tmp_path / "without", impression=False)
    assert not any("IMPRESSION" in record["answer"] for record in without.values())
    assert not any("Not given" in record["answer"] for record in without.values())


def test_options_keep_what_is_left_out_by_default(ct_rate: Replica, tmp_path: Path) -> None:
    source = ct_rate()
    assert "train_1_a_2.nii.gz" in prepared(source, tmp_path / "a", all_reconstructions=True)
    assert "train_4_a_1.nii.gz" in prepared(source, tmp_path / "b", keep_no_chest=True)
    assert "findings" not in prepared(source, tmp_path / "c", labels=False)["train_1_a_1.nii.gz"]


def test_labels_become_questions(ct_rate: Replica, tmp_path: Path) -> None:
    summary = prepare_dataset("ct_rate", ct_rate(), tmp_path / "out", presence=True)
    assert summary["records"]["train"] == 4 * (1 + len(CT_RATE_LABELS))
    asked = [record for record in load_records(tmp_path / "out/train.jsonl") if record["kind"] == "presence"]
    assert sum(record["answer"] == "Yes." for record in asked) == 4  # two of the four cases have two labels


def test_the_table_of_v1_takes_the_place_of_the_header(ct_rate: Replica, tmp_path: Path) -> None:
    source = ct_rate("v1", slope=2.0, intercept=-1024.0)
    record = prepared(source, tmp_path / "out")["train_1_a_1.nii.gz"]
    assert (record["rescale_slope"], record["rescale_intercept"]) == (2.0, -1024.0)
    assert record["image_orientation"] == [1, 0, 0, 0, 1, 0] and len(record["spacing"]) == 3
    lines = (tmp_path / "out/dropped.jsonl").read_text()
    assert '"train_5_a_1.nii.gz", "reason": "no slice spacing (ZSpacing) in the metadata"' in lines


def test_the_tensor_of_v1_is_that_of_the_fixed_volume(ct_rate: Replica, tmp_path: Path, bundle: Path) -> None:
    """Also the slabs' affine but for the position; without the table's help neither is."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "sft.json")
    parser.update({"bundle_root": str(bundle)})
    load = parser.get_parsed_content("load_transforms")
    fit = parser.get_parsed_content("image_transforms")

    def slabs(record: dict[str, Any]) -> Any:
        for step in (*load, *fit):
            record = step(record)
        return record

    v1 = prepared(ct_rate("v1"), tmp_path / "v1")["train_1_a_1.nii.gz"]
    fixed = prepared(ct_rate("fixed"), tmp_path / "fixed")["train_1_a_1.nii.gz"]
    mine, expected = slabs(v1), slabs(fixed)
    assert torch.equal(mine["image"].as_tensor(), expected["image"].as_tensor())
    torch.testing.assert_close(mine["image"].affine[:3, :3], expected["image"].affine[:3, :3])
    for key in ("spacing_mm", "orientation", "extent_mm"):
        assert mine["info"][key] == expected["info"][key], key
    for left_out in ("rescale_intercept", "spacing", "image_orientation"):
        less = slabs({key: value for key, value in v1.items() if key != left_out})["image"].as_tensor()
        assert less.shape != expected["image"].shape or not torch.equal(less, expected["image"].as_tensor()), left_out
    with pytest.raises(InputError, match="no voxel of it is foreground"):
        slabs({key: value for key, value in v1.items() if key != "rescale_slope"})


def test_a_table_without_orientations_is_told_of(ct_rate: Replica, tmp_path: Path) -> None:
    summary = prepare_dataset("ct_rate", ct_rate("v1", orientation=False), tmp_path / "out")
    assert any("no column ImageOrientationPatient" in note for note in summary["notes"])
    assert load_records(tmp_path / "out/train.jsonl")[0]["image_orientation"] == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("ZSpacing", "nan", "no slice spacing (ZSpacing) in the metadata"),
        ("ZSpacing", "0", "no slice spacing (ZSpacing) in the metadata"),
        ("XYSpacing", "[nan, nan]", "no voxel size in plane in the metadata"),
        ("XYSpacing", "0.75", "no voxel size in plane in the metadata"),
        ("RescaleSlope", "", "no rescale slope and intercept in the metadata"),
        ("RescaleSlope", "0", "no rescale slope and intercept in the metadata"),
        ("ImageOrientationPatient", "[1, 0, 0, 1, 0, 0]", "no orientation in the metadata"),
    ],
)
def test_what_the_metadata_lack_is_not_guessed(
    ct_rate: Replica, tmp_path: Path, column: str, value: str, reason: str
) -> None:
    source = ct_rate("v1")
    edit(source / "dataset/metadata/train_metadata.csv", {column: value})
    summary = prepare_dataset("ct_rate", source, tmp_path / "out")
    assert summary["dropped"]["train"][reason] >= 3 and summary["cases"] == {"validation": 2}


def edit(path: Path, changed: dict[str, str] | None = None, renamed: dict[str, str] | None = None) -> None:
    """Change columns of a table in every row, or their names."""
    import csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row | (changed or {}) for row in csv.DictReader(file)]
    rows = [{(renamed or {}).get(key, key): value for key, value in row.items()} for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("table", "changed", "renamed", "message"),
    [
        ("radiology_text_reports/train_reports", {}, {"Findings_EN": "findings_en"}, "close to it: 'findings_en'"),
        ("radiology_text_reports/train_reports", {"VolumeName": "valid_1_a_1"}, {}, "a volume of the split validation"),
        ("radiology_text_reports/train_reports", {"VolumeName": "case 1"}, {}, "called 'case 1'; expected a name such"),
        ("multi_abnormality_labels/train_predicted_labels", {"Emphysema": "2"}, {}, "has '2' as 'Emphysema'"),
        ("multi_abnormality_labels/train_predicted_labels", {}, {"Emphysema": "X"}, "no column 'Emphysema'"),
    ],
)
def test_a_wrong_table_is_named(
    ct_rate: Replica, tmp_path: Path, table: str, changed: dict[str, str], renamed: dict[str, str], message: str
) -> None:
    source = ct_rate()
    edit(source / f"dataset/{table}.csv", changed, renamed)
    with pytest.raises(InputError, match=message):
        prepare_dataset("ct_rate", source, tmp_path / "out")


def test_both_spellings_of_validation(ct_rate: Replica, tmp_path: Path) -> None:
    """The tables of mirrors are called valid_reports.csv, and name volumes validation_1_a_1."""
    source = ct_rate()
    reports = source / "dataset/radiology_text_reports/validation_reports.csv"
    reports.write_text(reports.read_text().replace("valid_", "validation_"))
    reports.rename(reports.with_name("valid_reports.csv"))
    labels = source / "dataset/multi_abnormality_labels/valid_predicted_labels.csv"
    labels.rename(labels.with_name("validation_predicted_labels.csv"))
    assert len(prepared(source / "dataset", tmp_path / "out", "validation")) == 2


def test_a_row_given_twice_is_told_of(ct_rate: Replica, tmp_path: Path) -> None:
    source = ct_rate()
    reports = source / "dataset/radiology_text_reports/validation_reports.csv"
    rows = reports.read_text().split("\n", 1)
    reports.write_text(rows[0] + "\n" + rows[1] + rows[1])
    summary = prepare_dataset("ct_rate", source, tmp_path / "out")
    assert summary["dropped"]["validation"] == {"given twice": 2} and summary["cases"]["validation"] == 2


def test_missing_parts_are_named(ct_rate: Replica, tmp_path: Path) -> None:
    source = ct_rate()
    (source / "dataset/metadata/no_chest_train.txt").unlink()
    with pytest.raises(InputError, match="no list of volumes without a chest; expected metadata/no_chest_train.txt"):
        prepare_dataset("ct_rate", source, tmp_path / "out")
    prepare_dataset("ct_rate", source, tmp_path / "out", keep_no_chest=True)
    with pytest.raises(InputError, match="no volumes of version v1"):
        prepare_dataset("ct_rate", source, tmp_path / "out", version="v1")
    with pytest.raises(InputError, match="presence is True, but labels is False"):
        prepare_dataset("ct_rate", source, tmp_path / "out", presence=True, labels=False)


def test_a_file_of_another_name_is_told_of(ct_rate: Replica, tmp_path: Path) -> None:
    source = ct_rate()
    (source / "dataset/train_fixed/mask.nii.gz").touch()
    summary = prepare_dataset("ct_rate", source, tmp_path / "out")
    assert summary["dropped"]["train"]["image without a report"] == 2
    assert '"mask.nii.gz"' in (tmp_path / "out/dropped.jsonl").read_text()


def test_preferences_are_sampled_on_the_same_tensor(ct_rate: Replica, tmp_path: Path, bundle: Path) -> None:
    """What takes the place of the header isn't lost between the stages."""
    prepare_dataset("ct_rate", ct_rate("v1"), tmp_path / "out")
    images = []
    for base, dataset in (("sft", "validate#dataset"), ("preferences", "dataset")):
        parser = ConfigParser()
        parser.read_config([bundle / "configs" / f"{base}.json", bundle / "configs" / "data" / "ct_rate.json"])
        parser.update({"bundle_root": str(bundle), "dataset_dir": str(tmp_path / "out")})
        parser.update({"validation_records": "@train_records"})
        images.append(parser.get_parsed_content(dataset)[0]["image"])
    assert torch.equal(images[0], images[1]) and float(images[0].max()) > 0.5
