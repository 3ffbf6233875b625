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

from pathlib import Path
from typing import Any

import pytest
import torch

from monai_u2.exceptions import InputError
from monai_u2.networks import U2LLM, MergedWeights, prepare_finetuning

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def step(network: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.3)
    labels = batch["input_ids"].clone()
    for _ in range(2):  # the first leaves one of each pair of adapter matrices at its zeros
        optimizer.zero_grad()
        network.train()(**batch, labels=labels).loss.backward()
        optimizer.step()


def changed(network: U2LLM, before: dict[str, torch.Tensor]) -> set[str]:
    state = MergedWeights(network).state_dict()
    assert state.keys() == before.keys()
    return {name for name, value in state.items() if not torch.equal(value, before[name])}


def parts(names: set[str]) -> set[str]:
    return {".".join(name.split(".")[:2]) for name in names}


def test_lora_trains_the_adapters_and_the_vision_side(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    before = {name: value.clone() for name, value in tiny_u2llm.state_dict().items()}
    expected = tiny_u2llm(**batch).logits
    network = prepare_finetuning(tiny_u2llm, lora=LORA)
    torch.testing.assert_close(network(**batch).logits, expected)
    adapters = [name for name, p in network.named_parameters() if p.requires_grad and "language_model" in name]
    assert len(adapters) == 2 * 2 * 2 and all(".lora_" in name for name in adapters)
    step(network, batch)
    names = changed(network, before)
    of_text = {name for name in names if "language_model" in name}
    assert {name.split(".")[-2] for name in of_text} == {"q_proj", "v_proj"} and len(of_text) == 4
    assert parts(names) >= {"model.vision_tower", "model.projector", "model.u2_tokenizer", "model.language_model"}
    assert "lm_head.weight" not in names

    plain = U2LLM(network.config).eval()
    plain.load_state_dict(MergedWeights(network).state_dict())
    torch.testing.assert_close(plain(**batch).logits, network.eval()(**batch).logits, rtol=1e-4, atol=1e-5)


def test_frozen_parts_keep_weights_and_statistics(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    tiny_u2llm.model.vision_tower.patch_embedding.add_module("statistics", torch.nn.BatchNorm3d(1))
    tower = tiny_u2llm.model.vision_tower
    embed = tower.patch_embedding.forward
    tower.patch_embedding.forward = lambda x: embed(tower.patch_embedding.statistics(x))
    before = {name: value.clone() for name, value in tiny_u2llm.state_dict().items()}
    step(tiny_u2llm, batch)
    assert "model.vision_tower.patch_embedding.statistics.running_mean" in changed(tiny_u2llm, before)
    tiny_u2llm.load_state_dict(before)
    network = prepare_finetuning(tiny_u2llm, lora=LORA, frozen=["model.vision_tower"])
    step(network, batch)
    names = changed(network, before)
    assert "model.vision_tower" not in parts(names) and "model.projector" in parts(names)


def test_activation_checkpointing_gives_the_same_gradients(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    def gradient() -> torch.Tensor:
        tiny_u2llm.zero_grad()
        tiny_u2llm.train()(**batch, labels=batch["input_ids"]).loss.backward()
        return tiny_u2llm.model.vision_tower.blocks[0].mlp.linear1.weight.grad.clone()

    expected = gradient()
    calls: list[int] = []
    tiny_u2llm.model.u2_tokenizer.refiner[0].mlp_norm.register_forward_hook(lambda *_: calls.append(1))
    prepare_finetuning(tiny_u2llm, activation_checkpointing=True)
    torch.testing.assert_close(gradient(), expected, rtol=1e-4, atol=1e-7)
    assert len(calls) == 2


def test_without_options_nothing_changes(tiny_u2llm: U2LLM) -> None:
    before = tiny_u2llm.state_dict()
    assert prepare_finetuning(tiny_u2llm) is tiny_u2llm
    assert all(parameter.requires_grad for parameter in tiny_u2llm.parameters())
    state = MergedWeights(tiny_u2llm).state_dict()
    assert all(state[name].data_ptr() == value.data_ptr() for name, value in before.items())


def test_names_that_are_none(tiny_u2llm: U2LLM) -> None:
    with pytest.raises(
        InputError, match="frozen 'vision_tower' is no module or parameter of the model, .* model.vision_tower"
    ):
        prepare_finetuning(tiny_u2llm, frozen=["vision_tower"])
    with pytest.raises(InputError, match="no layer of the language model is called qkv; its linear layers are down_pr"):
        prepare_finetuning(tiny_u2llm, lora={"target_modules": ["qkv"]})
    with pytest.raises(InputError, match="no layer of the language model is called v_projj;"):
        prepare_finetuning(tiny_u2llm, lora={"target_modules": ["q_proj", "v_projj"]})
    with pytest.raises(InputError, match="lora is 'yes'; expected options of peft.LoraConfig"):
        prepare_finetuning(tiny_u2llm, lora="yes")
    with pytest.raises(InputError, match=r"lora \{'rank': 4\}: .*unexpected keyword argument 'rank'"):
        prepare_finetuning(tiny_u2llm, lora={"rank": 4})
    with pytest.raises(InputError, match="frozen '' is no module"):
        prepare_finetuning(tiny_u2llm, frozen=[""])


def test_patterns_freeze_modules_and_parameters(tiny_u2llm: U2LLM) -> None:
    network = prepare_finetuning(tiny_u2llm, frozen=["model.language_model.layers.[1-9]", "*.bias", "lm_head"]).train()
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    layers = [network.model.language_model.layers[i] for i in range(2)]
    assert all(parameter.requires_grad for parameter in layers[0].parameters())
    assert not any(parameter.requires_grad for parameter in layers[1].parameters())
    others = {name for name in frozen if not name.startswith("model.language_model.layers.1.")}
    # its weight is tied to the head
    assert others - {"model.language_model.embed_tokens.weight"} == {
        name for name, _ in network.named_parameters() if name.endswith(".bias")
    }
    network.model.language_model(inputs_embeds=torch.zeros(1, 2, 64))
    assert [layer.mlp.training for layer in layers] == [True, False]
    with pytest.raises(InputError, match="leaves nothing to train"):
        prepare_finetuning(tiny_u2llm, frozen="model*")


@pytest.mark.parametrize("option", ["use_dora", "lora_bias"])
def test_adapters_that_cannot_be_merged_are_refused(tiny_u2llm: U2LLM, option: str) -> None:
    with pytest.raises(InputError, match=f"lora: {option} can't be merged into model.pt"):
        prepare_finetuning(tiny_u2llm, lora={**LORA, option: True})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers_to_transform": [0]}, "layers_to_transform would have no effect"),
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights is 'pissa'; expected one of True, 'gaussian', 'orthogonal'",
        ),
        ({"init_lora_weights": False}, "init_lora_weights is False"),
    ],
)
def test_adapters_that_begin_as_another_model_are_refused(
    tiny_u2llm: U2LLM, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"lora: {message}"):
        prepare_finetuning(tiny_u2llm, lora=LORA | options)


def test_dropout_of_adapters_in_a_frozen_language_model(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    network = prepare_finetuning(tiny_u2llm, LORA | {"lora_dropout": 0.5}, frozen=["model.language_model"]).train()
    first, second = (network(**batch).logits for _ in range(2))
    dropouts = [module for name, module in network.named_modules() if name.endswith("lora_dropout.default")]
    assert dropouts and all(module.training for module in dropouts)
    torch.testing.assert_close(first, second)  # at first the adapters add nothing
    assert not network.model.language_model.layers[0].mlp.training


def test_statistics_can_be_frozen_alone(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    """So that policy and reference of full fine-tuning are one model at the first step."""
    embedding = tiny_u2llm.model.vision_tower.patch_embedding
    embedding.add_module("statistics", torch.nn.BatchNorm3d(1))
    embed = embedding.forward
    embedding.forward = lambda x: embed(embedding.statistics(x))
    expected = tiny_u2llm.eval()(**batch).logits
    network = prepare_finetuning(tiny_u2llm, frozen_statistics=True).train()
    torch.testing.assert_close(network(**batch).logits, expected)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step(network, batch)
    names = changed(network, before)
    prefix = "model.vision_tower.patch_embedding.statistics."
    assert f"{prefix}weight" in names and not {f"{prefix}running_mean", f"{prefix}num_batches_tracked"} & names


def test_saved_folder_has_the_adapters_merged(
    tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    network = prepare_finetuning(tiny_u2llm, lora=LORA, frozen=["model.language_model"])
    step(network, batch)
    network.eval().save_pretrained(tmp_path)
    loaded = U2LLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**batch).logits, network(**batch).logits, rtol=1e-4, atol=1e-5)
    adapters = [p for name, p in network.named_parameters() if ".lora_B" in name]
    assert adapters and all(p.requires_grad and p.abs().max() > 0 for p in adapters)  # frozen is what is around them
    half = prepare_finetuning(U2LLM(tiny_u2llm.config).bfloat16(), lora=LORA)
    assert {p.dtype for name, p in half.named_parameters() if ".lora_" in name} == {torch.float32}


def test_what_is_frozen_of_the_language_model_in_bfloat16(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    expected = tiny_u2llm(**batch).logits.detach()
    before = {name: value.clone() for name, value in tiny_u2llm.state_dict().items()}
    network = prepare_finetuning(tiny_u2llm, lora=LORA, frozen_precision="bfloat16")
    half = {name for name, p in network.named_parameters() if p.dtype == torch.bfloat16}
    assert half == {name for name, p in network.named_parameters() if "language_model" in name and not p.requires_grad}
    assert half and network.lm_head.weight.dtype == torch.bfloat16  # tied to the embedding
    logits = network(**batch).logits.detach().float()
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        step(network, batch)
    names = {name for name, p in network.named_parameters() if p.grad is not None}
    assert any(".lora_" in name for name in names) and any("u2_tokenizer" in name for name in names)
    state = MergedWeights(network).state_dict()
    assert state.keys() == before.keys()
    plain = U2LLM(network.config).eval()
    plain.load_state_dict(state)
    adapted = plain.model.language_model.layers[0].self_attn.q_proj.weight
    assert (adapted.bfloat16() != adapted).any()  # the adapters' part isn't rounded to bfloat16
    assert (plain(**batch).logits - network.eval()(**batch).logits.float()).abs().max() < 0.05 * expected.abs().max()


def test_precisions_that_hold_nothing_are_refused(tiny_u2llm: U2LLM) -> None:
    with pytest.raises(InputError, match="frozen_precision is 'float16'; expected 'float32' or 'bfloat16'"):
        prepare_finetuning(tiny_u2llm, lora=LORA, frozen_precision="float16")
    for frozen in ([], ["model.language_model.layers.0"]):
        with pytest.raises(InputError, match="of the language model is trained .*; expected adapters alone"):
            prepare_finetuning(U2LLM(tiny_u2llm.config), frozen=frozen, frozen_precision="bfloat16")


def test_frozen_layers_are_computed_again_too(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    """Gradients go through a language model that is frozen: without it all its activations would be held."""
    network = prepare_finetuning(tiny_u2llm, frozen=["model.language_model", "lm_head"], activation_checkpointing=True)
    calls = []
    layer = network.model.language_model.layers[0]
    layer.self_attn.register_forward_pre_hook(lambda module, _: calls.append(module.training))
    network.train()(**batch).logits.sum().backward()
    assert calls == [False, False]
