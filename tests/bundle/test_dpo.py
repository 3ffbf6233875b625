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

"""The real configuration of preference optimization at a small size, as a user starts it, on the shipped model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_u2.data import load_records, write_records
from tests.python_process import bundle_command, printed_by

SMALL = {
    "phantom#num_train": 4,
    "phantom#num_validation": 2,
    "phantom#questions_per_case": 20,
    "batch_size": 2,
    "warmup_steps": 1,
    "max_epochs": 1,
    "validate#inferer#max_new_tokens": 8,
    "precision": "float32",
}


def run(bundle: Path, pairs: Path, output: Path, *more: str, run_id: str = "training") -> str:
    values = {**SMALL, "dataset_dir": pairs.parent / "phantom", "ckpt_dir": output, "output_dir": output}
    command = bundle_command(run_id, "configs/dpo.json", {**values, "pairs": pairs}, *more)
    return printed_by(command, bundle)


def test_properties_are_all_there(bundle: Path, pairs: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "dpo.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        dataset_dir=str(pairs.parent / "phantom"),
        output_dir=str(tmp_path),
        pairs=str(pairs),
        **{key: value for key, value in SMALL.items() if key.startswith("phantom") or key == "batch_size"},
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def epoch_metric(log: str, name: str) -> list[float]:
    lines = [line for line in log.splitlines() if "Epoch[" in line and f" {name}: " in line]
    return [float(line.split(f" {name}: ")[1].split()[0]) for line in lines]


def test_chosen_reports_become_likelier(bundle: Path, pairs: Path, tmp_path: Path) -> None:
    options = ("--max_epochs", "6", "--val_interval", "6", "--learning_rate", "0.003")
    log = run(bundle, pairs, tmp_path, *options)
    margins, accuracy = epoch_metric(log, "reward_margin"), epoch_metric(log, "reward_accuracy")
    assert len(margins) == 6 and margins[-1] > margins[0] + 0.05 and accuracy[-1] == 1.0
    tuned = torch.load(tmp_path / "model.pt", weights_only=True)
    shipped = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert tuned.keys() == shipped.keys()  # inference loads it as any other
    changed = {name for name, value in tuned.items() if not torch.equal(value, shipped[name])}
    assert changed and all("language_model.layers" in name for name in changed)
    assert (tmp_path / "validation.json").is_file()


def test_first_loss_is_the_logarithm_of_two(bundle: Path, pairs: Path, tmp_path: Path) -> None:
    """With a learning rate of nothing every step is the first."""
    log = run(bundle, pairs, tmp_path, "--learning_rate", "1e-12", "--sft_weight", "0")
    (loss,) = epoch_metric(log, "preference_loss")
    assert loss == pytest.approx(0.6931, abs=1e-4) and epoch_metric(log, "kl") == [pytest.approx(0.0, abs=1e-4)]


def test_all_references_give_the_same_margins(bundle: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"pairs.reference.jsonl: does not exist; make it with"):
        run(bundle, pairs, tmp_path, "--reference", "precomputed")
    run(bundle, pairs, tmp_path, run_id="precompute_reference")
    options = ("--max_epochs", "2", "--val_interval", "5", "--learning_rate", "0.003")
    found = [
        epoch_metric(run(bundle, pairs, tmp_path / name, "--reference", name, *options), "reward_margin")
        for name in ("adapter", "precomputed", "model")
    ]
    assert len(found[0]) == 2
    assert found[1] == pytest.approx(found[0], abs=2e-3) and found[2] == pytest.approx(found[0], abs=2e-3)


def test_resumes_to_the_last_bit(bundle: Path, pairs: Path, tmp_path: Path) -> None:
    options = ("--max_epochs", "2", "--val_interval", "5", "--learning_rate", "0.003", "--max_fall", "5")
    run(bundle, pairs, tmp_path / "whole", *options)
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "whole" / "checkpoint_step=2.pt", tmp_path / "resumed")
    log = run(bundle, pairs, tmp_path / "resumed", *options, "--resume", "True")
    assert "resumed from" in log
    states = [
        torch.load(tmp_path / name / "checkpoint_step=4.pt", weights_only=True)["network"]
        for name in ("whole", "resumed")
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    begin = torch.load(tmp_path / "whole" / "checkpoint_step=2.pt", weights_only=True)
    assert any(not torch.equal(value, states[0][name]) for name, value in begin["network"].items())
    assert len(begin["collapse_stop"]["falls"]) == 2


def test_pairs_of_another_model_are_refused(bundle: Path, pairs: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_records(path, [{**pair, "model_sha256": "0" * 64} for pair in load_records(pairs)])
    with pytest.raises(AssertionError, match="was made by the model 000000000000"):
        run(bundle, path, tmp_path)
