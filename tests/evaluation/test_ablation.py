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

import ast
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from monai_u2.evaluation import Ablation, check_ablation, run_ablation
from monai_u2.evaluation.ablation import named_configs
from monai_u2.exceptions import InputError

BASE = {"max_epochs": 2, "phantom": {"num_train": 4}, "network": {"width": 4}, "train": {"loss": {"weight": 1}}}
EVALUATE = {"network": {"width": 4}, "controls": ["zeroed_images"], "cases": 5}
CONFIGS = {
    "plain": {"_comment": "The base."},
    "wide": {"_comment": "Wider.", "network#width": 8, "train#loss#weight": 2, "helper": 3},
}


class Processes:
    """In the place of processes: takes down what each was to run, and writes what it would."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.failing: set[tuple[str, str, int]] = set()

    def run(self, command: list[str], env: dict[str, str], stdout: Any, stderr: int) -> Any:
        assert command[1:4] == ["-m", "monai.bundle", "run"] and env["MLFLOW_DISABLE_TELEMETRY"] == "true"
        files = [Path(name) for name in ast.literal_eval(command[6])]
        values = json.loads(files[-1].read_text())
        folder = Path(values["output_dir"])
        name, seed = folder.parts[-3], int(folder.parts[-2].removeprefix("seed_"))
        kind = {"training": "training", "evaluating": "evaluation"}[command[4]]
        files = [file.name for file in files]
        self.started.append(
            {"kind": kind, "name": name, "seed": seed, "files": files, "values": values, "more": command[7:]}
        )
        stdout.write("begun\n")
        if (kind, name, seed) in self.failing:
            stdout.write("ValueError: the cause\n" + "a line\n" * 20 + "RuntimeError: disk is full\n")
            stdout.flush()
            return subprocess.CompletedProcess(command, 1)
        (folder / {"training": "model.pt", "evaluation": "metrics.json"}[kind]).write_text("{}")
        return subprocess.CompletedProcess(command, 0)

    def names(self) -> list[str]:
        return [f"{one['kind']} {one['name']} {one['seed']}" for one in self.started]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    processes = Processes()
    monkeypatch.setattr("monai_u2.evaluation.ablation.subprocess.run", processes.run)
    return processes


def ablation(folder: Path, seeds: int = 2, **more: Any) -> Ablation:
    """The two configs over the base, with more of them where given as dicts."""
    changed = {name: more.pop(name) for name in [*more] if isinstance(more[name], dict) and name != "overrides"}
    configs = folder / "bundle" / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    for name, content in {"sft": BASE, "evaluate": EVALUATE, **CONFIGS, **changed}.items():
        (configs / f"{name}.json").write_text(json.dumps(content))
    named = {name: configs / f"{name}.json" for name in [*CONFIGS, *changed]}
    return Ablation(named, [configs / "sft.json"], [configs / "evaluate.json"], folder / "runs", seeds, **more)


def test_each_config_is_trained_and_evaluated_with_each_seed(tmp_path: Path, processes: Processes) -> None:
    shown: list[str] = []
    overrides = {"max_epochs": 3, "cases": 7, "network#width": 5}
    task = ablation(tmp_path, overrides=overrides)
    check_ablation(task)
    runs = run_ablation(task, shown.append)
    assert [(run.name, run.seed, run.failure) for run in runs] == [
        ("plain", 0, None),
        ("wide", 0, None),
        ("plain", 1, None),
        ("wide", 1, None),
    ]
    assert processes.names()[:3] == ["training plain 0", "evaluation plain 0", "training wide 0"]
    assert [line.split(" training ")[0] for line in shown][1:3] == ["[2/4] wide, seed 0:", "[3/4] plain, seed 1:"]
    training, evaluation = processes.started[-2:]
    root, run = tmp_path / "bundle", tmp_path / "runs" / "wide" / "seed_1"
    assert training["files"] == ["sft.json", "wide.json", "overrides.json"] and training["more"] == []
    assert training["values"] == {
        "bundle_root": str(root),
        "max_epochs": 3,
        "network#width": 5,
        "seed": 1,
        "ckpt_dir": str(run / "training"),
        "output_dir": str(run / "training"),
    }
    # the evaluation gets what the config changes of it, but for blocks that it hasn't got
    assert evaluation["files"] == ["evaluate.json", "overrides.json"]
    assert evaluation["values"] == {
        "bundle_root": str(root),
        "network#width": 5,
        "helper": 3,
        "controls": [],
        "cases": 7,
        "checkpoint": str(run / "training" / "model.pt"),
        "output_dir": str(run / "evaluation"),
    }


def test_what_a_config_changes_is_evaluated(tmp_path: Path, processes: Processes) -> None:
    run_ablation(ablation(tmp_path, seeds=1), print)
    assert processes.started[-1]["values"]["network#width"] == 8


def test_finished_runs_are_not_repeated(tmp_path: Path, processes: Processes) -> None:
    run_ablation(ablation(tmp_path, seeds=1), print)
    processes.started.clear()
    shown: list[str] = []
    run_ablation(ablation(tmp_path, seeds=2), shown.append)
    assert processes.names() == ["training plain 1", "evaluation plain 1", "training wide 1", "evaluation wide 1"]
    assert shown[0] == "[1/4] plain, seed 0: training was finished, evaluation was finished"


def test_values_that_fire_reads_as_tuples_are_the_same_again(tmp_path: Path, processes: Processes) -> None:
    again = {"seeds": 1, "overrides": {"network#width": (5, 6)}}
    run_ablation(ablation(tmp_path, **again), print)
    processes.started.clear()
    run_ablation(ablation(tmp_path, **again), print)
    assert processes.names() == []


def test_a_training_that_was_broken_off_goes_on(tmp_path: Path, processes: Processes) -> None:
    folder = tmp_path / "runs" / "wide" / "seed_0" / "training"
    folder.mkdir(parents=True)
    (folder / "checkpoint_step=3.pt").touch()
    (folder / "model.pt").touch()  # of a validation on the way
    run_ablation(ablation(tmp_path, seeds=1), print)
    assert [one["more"] for one in processes.started] == [[], [], ["--resume", "True"], []]


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path: Path, processes: Processes) -> None:
    processes.failing = {("training", "plain", 0), ("evaluation", "wide", 0)}
    shown: list[str] = []
    runs = run_ablation(ablation(tmp_path, seeds=1), shown.append)
    assert processes.names() == ["training plain 0", "training wide 0", "evaluation wide 0"]
    log = tmp_path / "runs" / "plain" / "seed_0" / "training" / "log.txt"
    lines = shown[0].splitlines()
    assert lines[0] == f"[1/2] plain, seed 0: training failed (exit code 1), see {log}, which ends with"
    assert lines[1] == "    ValueError: the cause"
    assert lines[-1] == "    RuntimeError: disk is full" and len(lines) == 8
    assert runs[1].failure is not None and runs[1].failure.startswith("evaluation failed (exit code 1)")
    processes.failing.clear()
    processes.started.clear()
    assert [run.failure for run in run_ablation(ablation(tmp_path, seeds=1), print)] == [None, None]
    assert processes.names() == ["training plain 0", "evaluation plain 0", "evaluation wide 0"]


def test_a_run_without_its_result_has_failed(
    tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = lambda command, **more: subprocess.CompletedProcess(command, 0)  # noqa: E731
    monkeypatch.setattr("monai_u2.evaluation.ablation.subprocess.run", silent)
    runs = run_ablation(ablation(tmp_path, seeds=1), print)
    assert runs[0].failure is not None and runs[0].failure.startswith("training failed (no model.pt written)")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"overrides": {"max_epochs": 3}}, r"training: .* \(max_epochs\).* delete .*plain/seed_0 to repeat"),
        ({"overrides": {"cases": 1}}, r"evaluation: .* \(cases\).* delete .*seed_0/evaluation to repeat"),
        ({"wide": {"network#width": 9}}, r"wide/seed_0/training: .*wide.json"),
    ],
)
def test_runs_with_other_settings_are_refused(
    tmp_path: Path, processes: Processes, changes: dict[str, Any], named: str
) -> None:
    run_ablation(ablation(tmp_path, seeds=1), print)
    processes.started.clear()
    with pytest.raises(InputError, match=named):
        run_ablation(ablation(tmp_path, seeds=1, **changes), print)
    assert processes.started == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"longer": {"max_epochs": 3}}, "longer.json: changes max_epochs; expected the same data and steps"),
        ({"more": {"phantom#num_train": 8}}, "more.json: changes phantom; .* as --phantom VALUE"),
        ({"other": {"seed": 3}}, "other.json: sets seed, which each run gets by itself"),
        ({"overrides": {"seed": 3}}, "--seed: each run gets its own; leave it out"),
        ({"overrides": {"max_epoch": 3}}, "--max_epoch: no such id in sft.json, evaluate.json"),
        ({"overrides": {"max_epochs#x": 3}}, "--max_epochs#x: no such id"),
    ],
)
def test_what_could_not_be_compared_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_ablation(ablation(tmp_path, **changes))


def test_a_config_may_say_what_all_of_them_get(tmp_path: Path) -> None:
    check_ablation(ablation(tmp_path, longer={"max_epochs": 3}, overrides={"max_epochs": 5}))


def test_configs_have_names_of_their_own(tmp_path: Path) -> None:
    files = [tmp_path / "a" / "x.json", tmp_path / "b" / "x.json"]
    for file in files:
        file.parent.mkdir()
        file.write_text("{}")
    assert named_configs(files[:1]) == {"x": files[0]}
    for name, content in (("list", "[]"), ("torn", "{")):
        (tmp_path / f"{name}.json").write_text(content)
    for wrong, message in (
        (files, "have one name, x"),
        ([tmp_path / "y.json"], "no such file"),
        ([tmp_path / "list.json"], "holds a list; expected an object"),
        ([tmp_path / "torn.json"], "can't be read .* expected JSON"),
        ([], "no configs"),
    ):
        with pytest.raises(InputError, match=message):
            named_configs(wrong)
