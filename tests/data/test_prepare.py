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
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_u2.data import load_records, prepare_dataset
from monai_u2.exceptions import InputError
from tests.command_line import run_command_line

Replica = Callable[..., Path]


def dropped(output: Path, ending: str = "") -> dict[tuple[str, str], str]:
    lines = (output / f"dropped{ending}.jsonl").read_text().splitlines()
    return {(line["split"], line["case"]): line["reason"] for line in map(json.loads, lines)}


def test_nothing_of_a_data_set_is_lost(ct_rate: Replica, tmp_path: Path) -> None:
    """Every row and every file is a case or dropped with its reason, and all are counted."""
    summary = prepare_dataset("ct_rate", ct_rate(), tmp_path / "out")
    assert json.loads((tmp_path / "out/prepared.json").read_text()) == summary
    assert summary["cases"] == {"train": 4, "validation": 2} == summary["records"] == summary["patients"]
    assert dropped(tmp_path / "out") == {
        ("train", "train_1_a_2.nii.gz"): "another reconstruction of a scan",
        ("train", "train_3_a_1.nii.gz"): "no findings in the report",
        ("train", "train_4_a_1.nii.gz"): "on the list of volumes that aren't of the chest",
        ("train", "train_6_a_1.nii.gz"): "no image file",
        ("train", "train_7_a_1.nii.gz"): "image without a report",
    }
    assert sum(summary["dropped"]["train"].values()) == 5
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dropped.jsonl",
        "prepared.json",
        "train.jsonl",
        "validation.jsonl",
    ]


def test_shards_are_shares_of_the_patients(ct_rate: Replica, tmp_path: Path) -> None:
    """Joined, they are what one run writes."""
    source = ct_rate()
    prepare_dataset("ct_rate", source, tmp_path / "whole", all_reconstructions=True)
    for shard in ("1/3", "2/3", "3/3"):
        prepare_dataset("ct_rate", source, tmp_path / "out", shard=shard, all_reconstructions=True)
    for name in ("train", "validation", "dropped"):
        parts = [(tmp_path / f"out/{name}-{i}-of-3.jsonl").read_text().splitlines() for i in (1, 2, 3)]
        whole = (tmp_path / f"whole/{name}.jsonl").read_text().splitlines()
        assert sorted(line for part in parts for line in part) == sorted(whole)
        assert name != "train" or all(len(part) < len(whole) for part in parts)
    reconstructions = [i for i in (1, 2, 3) if "train_1_a" in (tmp_path / f"out/train-{i}-of-3.jsonl").read_text()]
    assert len(reconstructions) == 1


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/2/3", 2])
def test_an_impossible_shard_is_refused(tmp_path: Path, shard: Any) -> None:
    with pytest.raises(InputError, match="expected a share such as 3/16"):
        prepare_dataset("ct_rate", tmp_path, tmp_path / "out", shard=shard)


def test_a_patient_of_two_splits_leaves_training(amos_mm: Replica, tmp_path: Path) -> None:
    summary = prepare_dataset("amos_mm", amos_mm(), tmp_path / "out")
    assert summary["overlaps"] == ["amos_7008.nii.gz"]
    assert dropped(tmp_path / "out")["train", "amos_7008.nii.gz"] == "its patient is in the split validation"
    kept = prepare_dataset("amos_mm", tmp_path / "AMOS-MM", tmp_path / "kept", keep_overlaps=True)
    assert kept["overlaps"] == ["amos_7008.nii.gz"] and kept["cases"]["train"] == summary["cases"]["train"] + 1


def test_cases_of_another_corpus_leave_training_alone(ct_rate: Replica, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("\ufeffcase,corpus\ntrain_2_b_1.nii.gz,X\ntrain_8,X\nvalid_1,X\n")
    summary = prepare_dataset("ct_rate", ct_rate(), tmp_path / "out", exclude_from_training=tmp_path / "other.csv")
    assert summary["dropped"]["train"]["on the list of what is excluded from training"] == 2
    assert summary["cases"] == {"train": 2, "validation": 2}
    assert "2 of 4 names to exclude are in training" in summary["notes"]  # the header is none of them
    with pytest.raises(InputError, match="one name of a case in each line"):
        prepare_dataset("ct_rate", tmp_path, tmp_path / "out", exclude_from_training=tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("ct_rat",), {}, "expected one of ct_rate, amos_mm"),
        (("ct_rate",), {"verison": "v1"}, r"no option 'verison'; its options are: version \('auto'\), impression"),
        (("ct_rate",), {"impression": "false"}, "impression is 'false'; expected True or False"),
        (("ct_rate",), {"keep_overlaps": 1}, "keep_overlaps is 1"),
        (("ct_rate",), {"question": " "}, "question is ' '"),
        (("ct_rate",), {"version": "v3"}, "version is 'v3'; expected one of auto, fixed, v1"),
        (("amos_mm",), {"task": "all"}, "task is 'all'"),
        (("amos_mm",), {"regions": "head"}, r"regions are \['head'\]"),
        (("abdomen_atlas",), {"report": "long"}, "report is 'long'"),
        (("abdomen_atlas",), {"validation_share": 1.5}, "validation_share is 1.5"),
        (("abdomen_atlas",), {"validation_share": "5%"}, "validation_share is '5%'; expected 0 or more"),
        (("m3d_cap",), {"planes": "oblique"}, "planes is 'oblique'"),
    ],
)
def test_unknown_options_are_named(
    tmp_path: Path, arguments: tuple[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prepare_dataset(*arguments, tmp_path, tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("name", ["ct_rate", "amos_mm", "abdomen_atlas", "m3d_cap"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(InputError, match="expected"):
        prepare_dataset(name, tmp_path / "source", tmp_path / "out")
    with pytest.raises(InputError, match="is no folder"):
        prepare_dataset(name, tmp_path / "nothing", tmp_path / "out")


def test_nothing_is_written_where_reading_fails(ct_rate: Replica, tmp_path: Path) -> None:
    """The last row is broken: what was written before keeps its old content."""
    source = ct_rate()
    prepare_dataset("ct_rate", source, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with (source / "dataset/radiology_text_reports/train_reports.csv").open("a") as file:
        file.write("train_99_a_1.nii.gz,cut off\n")
    with pytest.raises(InputError, match="line .*has 2 fields; expected 5"):
        prepare_dataset("ct_rate", source, tmp_path / "out", impression=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_data_set_without_a_usable_case_is_refused(ct_rate: Replica, tmp_path: Path) -> None:
    source = ct_rate()
    for path in source.rglob("*.nii.gz"):
        path.unlink()
    with pytest.raises(InputError, match=r"no case of ct_rate is left: no image file \(9\), on the list"):
        prepare_dataset("ct_rate", source, tmp_path / "out")


def test_paths_are_absolute(ct_rate: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source given relative to the folder one is in; the records are moved afterwards."""
    monkeypatch.chdir(ct_rate())
    prepare_dataset("ct_rate", ".", tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "out/train.jsonl", tmp_path / "elsewhere/train.jsonl")
    assert all(os.path.isfile(record["image"]) for record in load_records(tmp_path / "elsewhere/train.jsonl"))


@pytest.mark.parametrize(
    ("name", "arguments", "options", "allowed"),
    [
        ("ct_rate", {"version": "v1"}, [], "repeated_image,repeated_answer"),
        ("ct_rate", {"version": "fixed"}, [], "repeated_image,repeated_answer"),
        ("amos_mm", {}, [], "repeated_image,repeated_answer"),
        ("abdomen_atlas", {}, ["--validation_share", "0.4"], "repeated_image,repeated_answer"),
        ("m3d_cap", {}, [], "repeated_image,repeated_answer,hu_windowed"),
    ],
)
def test_what_is_prepared_passes_the_check(
    name: str,
    arguments: dict[str, Any],
    options: list[str],
    allowed: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """As a user types it; the replicas' phantoms repeat themselves."""

    def run(*command: object) -> int:
        return run_command_line(monkeypatch, "data", *command)

    output = tmp_path / "out"
    assert run("prepare", name, request.getfixturevalue(name)(**arguments), output, *options) == 0
    for split in ("train", "validation"):
        check = ["check", output / f"{split}.jsonl", "--workers", 1, "--min-words", 1]
        assert run(*check, "--allow", allowed) == 0, capsys.readouterr().out
    assert run("stats", output / "train.jsonl", "--output", tmp_path / "stats") == 0
    assert (tmp_path / "stats" / "stats.json").is_file() and "Traceback" not in capsys.readouterr().err
