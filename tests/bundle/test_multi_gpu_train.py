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

"""The real training configuration by several processes on CPUs, as torchrun starts them.

In float32 and with patches embedded linearly: the convolutional stem's batch normalization takes the statistics of each
process's own cases on CPUs.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

STEPS = 6  # two epochs of 18 cases, 6 a step
SETTINGS = {
    "phantom": {"num_train": 18, "num_validation": 5, "num_test": 0, "num_workers": 0, "questions_per_case": 20},
    "precision": "float32",
    "vision_checkpoint": None,
    "vision#stem_channels": None,
    "vision#stem_windows": None,
    "batch_size": 6,
    "micro_batch_size": 2,
    "warmup_steps": 2,
    "max_epochs": 2,
    "val_interval": 2,
    "checkpoint_interval": 1,
    "validate#inferer#max_new_tokens": 8,
}


PREFERENCE_SETTINGS = {
    "phantom": {"num_train": 4, "num_validation": 2, "num_test": 0, "num_workers": 0, "questions_per_case": 20},
    "precision": "float32",
    "batch_size": 4,
    "micro_batch_size": 1,
    "warmup_steps": 1,
    "learning_rate": 0.003,
    "sft_weight": 0.0,
    "max_epochs": 4,
    "val_interval": 4,
    "validate#inferer#max_new_tokens": 8,
}


def settings(folder: Path, values: dict[str, Any], kill_at: int = -1) -> Path:
    """Small settings, a record of each step's loss, and a kill -9 of the second process after a step."""
    losses = str(folder / "losses.txt")
    record = f"$lambda engine: open({losses!r}, 'a').write(float(engine.state.output[0]['loss']).hex() + '\\n')"
    kill = f"$lambda engine: os.kill(os.getpid(), 9) if engine.state.iteration == {kill_at} and @is_not_rank0 else None"
    handlers = [
        {"_target_": "StatsHandler", "_disabled_": "@is_not_rank0", "iteration_print_logger": record},
        {"_target_": "StatsHandler", "iteration_print_logger": kill},
    ]
    folder.mkdir(exist_ok=True)
    path = folder / "settings.json"
    paths = {"dataset_dir": str(folder.parent / "phantom"), "ckpt_dir": str(folder), "output_dir": str(folder)}
    path.write_text(json.dumps({**paths, **values, "+train#handlers": handlers}))
    return path


def train(
    bundle: Path,
    folder: Path,
    processes: int,
    *more: str,
    kill_at: int = -1,
    config: str = "configs/sft.json",
    values: dict[str, Any] = SETTINGS,
) -> subprocess.CompletedProcess:
    files = [config] + ["configs/multi_gpu_train.json"] * (processes > 1)
    files.append(str(settings(folder, values, kill_at)))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "monai.bundle", "run", "training"]
    return subprocess.run(
        [*command, "--config_file", str(files), *more],
        cwd=bundle.parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def finished(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def losses(folder: Path) -> list[float]:
    return [float.fromhex(line) for line in (folder / "losses.txt").read_text().splitlines()]


def properties(bundle: Path, folder: Path) -> list[str] | None:
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / name) for name in ("sft.json", "multi_gpu_train.json")],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        dataset_dir=str(folder),
        **{f"phantom#{key}": value for key, value in SETTINGS["phantom"].items()},
    )
    workflow.initialize()
    return workflow.check_properties()


def test_properties_are_all_there(in_processes: Callable[..., list[Any]], bundle: Path, tmp_path: Path) -> None:
    assert in_processes(1, properties, bundle, tmp_path) == [[]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def one(bundle: Path, root: Path) -> Path:
    finished(train(bundle, root / "one", 1, "--micro_batch_size", "$None"))
    return root / "one"


@pytest.fixture(scope="module")
def two(bundle: Path, root: Path) -> Path:
    finished(train(bundle, root / "two", 2))
    return root / "two"


@pytest.fixture(scope="module")
def killed(bundle: Path, root: Path) -> Path:
    """The second process is killed after the second of the second epoch's three steps."""
    done = train(bundle, root / "killed", 2, kill_at=5)
    assert done.returncode != 0 and "SIGKILL" in done.stderr
    assert (root / "killed" / "checkpoint_step=4.pt").is_file()
    return root / "killed"


def test_two_processes_train_as_one_does(one: Path, two: Path) -> None:
    assert len(losses(one)) == STEPS
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    validations = [json.loads((folder / "validation.json").read_text()) for folder in (one, two)]
    assert validations[0]["cases"] == validations[1]["cases"] == 5
    present = [[row["present"] for row in validation["findings"]] for validation in validations]
    assert present[0] == present[1]
    assert sorted(path.name for path in two.glob("*.pt")) == sorted(path.name for path in one.glob("*.pt"))
    weights = [torch.load(folder / "checkpoint_step=6.pt", weights_only=True)["network"] for folder in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_two_processes_go_on_bit_for_bit(bundle: Path, two: Path, killed: Path, root: Path) -> None:
    folder = root / "resumed"
    shutil.copytree(killed, folder)
    log = finished(train(bundle, folder, 2, "--resume", "True"))
    assert "checkpoint_step=4.pt" in log
    recorded = [*losses(killed)[:4], *losses(folder)[len(losses(killed)) :]]
    assert recorded == losses(two)


def test_three_processes_share_the_weights_and_one_goes_on(bundle: Path, one: Path, killed: Path, root: Path) -> None:
    """The checkpoint of two replicas is resumed by three shards, and theirs by one process."""
    folder = root / "shards"
    shutil.copytree(killed, folder)
    (folder / "losses.txt").unlink()
    log = finished(train(bundle, folder, 3, "--resume", "True", "--distribution", "full_shard"))
    assert "resumed by 3 processes in place of 2" in log
    assert losses(folder) == pytest.approx(losses(one)[4:], rel=1e-5)
    assert json.loads((folder / "validation.json").read_text())["cases"] == 5
    logits = [answer_logits(bundle, path) for path in (folder, one)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    finished(train(bundle, folder, 1, "--resume", "True", "--max_epochs", "3"))
    assert len(losses(folder)) == 2 + 3


def test_preferences_by_several_processes(bundle: Path, pairs: Path, tmp_path: Path) -> None:
    """Adapters, whose model without them is the reference, as replicas and in shards."""
    values = {**PREFERENCE_SETTINGS, "pairs": str(pairs), "dataset_dir": str(pairs.parent / "phantom")}
    runs = {"one": (1, "--micro_batch_size", "$None"), "replicas": (2,), "shards": (2, "--distribution", "full_shard")}
    logs = {
        name: finished(train(bundle, tmp_path / name, *options, config="configs/dpo.json", values=values))
        for name, options in runs.items()
    }
    one = losses(tmp_path / "one")
    assert len(one) == 4 and one[0] == pytest.approx(math.log(2), abs=1e-4) and one[-1] < 0.65
    for name in ("replicas", "shards"):
        assert losses(tmp_path / name) == pytest.approx(one, rel=1e-5), name
        margins = [
            dict(re.findall(r"Epoch\[(\d)\] Metrics .*reward_margin: (\S+)", logs[run])) for run in ("one", name)
        ]
        assert [*margins[0]] == [*margins[1]] == ["1", "2", "3", "4"]
        assert [float(margins[1][i]) for i in margins[0]] == pytest.approx([*map(float, margins[0].values())], abs=2e-4)
        weights = [torch.load(tmp_path / run / "model.pt", weights_only=True) for run in ("one", name)]
        assert weights[0].keys() == weights[1].keys()
        for key, value in weights[0].items():
            torch.testing.assert_close(weights[1][key], value, rtol=1e-4, atol=1e-4, msg=key)


def answer_logits(bundle: Path, folder: Path) -> torch.Tensor:
    """Logits of the saved model, loaded into one process as inference does."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.update({"bundle_root": str(bundle), "vision#stem_channels": None, "vision#stem_windows": None})
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    generator = torch.Generator().manual_seed(0)
    return network(torch.rand(1, 1, *network.model.vision_tower.image_size, generator=generator)).detach()
