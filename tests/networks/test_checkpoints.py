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

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from monai_u2.exceptions import InputError
from monai_u2.networks import U2LLM, file_sha256, load_model_weights, load_vision_checkpoint


def pretrained(model: U2LLM) -> dict[str, dict[str, torch.Tensor]]:
    parts = {"vision_tower": model.model.vision_tower, "finding_head": model.model.finding_head}
    return {
        name: {key: torch.full_like(value, 0.5) for key, value in part.state_dict().items()}
        for name, part in parts.items()
    }


def test_pretrained_tower_and_head_are_taken(tiny_u2llm: U2LLM, tmp_path: Path) -> None:
    torch.save(pretrained(tiny_u2llm), tmp_path / "vision.pt")
    assert load_vision_checkpoint(tiny_u2llm, tmp_path / "vision.pt") is tiny_u2llm
    assert all(bool((p == 0.5).all()) for p in tiny_u2llm.model.vision_tower.parameters())
    assert all(bool((p == 0.5).all()) for p in tiny_u2llm.model.finding_head.parameters())
    assert not bool((tiny_u2llm.model.image_token_finding_head.classifier.weight == 0.5).any())


def test_m3d_clip_keys_are_taken(tiny_u2llm: U2LLM, tmp_path: Path) -> None:
    tower = pretrained(tiny_u2llm)["vision_tower"]
    state = {f"vision_encoder.{key}": value for key, value in tower.items()}
    # what M3D-CLIP holds beside the tower, and what MONAI's blocks hold since 1.4
    state |= {"language_encoder.embeddings": torch.zeros(2), "logit_scale": torch.zeros(())}
    state |= {"vision_encoder.blocks.0.norm_cross_attn.weight": torch.zeros(48)}
    save_file(state, tmp_path / "m3d_clip.safetensors")
    load_vision_checkpoint(tiny_u2llm, tmp_path / "m3d_clip.safetensors")
    assert all(bool((p == 0.5).all()) for p in tiny_u2llm.model.vision_tower.parameters())


def test_no_checkpoint_leaves_the_model_alone(tiny_u2llm: U2LLM) -> None:
    before = {key: value.clone() for key, value in tiny_u2llm.state_dict().items()}
    load_vision_checkpoint(tiny_u2llm, None)
    assert all(torch.equal(value, before[key]) for key, value in tiny_u2llm.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts["vision_tower"].update(norm2=torch.zeros(1)), "unknown keys norm2"),
        (lambda parts: parts["vision_tower"].pop("cls_token"), "missing keys cls_token"),
        (
            lambda parts: parts["vision_tower"].update(cls_token=torch.zeros(1, 1, 7)),
            r"other shapes: cls_token \(1, 1, 7\), the model's is \(1, 1, 48\)",
        ),
        (
            lambda parts: parts["finding_head"].update({"classifier.bias": torch.zeros(9)}),
            r"finding_head: other shapes: classifier.bias \(9,\), the model's is \(5,\)",
        ),
        (lambda parts: parts.update(decoder={}), r"unknown parts \['decoder'\]"),
        (lambda parts: parts["vision_tower"].update(epoch=3), "holds a int as 'epoch'; expected names and tensors"),
        (lambda parts: parts.update(finding_head=None), "holds a NoneType as 'finding_head'"),
        (lambda parts: parts.update({7: torch.zeros(1)}), "holds a Tensor as 7; expected names"),
        (
            lambda parts: parts["vision_tower"]["cls_token"].fill_(float("nan")),
            "'cls_token' has values that aren't finite",
        ),
    ],
)
def test_what_does_not_fit_is_named(tiny_u2llm: U2LLM, tmp_path: Path, change: object, message: str) -> None:
    parts = pretrained(tiny_u2llm)
    change(parts)  # type: ignore[operator]
    torch.save(parts, tmp_path / "vision.pt")
    with pytest.raises(InputError, match=message):
        load_vision_checkpoint(tiny_u2llm, tmp_path / "vision.pt")


def test_missing_and_broken_files(tiny_u2llm: U2LLM, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist; train one with configs/pretrain.json"):
        load_vision_checkpoint(tiny_u2llm, tmp_path / "none.pt")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(InputError, match="can't be read"):
        load_vision_checkpoint(tiny_u2llm, tmp_path / "broken.pt")


def test_a_whole_model_is_loaded(tiny_u2llm: U2LLM, tmp_path: Path) -> None:
    state = {key: torch.full_like(value, 0.5) for key, value in tiny_u2llm.state_dict().items()}
    torch.save(state, tmp_path / "model.pt")
    assert load_model_weights(tiny_u2llm, tmp_path / "model.pt") is tiny_u2llm
    assert all(bool((value == 0.5).all()) for value in tiny_u2llm.parameters())


def test_a_model_file_that_does_not_fit(tiny_u2llm: U2LLM, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model file .* does not exist; train one"):
        load_model_weights(tiny_u2llm, tmp_path / "model.pt")
    torch.save({"lm_head.weight": torch.zeros(7, 64), "other": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"other shapes: lm_head.*\(7, 64\).*unknown keys other; missing keys .* more"):
        load_model_weights(tiny_u2llm, tmp_path / "model.pt")
    (tmp_path / "model.pt").write_text("no weights")
    with pytest.raises(InputError, match="model file .* can't be read"):
        load_model_weights(tiny_u2llm, tmp_path / "model.pt")


def test_hash_of_a_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "model.pt").write_bytes(content)
    assert file_sha256(tmp_path / "model.pt") == hashlib.sha256(content).hexdigest()
    with pytest.raises(InputError, match="does not exist"):
        file_sha256(tmp_path)
