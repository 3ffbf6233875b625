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

import pytest

from tests.command_line import run_command_line

SMALL = {
    "phantom#num_train": 4,
    "phantom#num_validation": 2,
    "phantom#num_test": 2,
    "phantom#questions_per_case": 20,
    "phantom#num_workers": 0,
    "batch_size": 2,
    "max_epochs": 1,
    "val_interval": 1,
    "warmup_steps": 1,
    "validate#inferer#max_new_tokens": 8,
    "inferer#max_new_tokens": 8,
    "num_samples": 50,
    "frozen": ["model.vision_tower"],
}


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    return run_command_line(monkeypatch, "ablate", *arguments)


def test_a_config_is_trained_evaluated_and_compared(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With another one that fails; what is finished isn't repeated without it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({"network_def#config#u2_tokenizer#selection": "best"}))
    good = bundle / "configs" / "ablations" / "linear_projector.json"
    small = {**SMALL, "dataset_dir": "data"}
    options = ["--output", "runs", "--base", bundle / "configs" / "sft.json", "--seeds", "1"]
    options += [f"--{key}={value}" for key, value in small.items()]
    assert main(monkeypatch, good, broken, *options) == 1
    shown = capsys.readouterr().out
    log = tmp_path / "runs" / "broken" / "seed_0" / "training" / "log.txt"
    assert f"[2/2] broken, seed 0: training failed (exit code 1), see {log}" in shown
    assert "ValueError: selection 'best' must be one of 'soft', 'topk'." in shown
    assert shown.endswith("failed: broken, seed 0\n")
    run = tmp_path / "runs" / "linear_projector" / "seed_0"
    assert (run / "training" / "model.pt").is_file() and (run / "evaluation" / "metrics.json").is_file()
    table = json.loads((tmp_path / "runs" / "table.json").read_text())
    assert table["settings"]["steps"] == 2 and table["settings"]["cases"] == 2
    (config,) = table["configs"]
    assert list(config["metrics"]) == ["micro_f1", "green", "rougeL", "distinct"]
    held = json.loads((run / "evaluation" / "metrics.json").read_text())["runs"][0]
    assert config["metrics"]["rougeL"]["value"] == pytest.approx(held["metrics"]["rougeL"]["value"])
    assert config["metrics"]["distinct"]["value"] == held["collapse"]["distinct"]
    before = (run / "training" / "model.pt").stat().st_mtime_ns
    assert main(monkeypatch, good, *options, "--metrics", "micro_f1") == 0
    shown = capsys.readouterr().out
    assert "[1/1] linear_projector, seed 0: training was finished, evaluation was finished" in shown
    assert "| config | seeds | micro_f1 |" in shown and (run / "training" / "model.pt").stat().st_mtime_ns == before


def test_help_is_shown(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("PAGER", "cat")
    assert main(monkeypatch, "--help") == 0
    shown = capfd.readouterr()
    assert "which config the others are compared with" in shown.out + shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "new"], "no configs to compare; expected one or more files, or --ablations"),
        (["CONFIG"], "no --output; expected a folder for runs and table"),
        (["none.json", "--output", "new"], "none.json: no such file; expected a config"),
        (["CONFIG", "--output", "new", "--seeds", "0"], "--seeds is 0; expected a whole number of at least 1."),
        (["CONFIG", "--output", "list.json"], "is a file; expected a folder for --output"),
        (["CONFIG", "--output", "new", "--reference", "rpe"], "--reference rpe: no such config; expected one of list"),
        (["--output", "new", "--ablations", "CONFIG"], "--ablations is 'list.json'; expected no value"),
        (["CONFIG", "--output", "new", "--evaluate", "x.json"], "x.json: no such file"),
        (["CONFIG", "--output", "new", "--max_epoch", "1"], "--max_epoch: no such id in sft.json"),
    ],
)
def test_wrong_input_ends_with_2(
    tmp_path: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("{}")
    command = ["list.json" if word == "CONFIG" else word for word in arguments]
    assert main(monkeypatch, *command, "--base", bundle / "configs" / "sft.json") == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["list.json"]
