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
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out

from monai_u2.transforms import CheckScoped

SHARED = (
    "spacing",
    "hu_window",
    "viewing_windows",
    "foreground_hu",
    "slab_size",
    "max_slabs",
    "patch_size",
    "num_queries",
    "num_finding_tokens",
    "max_length",
    "max_new_tokens",
    "finding_labels",
    "text_tokenizer",
    "vision",
    "network_def",
    "load_transforms",
    "image_transforms",
)

# what the vision tower sees in pre-training is what it sees later
SHARED_WITH_PRETRAINING = (
    "spacing",
    "hu_window",
    "viewing_windows",
    "foreground_hu",
    "slab_size",
    "max_slabs",
    "patch_size",
    "max_length",
    "finding_labels",
    "phantoms",
    "train_records",
    "validation_records",
    "text_tokenizer",
    "vision",
    "load_transforms",
    "image_transforms",
    "target_transforms",
    "finding_transforms",
    "cache_dir",
    "cache_dtype",
    "lr_scheduler",
    "random_state",
    "run_record",
    "run",
)


def config(bundle: Path, name: str) -> dict[str, Any]:
    return json.loads((bundle / "configs" / name).read_text())


def test_training_and_inference_share_their_blocks(bundle: Path) -> None:
    training, inference = config(bundle, "sft.json"), config(bundle, "inference.json")
    assert {key: training[key] for key in SHARED} == {key: inference[key] for key in SHARED}
    assert training["validate"]["inferer"] == inference["inferer"]


def test_pretraining_shares_its_blocks(bundle: Path) -> None:
    pretraining, tuning = config(bundle, "pretrain.json"), config(bundle, "sft.json")
    assert {key: pretraining[key] for key in SHARED_WITH_PRETRAINING} == {
        key: tuning[key] for key in SHARED_WITH_PRETRAINING
    }
    assert pretraining["initialize"][-1] == tuning["initialize"][-1]
    assert pretraining["training"][-3:] == tuning["training"][-3:]
    for key in ("dataset", "sampler", "dataloader", "inferer", "trainer"):
        mine, theirs = pretraining["train"][key], tuning["train"][key]
        # the contrast is between all cases of a batch, which can't be cut up
        own = ("prepare_batch", "iteration_update", "decollate", "collate_fn", "lengths")
        if key != "inferer":
            mine, theirs = ({k: v for k, v in block.items() if k not in own} for block in (mine, theirs))
        assert mine == theirs, key


def test_preference_optimization_shares_its_blocks(bundle: Path) -> None:
    preferences, tuning = config(bundle, "dpo.json"), config(bundle, "sft.json")
    shared = (*SHARED, "phantom", "phantoms", "validation_records", "steps_per_epoch", "lr_scheduler", "validate")
    shared += ("validation_postprocessing", "validation_metric", "validation_labels")
    shared += ("random_state", "network", "ema", "evaluated_network", "early_stopping", "run")
    assert {key: preferences[key] for key in shared} == {key: tuning[key] for key in shared}
    assert preferences["initialize"][-1] == tuning["initialize"][-1]
    assert preferences["training"][1:] == tuning["training"][1:]
    assert preferences["train"]["dataloader"] == tuning["train"]["dataloader"]
    cache = {key: value for key, value in tuning["validate"]["dataset"].items() if key not in ("data", "transform")}
    for block in ("train", "reference_pass"):
        mine = {key: preferences[block]["dataset"][key] for key in cache}
        assert mine == {**cache, "dtype": "@cache_dtype"} and preferences["cache_dtype"] == cache["dtype"], block
    state = preferences["checkpoints"]["state"]
    assert state == {**tuning["checkpoints"]["state"], "collapse_stop": "@collapse_stop"}
    assert [*state][-1] == "best_model"


def test_the_stages_share_the_cache(bundle: Path, tmp_path: Path) -> None:
    """What is preprocessed for one stage, and stands before its questions and draws, serves the next."""
    folders = {}
    for name, changes in (
        ("pretrain.json", {"batch_size": 1}),
        ("sft.json", {"batch_size": 2, "questions_per_image": 1, "max_length": 300}),
    ):
        parser = ConfigParser()
        parser.read_config(bundle / "configs" / name)
        small = {"num_train": 2, "num_validation": 1, "questions_per_case": 20, "num_workers": 0}
        parser.update({"bundle_root": str(bundle), "dataset_dir": str(tmp_path), **changes})
        parser.update({f"phantom#{key}": value for key, value in small.items()})
        for split in ("train", "validate"):
            folders[name, split] = parser.get_parsed_content(f"{split}#dataset").folder.path
    assert folders["pretrain.json", "train"] == folders["sft.json", "train"]
    assert folders["pretrain.json", "validate"] == folders["sft.json", "validate"]
    assert len(set(folders.values())) == 2


SHARED_WITH_PREFERENCES = (*SHARED, "dataset_dir", "checkpoint", "text_tokenizer_dir", "prompt_transforms")


def test_preferences_share_their_blocks(bundle: Path) -> None:
    """The samples come from the images and prompts that the model was trained on and is asked with."""
    preferences, inference = config(bundle, "preferences.json"), config(bundle, "inference.json")
    assert {key: preferences[key] for key in SHARED_WITH_PREFERENCES} == {
        key: inference[key] for key in SHARED_WITH_PREFERENCES
    }
    training = config(bundle, "sft.json")
    for key in ("imports", "seed", "phantom", "phantoms", "train_records"):
        assert preferences[key] == training[key], key
    steps = training["validate"]["preprocessing_transforms"]
    assert preferences["tensor_transforms"][1] in steps and preferences["prompt_transforms"][0] in steps


SHARED_WITH_EVALUATION = (*SHARED_WITH_PREFERENCES, "imports", "bundle_root", "inferer")


def test_evaluation_shares_its_blocks(bundle: Path) -> None:
    """What is evaluated is what inference gives."""
    evaluation, inference = config(bundle, "evaluate.json"), config(bundle, "inference.json")
    assert {key: evaluation[key] for key in SHARED_WITH_EVALUATION} == {
        key: inference[key] for key in SHARED_WITH_EVALUATION
    }
    preferences = config(bundle, "preferences.json")
    for key in ("device", "phantoms", "network", "preprocessing_values"):
        assert evaluation[key] == preferences[key], key


def test_a_case_is_the_same_in_inference_and_preferences(bundle: Path, tmp_path: Path) -> None:
    from monai_u2.data.phantom import generate_phantoms

    generate_phantoms(tmp_path, 1, 0, 0, 0, num_workers=0, progress=False)
    small = {"bundle_root": str(bundle), "dataset_dir": str(tmp_path), "train_records": str(tmp_path / "train.jsonl")}
    parsers = {name: ConfigParser() for name in ("preferences.json", "inference.json")}
    for name, parser in parsers.items():
        parser.read_config(bundle / "configs" / name)
        parser.update(small)
    sampled = parsers["preferences.json"].get_parsed_content("dataset")[0]
    cases = parsers["preferences.json"].get_parsed_content("cases")
    request = {"image": cases[0]["image"], "question": cases[0]["question"]}
    asked = parsers["inference.json"].get_parsed_content("preprocessing")(request)
    assert torch.equal(sampled["image"], asked["image"].as_tensor())
    assert torch.equal(sampled["input_ids"][0], asked["input_ids"][0])
    assert torch.equal(sampled["question_ids"][0], asked["question_ids"][0])


@pytest.mark.parametrize("name", ["chat", "green"])
def test_judges_are_exchanged_by_a_small_config(bundle: Path, tmp_path: Path, name: str) -> None:
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / "preferences.json", bundle / "configs" / "judges" / f"{name}.json"])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "prompt.txt").write_text("{reference} {candidate}")
    given = {"judge_model": "a-model", "judge_api_key_variable": None, "green_dir": str(tmp_path)}
    parser.update({"bundle_root": str(bundle), "green_prompt_file": str(tmp_path / "prompt.txt"), **given})
    judge = parser.get_parsed_content("judge")
    assert judge.name == {"chat": "chat a-model", "green": f"GREEN {tmp_path.name}"}[name]
    assert judge.cache.folder == bundle / "eval" / "preferences" / "judge_cache"


@pytest.mark.parametrize(("name", "default"), [("pretrain.json", 0.25), ("sft.json", 0.5)])
def test_thick_slices_have_an_id(bundle: Path, name: str, default: float) -> None:
    for changes, expected in (({}, default), ({"thick_slices_prob": 0.0}, 0.0)):
        parser = ConfigParser()
        parser.read_config(bundle / "configs" / name)
        parser.update({"bundle_root": str(bundle), **changes})
        (index,) = (
            number
            for number, transform in enumerate(parser["train#preprocessing_transforms"])
            if transform["_target_"].endswith("RandSimulateThickSlicesd")
        )
        transform = parser.get_parsed_content(f"train#preprocessing_transforms#{index}")
        assert transform.prob == expected


def test_ablations_switch_what_their_names_say(bundle: Path) -> None:
    parts = {"rpe_dts_dmtp", "dts_dmtp", "rpe_dmtp", "rpe_dts", "rpe", "dts", "dmtp", "none"}
    files = {path.stem: path for path in (bundle / "configs" / "ablations").glob("*.json")}
    assert files.keys() == parts | {"linear_projector", "query_resampler"}
    for name, path in files.items():
        parser = ConfigParser()
        parser.read_config([str(bundle / "configs" / "sft.json"), str(path)])
        parser["bundle_root"] = str(bundle)
        assert parser.get_parsed_content("network_def").num_image_tokens == parser["num_queries"]
        if name in parts:
            options = parser["network_def#config#u2_tokenizer"]
            assert [options[key] for key in ("position", "selection", "pooling")] == [
                "relative_3d" if "rpe" in name else None,
                "soft" if "dts" in name else "topk",
                "dynamic" if "dmtp" in name else "multi",
            ]


@pytest.mark.parametrize("more", [[], ["configs/models/paper_preprocessing.json"]])
def test_a_ct_out_of_scope_can_be_refused(bundle: Path, more: list[str]) -> None:
    for changes, expected in (({}, "warn"), ({"on_out_of_scope": "refuse"}, "refuse")):
        parser = ConfigParser()
        parser.read_config([str(bundle / name) for name in ("configs/inference.json", *more)])
        parser.update({"bundle_root": str(bundle), **changes})
        checks = [step for step in parser.get_parsed_content("case_transforms") if isinstance(step, CheckScoped)]
        assert [step.check.on_out_of_scope for step in checks] == [expected]


def test_train_json_is_sft_json(bundle: Path) -> None:
    assert (bundle / "configs" / "train.json").resolve() == (bundle / "configs" / "sft.json").resolve()


def test_top_level_configs_are_the_bundles(bundle: Path) -> None:
    assert (bundle.parents[1] / "configs").resolve() == (bundle / "configs").resolve()


@pytest.mark.parametrize(
    "path",
    [
        "configs/dpo.json",
        "configs/pretrain.json",
        "configs/sft.json",
        "configs/preferences.json",
        "configs/evaluate.json",
        "configs/synthesis.json",
        "configs/judges/chat.json",
        "configs/judges/green.json",
        "configs/inference.json",
        "configs/multi_gpu_train.json",
        "configs/metadata.json",
    ],
)
def test_json_is_indented_by_four(bundle: Path, path: str) -> None:
    text = (bundle / path).read_text()
    assert text == json.dumps(json.loads(text), indent=4, ensure_ascii=path != "configs/metadata.json") + "\n"


@pytest.mark.parametrize(
    ("name", "workflow_type"),
    [("pretrain.json", "train"), ("sft.json", "train"), ("inference.json", "infer"), ("evaluate.json", "infer")],
)
def test_properties_are_all_there(bundle: Path, name: str, workflow_type: str, tmp_path: Path) -> None:
    small = (
        {"phantom#num_train": 2, "phantom#num_validation": 1, "phantom#questions_per_case": 20, "batch_size": 2}
        if workflow_type == "train"
        else {}
    )
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / name),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=workflow_type,
        bundle_root=str(bundle),
        dataset_dir=str(tmp_path),
        **small,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("blind", [True, False])
def test_image_blind_training_sees_zeros(bundle: Path, tmp_path: Path, blind: bool) -> None:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "sft.json")
    small = {"num_train": 2, "num_validation": 1, "questions_per_case": 20, "num_workers": 0}
    overrides = {"bundle_root": str(bundle), "dataset_dir": str(tmp_path), "batch_size": 2, "image_blind": blind}
    parser.update({**overrides, **{f"phantom#{key}": value for key, value in small.items()}})
    for split in ("train", "validate"):
        image = parser.get_parsed_content(f"{split}#dataset")[0]["image"]
        assert bool((image == 0).all()) is blind, split


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("sft.json", "train#preprocessing_transforms"),
        ("sft.json", "validate#preprocessing_transforms"),
        ("inference.json", "prompt_transforms"),
    ],
)
def test_finding_tokens_have_their_places_in_the_prompt(bundle: Path, name: str, steps: str) -> None:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / name)
    parser.update({"bundle_root": str(bundle), "num_finding_tokens": 4})
    assert parser.get_parsed_content("network_def#config").num_finding_tokens == 4
    prompts = [i for i, step in enumerate(parser[steps]) if step["_target_"].endswith("ReportPromptd")]
    prompt = parser.get_parsed_content(f"{steps}#{prompts[0]}")
    ids = prompt({"question": "Is there a renal cyst?", "answer": "No."})["input_ids"][0]
    placeholder = parser.get_parsed_content("text_tokenizer").convert_tokens_to_ids("<im_patch>")
    assert (ids == placeholder).sum() == parser["num_queries"] + 4


def test_network_takes_and_gives_what_the_metadata_say(bundle: Path) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        device="cpu",
        bundle_root=str(bundle),
    )


def test_metadata_agree_with_the_package_and_the_config(bundle: Path) -> None:
    from monai_u2.data import load_text_tokenizer

    metadata, training = config(bundle, "metadata.json"), config(bundle, "sft.json")
    assert metadata["version"] in metadata["changelog"]
    outputs = metadata["network_data_format"]["outputs"]["pred"]
    assert outputs["spatial_shape"] == [len(load_text_tokenizer(bundle / "models" / "text_tokenizer"))]
    image = metadata["network_data_format"]["inputs"]["image"]
    assert image["spatial_shape"] == training["slab_size"]
    assert len(image["channel_def"]) == image["num_channels"] <= training["max_slabs"]
    lines = (bundle.parents[1] / "constraints.txt").read_text().splitlines()
    newest = [line.split(";")[0] for line in lines if "==" in line and "python_version < " not in line]
    pinned = dict(line.split("==") for line in newest)
    assert metadata["monai_version"] == pinned["monai"] and metadata["pytorch_version"] == pinned["torch"]
    assert metadata["numpy_version"] == pinned["numpy"]
    for name, version in metadata["required_packages_version"].items():
        assert pinned[name] == version, name


def test_model_file_is_small(bundle: Path) -> None:
    assert (bundle / "models" / "model.pt").stat().st_size <= 12e6


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llama32_1b", 1.236), ("qwen3_1_7b", 1.721), ("qwen3_4b", 4.022), ("qwen3_8b", 8.191), ("phi3_mini", 3.821)],
)
def test_shapes_of_real_language_models(bundle: Path, name: str, billions: float) -> None:
    """The language model's parameters are as many as its model card says; the rest has the published sizes."""
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / "sft.json", bundle / "configs" / "models" / f"{name}.json"])
    parser.update({"bundle_root": str(bundle), "num_workers": 0})
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    count = sum(parameter.numel() for parameter in network.model.language_model.parameters())
    if not network.config.tie_word_embeddings:
        count += network.lm_head.weight.numel()
    assert count / 1e9 == pytest.approx(billions, rel=1e-3)
    assert network.num_image_tokens == 256
    assert network.model.vision_tower.grid == (8, 16, 16) and network.model.projector.grid == (4, 8, 8)


def test_a_pretrained_language_model_is_taken_over(bundle: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from monai_u2.data import load_text_tokenizer

    tokenizer = load_text_tokenizer(bundle / "models" / "text_tokenizer")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4}
    ids = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    language_model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **sizes, **ids, head_dim=16))
    language_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    parser = ConfigParser()
    names = ("sft.json", "models/pretrained_language_model.json")
    parser.read_config([str(bundle / "configs" / name) for name in names])
    parser.update({"bundle_root": str(bundle), "language_model_dir": str(tmp_path), "vision_checkpoint": None})
    network = parser.get_parsed_content("network")
    assert network.config.text_config.model_type == "qwen3" and network.num_image_tokens == parser["num_queries"]
    tokens = torch.arange(10, 17)[None]
    torch.testing.assert_close(network(input_ids=tokens).logits, language_model(input_ids=tokens).logits)
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in names])
    parser.update({"bundle_root": str(bundle), "text_tokenizer_dir": str(bundle / "models" / "text_tokenizer")})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("network_def")
    assert "language model None: no config.json there" in str(caught.value.__cause__)
