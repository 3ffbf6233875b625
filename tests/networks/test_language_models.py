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

"""U2LLM around the families of language models that people use, with tiny random weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from monai_u2.exceptions import InputError
from monai_u2.networks import U2LLM, U2LLMConfig

SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
SIZES |= {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": False},
    "phi3": {"model_type": "phi3", "tie_word_embeddings": False},
    # Phi-4-mini: tied, grouped queries, a part of each head rotated
    "phi4-mini": {"model_type": "phi3", "tie_word_embeddings": True, "partial_rotary_factor": 0.75},
}
QUERIES, PLACEHOLDER = 4, 96


def composed(family: str, **changed: Any) -> U2LLMConfig:
    vision = {"image_size": (8, 32, 32), "patch_size": (4, 8, 8), "hidden_size": 24, "mlp_dim": 48, "num_layers": 2}
    tokenizer = {"num_heads": 4, "num_layers": 1, "num_selected": 8, "num_queries": QUERIES}
    options = {
        "text_config": SIZES | FAMILIES[family],
        "vision": vision | {"num_heads": 4},
        "u2_tokenizer": tokenizer,
        "image_token_id": PLACEHOLDER,  # an id of its own, above the vocabulary
    }
    return U2LLMConfig(**{**options, **changed})


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str) -> U2LLM:
    torch.manual_seed(0)
    return U2LLM(composed(family)).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    question = torch.randint(2, 90, (2, 5), generator=generator)
    return {
        "image": torch.rand(2, 2, 8, 32, 32, generator=generator),
        "input_ids": torch.cat([torch.full((2, QUERIES), PLACEHOLDER), question], dim=1),
        "attention_mask": torch.ones(2, QUERIES + 5, dtype=torch.long),
        "question_ids": question,
        "question_mask": torch.ones(2, 5, dtype=torch.bool),
    }


def left_padded(batch: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """The first row gets pads at its left, in prompt and question, and loses as many tokens of its question."""
    padded = {key: value.clone() for key, value in batch.items()}
    ids = batch["input_ids"][0]
    kept = ids[: len(ids) - count]
    padded["input_ids"][0] = torch.cat([torch.zeros(count, dtype=torch.long), kept])
    padded["attention_mask"][0, :count] = 0
    padded["question_ids"][0] = torch.cat([torch.zeros(count, dtype=torch.long), batch["question_ids"][0, :-count]])
    padded["question_mask"][0, :count] = False
    return padded


def row(batch: dict[str, torch.Tensor], index: int, skip: int = 0) -> dict[str, torch.Tensor]:
    one = {key: value[index : index + 1] for key, value in batch.items()}
    for key in ("input_ids", "attention_mask", "question_ids", "question_mask"):
        one[key] = one[key][:, skip:]
    return one


GREEDY = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}


def test_padded_batch_generates_what_single_prompts_do(model: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    padded = left_padded(batch, 2)
    together = model.generate(**padded, **GREEDY)[:, -6:]
    alone = [model.generate(**row(padded, i, skip), **GREEDY)[:, -6:] for i, skip in ((0, 2), (1, 0))]
    assert torch.equal(together, torch.cat(alone))
    logits = model(**padded).logits[0, 2:]
    torch.testing.assert_close(logits, model(**row(padded, 0, 2)).logits[0], rtol=1e-4, atol=1e-5)


def test_caches_give_the_same_tokens(model: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    expected = model.generate(**batch, **GREEDY)
    assert torch.equal(model.generate(**batch, **GREEDY, use_cache=False), expected)
    assert torch.equal(model.generate(**batch, **GREEDY, cache_implementation="static"), expected)


def test_image_is_encoded_once_for_all_samples_and_beams(model: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    calls = []
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(0)
    out = model.generate(**batch, do_sample=True, num_return_sequences=8, max_new_tokens=3, min_new_tokens=3)
    assert len(out) == 16 and len(calls) == 1
    model.generate(**batch, num_beams=3, **GREEDY)
    assert len(calls) == 2


def test_padded_slabs_change_nothing(model: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    mask = torch.ones(2, 2, dtype=torch.bool)
    expected = model(**batch, slab_mask=mask).logits
    batch["image"] = torch.cat([batch["image"], torch.rand(2, 3, 8, 32, 32)], dim=1)
    mask = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(model(**batch, slab_mask=mask).logits, expected, rtol=0, atol=1e-5)


def test_saves_and_loads_as_safetensors(model: U2LLM, batch: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file() and not list(tmp_path.glob("*.bin"))
    loaded = U2LLM.from_pretrained(tmp_path).eval()
    assert all(parameter.isfinite().all() for parameter in loaded.parameters())
    own = model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-6)
    half = U2LLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    logits = half(**batch).logits
    assert logits.isfinite().all() and (logits.float() - model(**batch).logits).abs().max() < 0.2


def test_missing_and_unknown_weights_are_errors(model: U2LLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["model.projector.projector.9.bias"] = state.pop("model.projector.projector.0.bias")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = r"missing: model.projector.projector.0.bias \(1 in all\); unknown: model.projector.projector.9.bias"
    with pytest.raises(InputError, match=message):
        U2LLM.from_pretrained(tmp_path)


def test_a_truncated_file_is_an_error(model: U2LLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}: its weights can't be read")):
        U2LLM.from_pretrained(tmp_path)


def test_starts_from_a_pretrained_language_model_and_exports_it(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = SIZES | FAMILIES[family]
    text = AutoConfig.for_model(options["model_type"], **{k: v for k, v in options.items() if k != "model_type"})
    language_model = AutoModelForCausalLM.from_config(text).eval()
    language_model.save_pretrained(tmp_path / "lm")
    model = U2LLM.from_language_model(tmp_path / "lm", composed(family)).eval()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    ids = torch.randint(2, 90, (1, 7))
    expected = language_model(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-6)
    model.save_pretrained(tmp_path / "ours")
    again = U2LLM.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-6)
    exported = {re.sub(r"^model\.language_model\.", "model.", key): value for key, value in again.state_dict().items()}
    kept = language_model.state_dict()
    assert all(torch.equal(exported[key], value) for key, value in kept.items())


def test_a_folder_of_something_else_is_refused(family: str, tmp_path: Path) -> None:
    U2LLM(composed(family)).model.language_model.save_pretrained(tmp_path)  # without the names of a causal model
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="missing: lm_head.weight, model.language_model.embed.*; unknown: other"):
        U2LLM.from_language_model(tmp_path, composed(family))


def test_what_else_a_folder_may_hold(model: U2LLM, family: str, tmp_path: Path) -> None:
    text = model.config.text_config
    AutoModelForCausalLM.from_config(text).save_pretrained(tmp_path / "lm")
    with pytest.raises(InputError, match=f"its model_type is '{text.model_type}'; expected 'u2llm'"):
        U2LLM.from_pretrained(tmp_path / "lm")
    model.save_pretrained(tmp_path / "ours")
    state = load_file(tmp_path / "ours" / "model.safetensors")
    state["model.u2_tokenizer.query_tokens"] = torch.zeros(1, 5, 32)
    save_file(state, tmp_path / "ours" / "model.safetensors", metadata={"format": "pt"})
    message = r"of another shape: model.u2_tokenizer.query_tokens \(1, 5, 32\) instead of \(1, 4, 32\)"
    with pytest.raises(InputError, match=message):
        U2LLM.from_pretrained(tmp_path / "ours")


def test_prompts_and_masks_that_do_not_fit(model: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    for shape in ((2, 4), (2, 15), (3, 9)):
        bad = {**batch, "attention_mask": torch.ones(shape, dtype=torch.long)}
        for call in (model, model.generate):
            with pytest.raises(ValueError, match=re.escape(f"attention_mask {shape} must be (2, 9), as the prompts")):
                call(**bad)
    without = {key: value for key, value in batch.items() if key in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match=r"hold image placeholders \(id 96\), but there is no image"):
        model(**without)
    with pytest.raises(ValueError, match="1 questions for 2 images"):
        model(**{**batch, "question_ids": batch["question_ids"][:1], "question_mask": None})
    with pytest.raises(ValueError, match="question_ids hold the id 96; the language model's vocabulary has 96"):
        model(**{**batch, "question_ids": batch["input_ids"], "question_mask": None})
    with pytest.raises(ValueError, match=r"image_index \[0, 2\] must lie between 0 and 1"):
        model(**batch, image_index=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="image_index has 1 entries for 2 questions"):
        model(**batch, image_index=torch.tensor([0]))


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ({"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"model_type": "granite", "logits_scaling": 8.0}, "logits_scaling is 8.0"),
        ({"model_type": "cohere", "logit_scale": 0.0625}, "logit_scale is 0.0625"),
    ],
)
def test_heads_that_do_more_are_refused(text: dict[str, Any], option: str) -> None:
    with pytest.raises(ValueError, match=option):
        U2LLM(composed("llama", text_config=SIZES | text))


def test_lora_on_the_language_model_alone(model: U2LLM, batch: dict[str, torch.Tensor], tmp_path: Path) -> None:
    linear = r"model\.language_model\..*(q_proj|k_proj|v_proj|o_proj|qkv_proj)"
    # whole names: "projector" alone would also match the projector's inner layers
    lora = LoraConfig(target_modules=linear, modules_to_save=["model.projector", "model.u2_tokenizer"], r=4)
    before = model(**batch).logits.detach()
    adapted = get_peft_model(model, lora)
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in names)
    assert not any("vision_tower" in name or ".mlp." in name.split("u2_tokenizer")[0] for name in names)
    assert any("lora_" in name for name in names) and any("u2_tokenizer" in name for name in names)
    torch.testing.assert_close(adapted(**batch).logits, before)
    adapted.train()(**batch).logits.square().mean().backward()
    without = [name for name, p in adapted.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5).step()
    adapted.eval()
    changed = adapted(**batch).logits.detach()
    assert (changed - before).abs().max() > 1e-4
    adapted.save_pretrained(tmp_path)
    from peft import PeftModel

    torch.manual_seed(0)
    fresh = U2LLM(model.config)
    fresh.load_state_dict({k: v for k, v in model_state_without_adapter(adapted).items()})
    loaded = PeftModel.from_pretrained(fresh, tmp_path).eval()
    torch.testing.assert_close(loaded(**batch).logits, changed)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(merged(**batch).logits, changed, rtol=1e-4, atol=1e-5)


def model_state_without_adapter(adapted: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The base model's weights under their names before peft."""
    state = {}
    for name, value in adapted.base_model.model.state_dict().items():
        if "lora_" in name or "modules_to_save" in name:
            continue
        state[name.replace(".base_layer", "").replace(".original_module", "")] = value
    return state


def test_checkpointed_gradients_are_the_same(model: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    model.train()
    labels = batch["input_ids"].clone().masked_fill(batch["input_ids"] == PLACEHOLDER, -100)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        model(**batch, labels=labels, use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable()
    blocks = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    kinds = {type(block).__name__ for block in blocks}
    assert {"VisionBlock", "RefinerBlock", "AggregatorBlock"} <= kinds and any("Decoder" in kind for kind in kinds)
    calls = []
    model.model.vision_tower.blocks[0].norm1.register_forward_hook(lambda *_: calls.append(1))
    found = gradients()
    assert len(calls) == 2  # forward, and once more for the backward pass
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7, msg=name)
