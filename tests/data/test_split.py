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
import os
import random
from pathlib import Path
from typing import Any

import pytest

from monai_u2.data import load_records, split_records
from monai_u2.exceptions import InputError

Records = list[dict[str, Any]]
SPLITS = ("train", "validation", "test")


def records_of(patients: int, images: int = 2, questions: int = 3, key: str | None = "patient") -> Records:
    return [
        {"image": f"images/{patient}_{image}.nii.gz", "question": f"{question}?", "answer": "Yes.", "extra": [question]}
        | ({key: patient} if key else {})
        for patient in range(patients)
        for image in range(images)
        for question in range(questions)
    ]


def write(file: Path, records: Records) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def splits(folder: Path) -> dict[str, Records]:
    return {name: load_records(folder / f"{name}.jsonl") for name in SPLITS if (folder / f"{name}.jsonl").exists()}


def test_no_patient_is_in_two_splits_and_no_record_is_lost(tmp_path: Path) -> None:
    source = write(tmp_path / "records.jsonl", records_of(40))
    counts = split_records(source, tmp_path / "out")
    parts = splits(tmp_path / "out")
    patients = {name: {record["patient"] for record in part} for name, part in parts.items()}
    assert {name: len(of) for name, of in patients.items()} == {"train": 32, "validation": 4, "test": 4}
    assert len(set.union(*patients.values())) == 40
    together = [record | {"image": os.path.normpath(record["image"])} for part in parts.values() for record in part]
    assert sorted(together, key=json.dumps) == sorted(load_records(source), key=json.dumps)
    assert counts["train"] == {"records": 192, "images": 64, "groups": 32}
    assert counts["test"] == {"records": 24, "images": 8, "groups": 4}


def test_without_patients_the_images_stay_whole(tmp_path: Path) -> None:
    source = write(tmp_path / "records.jsonl", records_of(10, key=None))
    split_records(source, tmp_path / "out", validation=0.2, test=0.3)
    images = [{record["image"] for record in part} for part in splits(tmp_path / "out").values()]
    assert [len(of) for of in images] == [10, 4, 6] and len(set.union(*images)) == 20


def test_a_patient_named_by_one_record_of_an_image_holds_for_all(tmp_path: Path) -> None:
    records = records_of(20)
    for record in records[1::3]:  # the second question of each image
        del record["patient"]
    source = write(tmp_path / "records.jsonl", records)
    split_records(source, tmp_path / "out", validation=0.3)
    images = {
        name: {Path(r["image"]).name.split("_")[0] for r in part} for name, part in splits(tmp_path / "out").items()
    }
    assert sum(map(len, images.values())) == len(set.union(*images.values())) == 20


def test_another_key_keeps_together_too_and_patients_still_do(tmp_path: Path) -> None:
    records = records_of(24)
    for record in records:
        record["site"] = record["patient"] // 4
    records[0]["site"] = 5  # one image of patient 0 makes sites 0 and 5 one group
    source = write(tmp_path / "records.jsonl", records)
    counts = split_records(source, tmp_path / "out", validation=0.2, test=0.2, by="site")
    parts = splits(tmp_path / "out")
    for key in ("site", "patient", "image"):
        values = [{record[key] for record in part} for part in parts.values()]
        assert sum(map(len, values)) == len(set.union(*values))
    assert sum(part["groups"] for part in counts.values()) == 5


def test_the_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    records = records_of(30)
    source = write(tmp_path / "a" / "records.jsonl", records)
    split_records(source, tmp_path / "a" / "17")
    split_records(source, tmp_path / "a" / "18", seed=18)
    random.Random(0).shuffle(records)
    split_records(write(tmp_path / "b" / "other.jsonl", records), tmp_path / "b" / "17")
    held_out = [
        {record["patient"] for record in load_records(tmp_path / folder / "test.jsonl")}
        for folder in ("a/17", "a/18", "b/17")
    ]
    assert held_out[0] == held_out[2] != held_out[1]


def test_paths_lead_to_the_same_files(tmp_path: Path) -> None:
    records = records_of(3, images=1, questions=1)
    for number, record in enumerate(records):
        record |= {
            "truth": f"truth/{number}.json",
            "image": str(tmp_path / "far.nii.gz") if number == 1 else record["image"],
        }
    source = write(tmp_path / "data" / "records.jsonl", records)
    (tmp_path / "disk" / "deep" / "down").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "disk" / "deep" / "down")
    split_records(source, tmp_path / "runs" / "out")
    written = {}
    for name in SPLITS:
        file = tmp_path / "runs" / "out" / f"{name}.jsonl"
        record = json.loads(file.read_text())
        written[record["patient"]] = (record["image"], load_records(file)[0])
    assert written[0][0] == "../../../../data/images/0_0.nii.gz" and written[1][0] == str(tmp_path / "far.nii.gz")
    for number, (_, record) in written.items():
        assert Path(record["image"]).resolve() == Path(load_records(source)[number]["image"])
        assert Path(record["truth"]).resolve() == tmp_path / "data" / "truth" / f"{number}.json"


def test_a_share_of_0_writes_no_file(tmp_path: Path) -> None:
    source = write(tmp_path / "records.jsonl", records_of(4))
    assert list(split_records(source, tmp_path / "out", test=0)) == ["train", "validation"]
    assert not (tmp_path / "out" / "test.jsonl").exists()
    split_records(source, tmp_path / "out")
    with pytest.raises(InputError, match="test.jsonl: is there from another split, and this one writes none"):
        split_records(source, tmp_path / "out", test=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 0.5, "test": 0.5}, "validation is 0.5 and test 0.5; expected shares"),
        ({"validation": -0.1}, "validation is -0.1"),
        ({"test": 1}, "test 1;"),
        ({"test": float("nan")}, "test nan"),
        ({"validation": 0.4, "test": 0.4}, "3 groups of records, of which 1 are for validation and 1 for test"),
        ({"by": "site"}, "records.jsonl, line 1: has no 'site'"),
    ],
)
def test_what_cannot_be_split_is_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    patients = 2 if "groups" in message else 3
    source = write(tmp_path / "records.jsonl", records_of(patients))
    with pytest.raises(InputError, match=message.replace("3 groups", "2 groups")):
        split_records(source, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    source = write(tmp_path / "train.jsonl", records_of(10))
    before = source.read_text()
    with pytest.raises(InputError, match="would be overwritten"):
        split_records(source, tmp_path)
    assert source.read_text() == before and not (tmp_path / "test.jsonl").exists()


def test_a_broken_line_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "records.jsonl", records_of(10))
    source.write_text(source.read_text() + "{\n")
    with pytest.raises(InputError, match="line 61: is not JSON"):
        split_records(source, tmp_path / "out")


def test_null_patients_are_not_one_patient(tmp_path: Path) -> None:
    records = [record | {"patient": None} for record in records_of(40, images=1, questions=1)]
    counts = split_records(write(tmp_path / "records.jsonl", records), tmp_path / "out")
    assert {name: part["groups"] for name, part in counts.items()} == {"train": 32, "validation": 4, "test": 4}
