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
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from monai_u2 import cli
from monai_u2.exceptions import InputError
from monai_u2.networks import U2LLM, convert_official
from monai_u2.networks.official_checkpoints import renamed
from monai_u2.networks.official_config import official_config

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "manifest.json").read_text())["cases"]
NAMES = ("e2e_u2llama_full", "e2e_u2llama_notokenizer")


def tensors(golden: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}


def official_content(name: str, **changed: Any) -> dict[str, Any]:
    """What `config.json` of an official folder holds: the language model's options and those of μ²LLM side by side."""
    options = CASES[name]["ctor"]
    content = {"model_type": "u2_llama", "architectures": ["u2LlamaForCausalLM"], "transformers_version": "4.52.4"}
    content |= {**options["llm"], **options["tokenizer"], **options["projector"]}
    content |= {"image_size": options["vit"]["img_size"], "patch_size": options["vit"]["patch_size"]}
    return {**content, "vision_num_heads": options["vit"]["num_heads"], **changed}


def write_official(folder: Path, name: str, form: str = "safetensors", **changed: Any) -> Path:
    folder.mkdir()
    state = tensors(load_file(GOLDEN / f"{name}.safetensors"), "state.")
    (folder / "config.json").write_text(json.dumps(official_content(name, **changed)))
    (folder / "tokenizer_config.json").write_text("{}")
    half = len(state) // 2
    parts = [dict(list(state.items())[:half]), dict(list(state.items())[half:])]
    if form == "safetensors":
        save_file(state, folder / "model.safetensors")
    elif form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        suffix, stem = (".bin", "pytorch_model") if form == "sharded bin" else (".safetensors", "model")
        files = [f"{stem}-{i:05d}-of-00002{suffix}" for i in (1, 2)]
        for file, part in zip(files, parts):
            (torch.save if suffix == ".bin" else save_file)(part, folder / file)
        index = {key: file for file, part in zip(files, parts) for key in part}
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["safetensors", "bin", "sharded safetensors", "sharded bin"])
def test_converted_folder_computes_what_the_official_code_does(tmp_path: Path, name: str, form: str) -> None:
    config = convert_official(write_official(tmp_path / "official", name, form), tmp_path / "ours")
    assert (tmp_path / "ours" / "tokenizer_config.json").is_file()
    model = U2LLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    assert model.config.image_token_id == config.image_token_id == 128
    golden = load_file(GOLDEN / f"{name}.safetensors")
    # the official splice replaces positions 1 to Q, whatever ids are there; position 0 keeps its own
    input_ids = golden["input.input_ids"].clone()
    count = model.num_image_tokens
    assert count == CASES[name]["ctor"]["image_tokens"]
    input_ids[:, 1 : count + 1] = model.config.image_token_id
    image = golden["input.images"].clone().requires_grad_()
    output = model(
        image=image,
        input_ids=input_ids,
        attention_mask=golden["input.attention_mask"],
        question_ids=golden["input.question_ids"],
        question_mask=torch.ones_like(golden["input.question_ids"], dtype=torch.bool),
        labels=golden["input.labels"],
    )
    noise = CASES[name]["noise"]
    torch.testing.assert_close(output.logits, golden["output.logits"], rtol=1e-4, atol=20 * noise["output.logits"])
    torch.testing.assert_close(output.loss, golden["output.lm_loss"][0], rtol=1e-5, atol=1e-6)
    output.loss.backward()
    torch.testing.assert_close(image.grad, golden["grad.input.images"], rtol=1e-3, atol=20 * noise["grad.input.images"])
    parameters = dict(model.named_parameters())
    for key, value in tensors(golden, "grad.state.").items():
        tolerance = max(20 * noise.get(f"grad.state.{key}", 0.0), 1e-4 * value.abs().max().item())
        torch.testing.assert_close(parameters[renamed(key)].grad, value, rtol=1e-3, atol=tolerance, msg=key)


def test_dtype_and_options_of_the_language_model_stay(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "official", NAMES[0], rope_theta=5e5)
    state = load_file(folder / "model.safetensors")
    save_file({key: value.bfloat16() for key, value in state.items()}, folder / "model.safetensors")
    convert_official(folder, tmp_path / "ours")
    model = U2LLM.from_pretrained(tmp_path / "ours", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    text = model.config.text_config
    assert (text.model_type, text.num_key_value_heads, text.rope_parameters["rope_theta"]) == ("llama", 2, 5e5)


def test_tied_embeddings(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "official", NAMES[0], tie_word_embeddings=True)
    state = load_file(folder / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors")
    convert_official(folder, tmp_path / "ours")
    model = U2LLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(model.lm_head.weight, state["model.embed_tokens.weight"])


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(v.shape) for key, v in tensors(load_file(GOLDEN / f"{name}.safetensors"), "state.").items()}


@pytest.mark.parametrize(
    ("given", "position"),
    [({"attn_type": "rma"}, "relative"), ({"enable_rpe": True}, "relative"), ({}, "relative")],
)
def test_names_of_the_positions(given: dict[str, Any], position: str | None) -> None:
    content = official_content(NAMES[0])
    del content["attn_type"]
    assert official_config(content | given, shapes_of(NAMES[0])).u2_tokenizer["position"] == position


def test_sizes_are_read_off_the_tensors() -> None:
    content = official_content(NAMES[0])
    for key in ("u2t_num_heads", "u2t_num_layers", "u2t_top_k", "num_3d_query_token", "vision_num_heads"):
        del content[key]
    config = official_config(content, shapes_of(NAMES[0]))
    assert config.u2_tokenizer["num_heads"] == 4 and config.u2_tokenizer["num_layers"] == 1
    assert config.u2_tokenizer["num_selected"] == 26 and config.u2_tokenizer["num_queries"] == 10
    assert config.vision["num_layers"] == 2 and config.vision["num_heads"] == 12  # tensors don't tell: M3D-CLIP's


@pytest.mark.parametrize("prefix", ["model.mm_projector.", "model.mm_projector.linear."])
def test_both_names_of_a_linear_projector(tmp_path: Path, prefix: str) -> None:
    folder = write_official(tmp_path / "official", NAMES[0])
    state = load_file(folder / "model.safetensors")
    state = {key: value for key, value in state.items() if "mm_projector" not in key}
    state |= {f"{prefix}weight": torch.randn(64, 48), f"{prefix}bias": torch.zeros(64)}
    save_file(state, folder / "model.safetensors")
    convert_official(folder, tmp_path / "ours")
    model = U2LLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(model.model.projector.projector[0].weight, state[f"{prefix}weight"])
    assert model.model.projector.grid == (4, 4, 6)  # not pooled


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "gemma"}, "model_type is 'gemma'; expected a μ²LLM on one of the backbones llama, qwen3, phi3"),
        ({"attn_type": "rope"}, r"\{'attn_type': 'rope'\}, position 'rotary'; its tensors are of position 'relative'"),
        ({"attn_type": "mha"}, "position None; its tensors are of position 'relative'"),
        ({"enable_diffts": False}, "enable_diffts is False, but its score_net gives 26 scores a token; expected 1"),
        ({"patch_size": [2, 4, 8]}, "make 48 patches of 64 voxels; its tensors hold 96 patches of 32"),
        ({"image_size": [24, 16, 8], "patch_size": [4, 4, 2]}, "has its depth last; expected"),
        ({"vision_select_feature": "cls_patch"}, "vision_select_feature 'cls_patch' .* expected 'patch' and -1"),
        ({"hidden_size": 32}, r"of another shape: lm_head.weight \(128, 64\) instead of \(128, 32\)"),
        ({"num_hidden_layers": 3}, "missing: model.language_model.layers.2"),
        ({"num_hidden_layers": 1}, "unexpected: model.language_model.layers.1"),
        ({"image_size": 256}, "image_size is 256; expected three positive numbers"),
        ({"patch_size": [2, 0, 4]}, r"patch_size is \[2, 0, 4\]; expected three positive numbers"),
        ({"vision_num_heads": None}, "vision_num_heads is None; expected a positive whole number"),
        ({"proj_pooling_size": 5}, r"proj_pooling_size is 5; expected at most 4, the grid is \(4, 4, 6\)"),
        ({"enable_dmtp": False}, "'enable_dmtp': False}; its tensors have a gate_fc"),
        ({"use_multi_scale": False}, "its tensors have a gate_fc"),
        ({"num_attention_heads": 7}, "its config.json describes no llama model|make no model"),
        ({"hidden_size": "a"}, "its config.json describes no llama model"),
        ({"tie_word_embeddings": True}, "lm_head.weight and model.embed_tokens.weight differ; expected the same"),
        ({"u2t_num_heads": 5}, "make no model: hidden_size 64 must be divisible by num_heads 5"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    folder = write_official(tmp_path / "official", NAMES[0], **changed)
    with pytest.raises(InputError, match=message):
        convert_official(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases: dict[str, str] = {}
    folder = write_official(tmp_path / "truncated", NAMES[0])
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    cases["truncated"] = "model.safetensors: can't be read .* expected whole safetensors"
    folder = write_official(tmp_path / "code", NAMES[0], "bin")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    cases["code"] = "pytorch_model.bin: "
    folder = write_official(tmp_path / "lacking", NAMES[0], "sharded safetensors")
    (folder / "model-00002-of-00002.safetensors").unlink()
    cases["lacking"] = "names model-00002-of-00002.safetensors, which .* lacks"
    folder = write_official(tmp_path / "weightless", NAMES[0])
    (folder / "model.safetensors").unlink()
    cases["weightless"] = "has neither model.safetensors nor pytorch_model.bin"
    folder = write_official(tmp_path / "text", NAMES[0])
    (folder / "config.json").write_text("no")
    cases["text"] = "config.json: is no JSON"
    folder = write_official(tmp_path / "index", NAMES[0], "sharded bin")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    cases["index"] = "pytorch_model.bin.index.json: is no index with a weight_map"
    folder = write_official(tmp_path / "integers", NAMES[0])
    state = load_file(folder / "model.safetensors")
    save_file({**state, "model.norm.weight": state["model.norm.weight"].to(torch.int8)}, folder / "model.safetensors")
    cases["integers"] = "'model.norm.weight' is of I8; expected floating-point weights"
    cases["nowhere"] = "config.json: does not exist"
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            convert_official(tmp_path / name, tmp_path / "ours")
        assert not (tmp_path / "ours").exists() and not Path("ran").exists()


def test_a_folder_with_content_is_left_alone(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "official", NAMES[0])
    with pytest.raises(InputError, match="is not empty; expected a folder that isn't there yet"):
        convert_official(folder, folder)
    with pytest.raises(InputError, match="config.json: is a file; expected a folder"):
        convert_official(folder, folder / "config.json")


def test_old_and_shared_tensors(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "official", NAMES[0], "bin", tie_word_embeddings=False)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]  # one storage
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    convert_official(folder, tmp_path / "ours")
    model = U2LLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(model.lm_head.weight, state["model.embed_tokens.weight"])


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    folder, ours = write_official(tmp_path / "official", NAMES[0]), tmp_path / "ours"
    monkeypatch.setattr(sys, "argv", ["monai-u2", "convert", str(folder), str(ours)])
    cli.main()
    assert "a llama backbone, 2 vision layers. Prompts hold the image placeholder 128." in capsys.readouterr().out
    assert U2LLM.from_pretrained(ours).num_image_tokens == 10
    for arguments, message in (((folder, ours), "is not empty"), ((tmp_path / "no", ours), "no such folder")):
        monkeypatch.setattr(sys, "argv", ["monai-u2", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 2 and message in capsys.readouterr().err
