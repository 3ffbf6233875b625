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

"""The real training configuration at a small size, as a user starts it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import pytest
import torch
from mlflow import MlflowClient

from monai_u2.data.phantom import draw_case, render_case, write_report
from tests.python_process import bundle_command, printed_by

SMALL = {
    "phantom#num_train": 4,
    "phantom#num_validation": 2,
    "phantom#questions_per_case": 20,
    "batch_size": 2,
    "warmup_steps": 1,
    "val_interval": 2,
    "max_new_tokens": 200,
    "validate#inferer#max_new_tokens": 8,
}


def run(
    folder: Path,
    bundle: Path,
    output: Path,
    data: Path,
    *more: str,
    run_id: str = "training",
    config: str = "sft.json",
    own: bool = False,
) -> str:
    small = {key: value for key, value in SMALL.items() if "sft.json" in config or "new_tokens" not in key}
    values = {**small, "dataset_dir": data, "ckpt_dir": output, "output_dir": output}
    config = config if config.startswith("[") else f"configs/{config}"
    return printed_by(bundle_command(run_id, config, values, *more), folder, own=own)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("phantom")


@pytest.fixture(scope="module")
def uninterrupted(bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    log = run(bundle.parents[1], bundle, output, data, "--max_epochs", "2", "--tracking", "mlflow")
    assert "finding_f1" in log and "validation of 2 cases at epoch 2" in log
    return output


def test_training_writes_model_checkpoint_table_and_tracking(uninterrupted: Path, bundle: Path) -> None:
    state = torch.load(uninterrupted / "model.pt", weights_only=True)
    assert any(key.startswith("model.vision_tower.") for key in state)
    assert sorted(path.name for path in uninterrupted.glob("checkpoint_*.pt")) == [
        "checkpoint_step=2.pt",
        "checkpoint_step=4.pt",
    ]
    validation = json.loads((uninterrupted / "validation.json").read_text())
    assert validation["cases"] == 2 and len(validation["examples"]) == 2
    assert (uninterrupted / "mlruns.db").is_file()
    client = MlflowClient(tracking_uri=f"sqlite:///{uninterrupted}/mlruns.db")
    (run,) = client.search_runs([client.get_experiment_by_name("monai_experiment").experiment_id])
    record = json.loads((uninterrupted / "run.json").read_text())
    assert run.data.tags["sha256.train_records"] == record["sha256"]["train_records"]
    assert run.data.metrics["train_loss"] > 0 and run.data.metrics["tokens_per_second"] > 0
    (config,) = uninterrupted.glob("config_*.json")
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == [config.name]


def test_resume_from_the_last_checkpoint(uninterrupted: Path, bundle: Path, data: Path, tmp_path: Path) -> None:
    """From the bundle's folder and with the plain run id, too."""
    (tmp_path / "checkpoint_step=4.pt").write_bytes((uninterrupted / "checkpoint_step=4.pt").read_bytes())
    log = run(bundle, bundle, tmp_path, data, "--max_epochs", "3", "--resume", "True", run_id="run")
    assert f"resumed from {tmp_path / 'checkpoint_step=4.pt'}" in log
    names = sorted(path.name for path in tmp_path.glob("checkpoint_*.pt"))
    assert names == ["checkpoint_step=4.pt", "checkpoint_step=6.pt"]
    states = [
        torch.load(folder / name, weights_only=True)
        for folder, name in ((uninterrupted, "checkpoint_step=4.pt"), (tmp_path, "checkpoint_step=6.pt"))
    ]
    steps = [int(state["optimizer"]["state"][0]["step"]) for state in states]
    assert steps == [4, 6]
    # the schedule ends with the longer run; its cosine would climb again beyond the end of the first
    assert states[1]["lr_scheduler"]["t_total"] == 6
    assert states[1]["lr_scheduler"]["_last_lr"][0] < 1e-4
    # three epochs aren't a multiple of val_interval: validated all the same
    assert json.loads((tmp_path / "validation.json").read_text())["epoch"] == 3
    assert (tmp_path / "model.pt").is_file()


def recorded(path: Path, losses: Path, kill_at: int) -> str:
    """sft.json with a record of each step's loss, and a kill -9 after one of them."""
    record = f"$lambda engine: open({str(losses)!r}, 'a').write(float(engine.state.output[0]['loss']).hex() + '\\n')"
    kill = f"$lambda engine: os.kill(os.getpid(), 9) if engine.state.iteration == {kill_at} else None"
    handlers = [{"_target_": "StatsHandler", "iteration_print_logger": logger} for logger in (record, kill)]
    path.write_text(json.dumps({"+train#handlers": handlers}))
    return f"['configs/sft.json','{path}']"


def test_a_killed_training_goes_on_bit_for_bit(bundle: Path, data: Path, tmp_path: Path) -> None:
    """Killed after the third of the second epoch's four steps, a checkpoint at each step."""
    options = ("--max_epochs", "2", "--batch_size", "1", "--checkpoint_interval", "1")
    expected, losses = tmp_path / "expected.txt", tmp_path / "losses.txt"
    config = recorded(tmp_path / "whole.json", expected, kill_at=-1)
    run(bundle.parents[1], bundle, tmp_path / "whole", data, *options, config=config)
    config = recorded(tmp_path / "broken.json", losses, kill_at=7)
    with pytest.raises(AssertionError):
        run(bundle.parents[1], bundle, tmp_path / "broken", data, *options, config=config, own=True)
    assert losses.read_text() == "".join(expected.read_text().splitlines(keepends=True)[:7])
    config = recorded(tmp_path / "rest.json", losses, kill_at=-1)
    run(bundle.parents[1], bundle, tmp_path / "broken", data, *options, "--resume", "True", config=config, own=True)
    lines = expected.read_text().splitlines()
    assert losses.read_text().splitlines() == [*lines[:7], *lines[6:]] and len(set(lines)) == 8
    models = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "broken")]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_options_are_taken_up_and_resumed(bundle: Path, data: Path, tmp_path: Path) -> None:
    """The average of the weights is validated and saved; F1 stays 0, so that the second validation is the last one."""
    options = ["--ema_decay", "0.5", "--early_stopping_patience", "1", "--tensorboard", "True", "--val_interval", "1"]
    options += ["--group_by_length", "True", "--micro_batch_size", "1", "--frozen", "['model.vision_tower.*']"]
    options += ["--tokenizer_learning_rate", "0.0", "--checkpoint_interval", "1"]
    log = run(bundle.parents[1], bundle, tmp_path, data, *options, "--max_epochs", "4")
    assert "tokens_per_second" in log and list((tmp_path / "tensorboard").glob("events.*"))
    first, last = (torch.load(tmp_path / f"checkpoint_step={step}.pt", weights_only=True) for step in (3, 4))
    assert not (tmp_path / "checkpoint_step=5.pt").exists()
    model = torch.load(tmp_path / "model.pt", weights_only=True)  # of the first epoch's validation
    for name, average in first["ema"].items():
        # half of the average of the step before, which was saved, and half of the third step's weights
        expected = (model[name].double() + first["network"][name].double()) / 2
        torch.testing.assert_close(average.double(), expected, rtol=1e-4, atol=1e-6, msg=name)
    moved = [name for name, value in last["network"].items() if not torch.equal(value, first["network"][name])]
    assert {".".join(name.split(".")[:2]) for name in moved} == {
        "model.image_token_finding_head",
        "model.language_model",
        "lm_head.weight",
        "model.finding_head",
    }
    assert last["early_stopping"]["counter"] == 1
    (tmp_path / "checkpoint_step=4.pt").unlink()
    log = run(bundle.parents[1], bundle, tmp_path, data, *options, "--max_epochs", "4", "--resume", "True")
    again = torch.load(tmp_path / "checkpoint_step=4.pt", weights_only=True)
    assert all(torch.equal(value, again["ema"][name]) for name, value in last["ema"].items())
    assert not (tmp_path / "checkpoint_step=5.pt").exists()


def test_fewer_cases_than_a_batch_are_an_error(bundle: Path, data: Path, tmp_path: Path) -> None:
    """They would all be dropped as an incomplete batch."""
    with pytest.raises(AssertionError, match="batch_size"):
        run(bundle, bundle, tmp_path, data, "--max_epochs", "1", "--batch_size", "8")


def test_a_mixture_of_kinds_that_the_data_lack_is_an_error(bundle: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="differential"):
        run(bundle, bundle, tmp_path, data, "--question_weights", "{'report': 1, 'differential': 1}")


@pytest.mark.parametrize(("setting", "config"), [("image_blind", "sft.json"), ("resume", "pretrain.json")])
def test_a_lower_case_false_is_an_error(bundle: Path, data: Path, tmp_path: Path, setting: str, config: str) -> None:
    """The command line hands it over as a text, which Python takes for true."""
    with pytest.raises(AssertionError, match=f"{setting} is 'false'; expected True or False"):
        run(bundle, bundle, tmp_path, data, f"--{setting}", "false", config=config)


@pytest.fixture(scope="module")
def vision(bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("vision")
    log = run(bundle.parents[1], bundle, output, data, "--max_epochs", "2", config="pretrain.json")
    assert "finding_f1" in log and "validation of 2 cases at epoch 2" in log
    return output


def test_pretraining_writes_a_vision_checkpoint(vision: Path) -> None:
    assert set(torch.load(vision / "vision.pt", weights_only=True)) == {"vision_tower", "finding_head"}
    assert json.loads((vision / "validation.json").read_text())["cases"] == 2


def test_fine_tuning_starts_from_the_vision_checkpoint(vision: Path, bundle: Path, data: Path, tmp_path: Path) -> None:
    """With a learning rate of 0 for it, the vision tower stays what it was."""
    checkpoint = str(vision / "vision.pt")
    more = ("--vision_checkpoint", checkpoint, "--vision_learning_rate", "0", "--max_epochs", "2")
    run(bundle.parents[1], bundle, tmp_path, data, *more)
    tuned = torch.load(tmp_path / "model.pt", weights_only=True)
    tower = torch.load(checkpoint, weights_only=True)["vision_tower"]
    parameters = [key for key in tower if "running" not in key and "batches" not in key]
    assert parameters
    for key in parameters:
        assert torch.equal(tuned[f"model.vision_tower.{key}"], tower[key]), key


def test_resume_without_checkpoint_says_so(bundle: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nothing to resume from"):
        run(bundle, bundle, tmp_path, data, "--resume", "True")


def test_adapters_are_trained_beside_a_frozen_tower_and_merged(
    bundle: Path, data: Path, vision: Path, tmp_path: Path
) -> None:
    checkpoint = vision / "vision.pt"
    options = ["--lora", "{'r': 4, 'target_modules': ['q_proj', 'v_proj']}", "--frozen", "['model.vision_tower']"]
    options += ["--activation_checkpointing", "True", "--max_epochs", "1", "--vision_checkpoint", str(checkpoint)]
    run(bundle, bundle, tmp_path, data, *options)
    tuned = torch.load(tmp_path / "model.pt", weights_only=True)
    shipped = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert tuned.keys() == shipped.keys()  # inference loads it as any other
    tower = torch.load(checkpoint, weights_only=True)["vision_tower"]
    assert all(torch.equal(tuned[f"model.vision_tower.{name}"], value) for name, value in tower.items())
    resumed = run(bundle, bundle, tmp_path, data, *options, "--max_epochs", "2", "--resume", "True")
    assert "Epoch[2] Complete" in resumed
    with pytest.raises(AssertionError, match="no layer of the language model is called qkv"):
        run(bundle, bundle, tmp_path, data, "--lora", "{'target_modules': ['qkv']}")


def test_reports_in_text_files_take_the_place_of_records(bundle: Path, tmp_path: Path) -> None:
    """As MONAI Label gives them; a second training follows the first, and no phantom is made for either."""
    hu, _, affine = render_case(draw_case(7))
    nib.save(nib.Nifti1Image(hu, affine), tmp_path / "ct.nii.gz")
    (tmp_path / "ct.txt").write_text(write_report(draw_case(7)).text, encoding="utf-8")
    cases = [{"image": str(tmp_path / "ct.nii.gz"), "label": str(tmp_path / "ct.txt")}]
    overrides = {"train#dataset#data": cases, "validate#dataset#data": [], "train#trainer#max_epochs": 1}
    (tmp_path / "label.json").write_text(json.dumps(overrides))
    given = {"dataset_dir": tmp_path / "data", "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "out"}
    given |= {"validate#inferer#max_new_tokens": 8}
    for _ in range(2):
        log = printed_by(bundle_command("run", f"['configs/train.json','{tmp_path}/label.json']", given), bundle)
        assert "the 1 training cases take their place" in log
    assert (tmp_path / "models" / "model.pt").is_file()
    assert [path.name for path in (tmp_path / "out" / "label_training").iterdir()] == ["checkpoint_step=1.pt"]
    assert not (tmp_path / "data" / "images").exists()
