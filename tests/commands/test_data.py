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
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import monai_u2.data
from monai_u2 import cli
from monai_u2.data import generate_phantoms, load_records
from monai_u2.data.check import FINDINGS
from tests.command_line import run_command_line

ROOT = Path(cli.__file__).parents[1]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_phantoms(tmp_path_factory.mktemp("phantoms"), 3, 0, 0, 1, num_workers=1, progress=False)["train"]


@pytest.fixture
def broken(tmp_path: Path, phantoms: Path) -> Path:
    """Records of phantoms, the last of an image that isn't there."""
    records = load_records(phantoms)
    records.append(records[0] | {"image": "none.nii.gz"})
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path / "records.jsonl"


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    return run_command_line(monkeypatch, "data", *arguments)


def test_check_of_whole_data_ends_with_0(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "new" / "check.json"
    assert main(monkeypatch, "check", phantoms, "--workers", "1", "--output", output) == 0
    shown = capsys.readouterr()
    assert shown.out == "6 records, 3 images: all is well\n" and "3/3" in shown.err
    assert json.loads(output.read_text())["num_images"] == 3


def test_check_in_a_process_of_its_own(broken: Path) -> None:
    command = [sys.executable, "-m", "monai_u2", "data", "check", str(broken), "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stdout.splitlines()[0] == "7 records, 4 images"
    assert done.stdout.splitlines()[2].split()[:4] == ["missing_file", "1", "line", "7"]


def test_findings_may_be_allowed(broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    check = ["check", broken, "--workers", "1"]
    assert main(monkeypatch, *check) == 1
    assert main(monkeypatch, *check, "--allow", "short_answer") == 1
    assert main(monkeypatch, *check, "--allow", "short_answer, missing_file") == 0
    assert "no such file" not in capsys.readouterr().err
    assert main(monkeypatch, *check, "--min_words", "100000", "--max_words", "100000", "--allow", "missing_file") == 1
    assert main(monkeypatch, *check, "--language", "de", "--allow", "missing_file") == 1
    assert main(monkeypatch, *check, "--language", "any", "--allow", "missing_file") == 0


def test_joined_shards_are_the_whole(
    tmp_path: Path, broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def check(name: str, *more: str) -> dict[str, Any]:
        main(monkeypatch, "check", broken, "--workers", "1", "--output", tmp_path / name, *more)
        return json.loads((tmp_path / name).read_text())

    whole = check("whole.json")
    for index in (1, 2):
        assert check(f"{index}.json", "--shard", f"{index}/2")["shard"] == f"{index}/2"
    capsys.readouterr()
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    assert main(monkeypatch, "join", *files, "--output", tmp_path / "joined.json") == 1
    assert "missing_file" in capsys.readouterr().out
    assert json.loads((tmp_path / "joined.json").read_text()) == whole
    assert main(monkeypatch, "join", *files, "--allow", "missing_file") == 0


def test_stats_are_written(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert main(monkeypatch, "stats", phantoms, "--output", tmp_path / "new", "--workers", "1") == 0
    assert capsys.readouterr().out.startswith("6 records of 3 images\nreport: 3\n")
    assert json.loads((tmp_path / "new" / "stats.json").read_text())["num_images"] == 3
    assert (tmp_path / "new" / "stats.png").read_bytes().startswith(b"\x89PNG")


def test_split_is_written(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = ["split", phantoms, "--output", tmp_path / "new", "--test", "0", "--validation", "0.3", "--by", "case"]
    assert main(monkeypatch, *command) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'new' / 'train.jsonl'}: 4 records, 2 images, 2 groups",
        f"{tmp_path / 'new' / 'validation.jsonl'}: 2 records, 1 images, 1 groups",
    ]
    assert len(load_records(tmp_path / "new" / "validation.jsonl")) == 2


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the function that prepares a data set was given."""
    seen: dict[str, Any] = {}

    def prepare_dataset(name: str, source: Path, output: Path, shard: str | None = None, **options: Any) -> dict:
        seen.update(name=name, source=source, output=output, shard=shard, options=options)
        return {
            "records": {"train": 6, "validation": 2},
            "cases": {"train": 3, "validation": 1},
            "dropped": {"train": {"no report": 2}},
            "notes": ["3 reports have no image"],
        }

    monkeypatch.setattr(monai_u2.data, "prepare_dataset", prepare_dataset, raising=False)
    return seen


def test_prepare_passes_its_options_on_and_shows_the_counts(
    tmp_path: Path, prepared: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = ["prepare", "ct_rate", tmp_path, tmp_path / "out", "--shard", "3/16"]
    assert main(monkeypatch, *command, "--impression", "False", "--limit", "5", "--version", "v1") == 0
    assert prepared == {
        "name": "ct_rate",
        "source": tmp_path,
        "output": tmp_path / "out",
        "shard": "3/16",
        "options": {"impression": False, "limit": 5, "version": "v1"},
    }
    assert capsys.readouterr().out.splitlines() == [
        "train: 6 records of 3 cases",
        "validation: 2 records of 1 cases",
        "train: 2 cases dropped, no report",
        "3 reports have no image",
        f"written to {tmp_path / 'out'}",
    ]


def test_prepare_shows_its_help_and_runs_nothing(
    prepared: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PAGER", "cat")
    assert main(monkeypatch, "prepare", "ct_rate", "a", "b", "--help") == 0
    shown = capfd.readouterr()
    assert "what the data set's reader can be told" in shown.out + shown.err and not prepared


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "none.jsonl"], "none.jsonl: does not exist; expected a JSON Lines file"),
        (["check", "RECORDS", "--workers", "0"], "--workers is 0; expected a whole number of at least 1."),
        (["check", "RECORDS", "--shard", "4/3"], "shard is '4/3'; expected a share such as 3/16"),
        (["check", "RECORDS", "--language", "English"], "language is 'English'; expected one of en,"),
        (
            ["check", "RECORDS", "--allow", "typo"],
            f"--allow typo: no such finding; expected some of {', '.join(FINDINGS)}",
        ),
        (["check", "RECORDS", "--output", "."], "is a folder; expected a JSON file for --output"),
        (["check", "RECORDS", "--min_words", "x"], "--min_words is 'x'; expected a whole number"),
        (["check", "RECORDS", "--wrokers", "2"], "Could not consume arg: --wrokers"),
        (["join"], "no checks to join"),
        (["join", "RECORDS"], "expected what data check --output wrote."),
        (["join", "LIST"], "isn't a check; expected what data check --output wrote."),
        (["stats", "none.jsonl", "--output", "new"], "none.jsonl: does not exist"),
        (["stats", "RECORDS", "--output", "LIST"], "is a file; expected a folder for --output."),
        (["split", "RECORDS", "--output", "new", "--test", "many"], "--test is 'many'; expected a share such as 0.1."),
        (["split", "RECORDS", "--output", "new", "--seed", "1.5"], "--seed is 1.5; expected a whole number"),
        (["split", "RECORDS", "--output", "new", "--by", "1"], "line 1: has no '1'"),
        (["prepare", "ct_rate", "none", "out"], "none: no such folder; expected the data set ct_rate"),
    ],
)
def test_wrong_input_ends_with_2(
    tmp_path: Path,
    phantoms: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    places = {"RECORDS": str(phantoms), "LIST": "list.json"}
    monkeypatch.setattr("monai_u2.data.check.check_image", lambda task: pytest.fail("an image was read"))
    assert main(monkeypatch, *[places.get(argument, argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.out == "" and "Traceback" not in shown.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.json"]
