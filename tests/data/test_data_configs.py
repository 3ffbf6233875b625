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

"""Each data set from the folder as downloaded to a training and an evaluation, by the commands of docs/datasets.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from monai_u2.data import CT_RATE_LABELS, DATASETS, load_records, prepare_dataset
from monai_u2.networks import prepare_finetuning
from tests.python_process import bundle_command, printed_by

Replica = Callable[..., Path]
SHARED = ("validation_postprocessing", "validation_metric", "validation_labels", "question_weights")
SHARED += ("records", "report_parser")


def test_data_configs_share_their_blocks(bundle: Path) -> None:
    configs = {name: json.loads((bundle / "configs" / "data" / f"{name}.json").read_text()) for name in DATASETS}
    for name, config in configs.items():
        assert {key: config[key] for key in SHARED} == {key: configs["ct_rate"][key] for key in SHARED}, name
        assert config["dataset_dir"] == f"$@bundle_root + '/data/{name}'"
        text = (bundle / "configs" / "data" / f"{name}.json").read_text()
        assert text == json.dumps(config, indent=4) + "\n"
    assert sorted(path.stem for path in (bundle / "configs" / "data").iterdir()) == sorted(DATASETS)


@pytest.mark.parametrize("base", ["pretrain", "sft", "preferences", "dpo", "evaluate", "inference"])
@pytest.mark.parametrize(("name", "findings"), [("ct_rate", 2 * len(CT_RATE_LABELS)), ("amos_mm", 0)])
def test_the_same_model_in_every_stage(bundle: Path, base: str, name: str, findings: int) -> None:
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / f"{base}.json", bundle / "configs" / "data" / f"{name}.json"])
    parser.update({"bundle_root": str(bundle)})
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    head = network.finding_head if base == "pretrain" else network.model.finding_head
    assert (0 if head is None else head.classifier.out_features) == findings
    assert parser["max_length"] == 1024


@pytest.mark.parametrize("name", DATASETS)
def test_preferences_train_the_language_model_alone(bundle: Path, name: str) -> None:
    """Also of a model without finding heads, as records without findings make it."""
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / "dpo.json", bundle / "configs" / "data" / f"{name}.json"])
    parser.update({"bundle_root": str(bundle)})
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    prepare_finetuning(network, *[parser.get_parsed_content(key) for key in ("lora", "frozen")])
    trained = [key for key, value in network.named_parameters() if value.requires_grad]
    assert trained and all(".lora_" in key for key in trained)


def test_pretraining_asks_ct_rate_for_no_mask(bundle: Path) -> None:
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / "pretrain.json", bundle / "configs" / "data" / "ct_rate.json"])
    loss = parser.get_parsed_content("train#loss").findings
    assert (loss.patch_weight, loss.slab_weight, loss.volume_weight) == (0.0, 0.0, 1.0)


def run_bundle(bundle: Path, run_id: str, config: str, name: str, overrides: dict[str, Any]) -> str:
    """Run a config behind which that of a data set stands, and return what it prints."""
    configs = f"['configs/{config}','configs/data/{name}.json']"
    return printed_by(bundle_command(run_id, configs, overrides), bundle)


def trained(bundle: Path, data: Path, output: Path, name: str) -> str:
    """Train ten steps of two cases each, and validate at the end."""
    cases = len({record["image"] for record in load_records(data / "train.jsonl")})
    overrides: dict[str, Any] = {"dataset_dir": data, "ckpt_dir": output, "output_dir": output, "batch_size": 2}
    overrides |= {"max_epochs": 10 // (cases // 2), "val_interval": 10 // (cases // 2), "warmup_steps": 1}
    return run_bundle(bundle, "training", "sft.json", name, overrides | {"validate#inferer#max_new_tokens": 8})


def evaluated(bundle: Path, data: Path, model: Path, output: Path, name: str) -> dict[str, Any]:
    """Evaluate the model beside its controls."""
    overrides: dict[str, Any] = {"dataset_dir": data, "checkpoint": model, "output_dir": output, "num_samples": 100}
    run_bundle(bundle, "evaluating", "evaluate.json", name, overrides | {"max_new_tokens": 8})
    return json.loads((output / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("ct_rate", {"version": "v1"}, {}),
        ("amos_mm", {}, {"by_region": True}),
        ("abdomen_atlas", {}, {"validation_share": 0.4}),
        ("m3d_cap", {}, {}),
    ],
)
def test_from_the_download_to_an_evaluation(
    request: pytest.FixtureRequest,
    bundle: Path,
    tmp_path: Path,
    name: str,
    arguments: dict[str, Any],
    options: dict[str, Any],
) -> None:
    source = request.getfixturevalue(name)(**arguments)
    prepare_dataset(name, source, tmp_path / "records", **options)
    log = trained(bundle, tmp_path / "records", tmp_path / "run", name)
    assert (tmp_path / "run" / "checkpoint_step=10.pt").is_file() and "word_f1" in log
    validation = json.loads((tmp_path / "run" / "validation.json").read_text())
    assert validation["cases"] >= 1 and "findings" not in validation and validation["examples"][0]["reference"]
    state = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    heads = [key for key in state if "finding_head.classifier.weight" in key]
    assert [len(state[key]) for key in heads] == ([2 * len(CT_RATE_LABELS)] * 2 if name == "ct_rate" else [])
    model = tmp_path / "run" / "model.pt"
    metrics = evaluated(bundle, tmp_path / "records", model, tmp_path / "evaluation", name)
    held_out = {record["image"] for record in load_records(tmp_path / "records" / "validation.jsonl")}
    assert metrics["cases"]["scored"] >= len(held_out) >= 1
    assert "model" in [run["name"] for run in metrics["runs"]] and "rouge1" in metrics["runs"][0]["metrics"]
    assert {"micro_f1", "green"} <= metrics["cases"]["left_out_metrics"].keys()


def test_kinds_of_questions_are_drawn_where_they_have_a_weight(amos_mm: Replica, bundle: Path, tmp_path: Path) -> None:
    prepare_dataset("amos_mm", amos_mm(), tmp_path / "records", task="both", by_region=True)
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / "sft.json", bundle / "configs" / "data" / "amos_mm.json"])
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(tmp_path / "records"), "batch_size": 1})
    parser.update({"question_weights": {"report": 1, "region": 1, "multiple_choice": 1}, "questions_per_image": 3})
    case = parser.get_parsed_content("train#dataset")[0]
    assert len(case["input_ids"]) == 3 and not {"findings", "patch_findings"} & case.keys()
