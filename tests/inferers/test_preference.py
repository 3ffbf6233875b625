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

import copy

import pytest
import torch
from peft.tuners.lora import LoraLayer

from monai_u2.exceptions import InputError
from monai_u2.inferers import PreferenceInferer
from monai_u2.networks import U2LLM, prepare_finetuning


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 90, (4, 10), generator=generator)
    ids[:, 2:6] = 99
    labels = ids.clone()
    labels[:, :6] = -100
    labels[2, -1] = -100
    return {
        "inputs": torch.rand(2, 2, 8, 32, 32, generator=generator),
        "input_ids": ids,
        "labels": labels,
        "image_index": torch.tensor([0, 0, 1, 1]),
    }


def with_adapters(network: U2LLM) -> U2LLM:
    frozen = [f"model.{name}" for name, _ in network.model.named_children() if name != "language_model"]
    network = prepare_finetuning(network, lora={"r": 4, "target_modules": ["q_proj", "v_proj"]}, frozen=frozen)
    for module in network.modules():
        if isinstance(module, LoraLayer):
            torch.nn.init.normal_(module.lora_B["default"].weight)
    return network


def test_all_references_give_the_same(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    before = copy.deepcopy(tiny_u2llm)
    network = with_adapters(tiny_u2llm)
    found = {
        "adapter": PreferenceInferer("adapter", precision="float32")(network=network, **batch),
        "model": PreferenceInferer("model", before, precision="float32")(network=network, **batch),
    }
    precomputed = PreferenceInferer("policy", precision="float32")(network=before, **batch)
    reference = torch.stack([precomputed["policy_chosen"], precomputed["policy_rejected"]], dim=1).detach()
    found["precomputed"] = PreferenceInferer("precomputed", precision="float32")(
        network=network, **batch, reference_log_probs=reference
    )
    for name, output in found.items():
        assert output.keys() == precomputed.keys(), name
        for key, value in output.items():
            torch.testing.assert_close(value, found["adapter"][key], rtol=1e-5, atol=1e-5, msg=f"{name} {key}")
    output = found["adapter"]
    assert output["chosen_lengths"].tolist() == [4, 3] and output["rejected_lengths"].tolist() == [4, 4]
    assert output["policy_chosen"].requires_grad and not output["reference_chosen"].requires_grad
    assert (output["policy_chosen"] - output["reference_chosen"]).abs().min() > 1e-3
    whole = network(batch["inputs"], **{k: v for k, v in batch.items() if k != "inputs"}, return_log_probs=True)
    torch.testing.assert_close(output["policy_chosen"], whole.log_probs[[0, 2]])
    torch.testing.assert_close(output["policy_rejected"], whole.log_probs[[1, 3]])


def test_at_the_start_policy_and_reference_are_the_same(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    frozen = [f"model.{name}" for name, _ in tiny_u2llm.model.named_children() if name != "language_model"]
    network = prepare_finetuning(tiny_u2llm, lora={"r": 4}, frozen=frozen)
    output = PreferenceInferer()(network=network, **batch)
    torch.testing.assert_close(output["policy_chosen"], output["reference_chosen"], rtol=0, atol=0)


def test_what_is_missing_is_named(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="reference 'adapters' must be one of"):
        PreferenceInferer("adapters")
    with pytest.raises(ValueError, match="'model' alone needs a network"):
        PreferenceInferer("model")
    with pytest.raises(InputError, match="the batch has no reference_log_probs; run precompute_reference"):
        PreferenceInferer("precomputed")(network=tiny_u2llm, **batch)


def test_a_reference_with_another_vocabulary_is_refused(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    config = copy.deepcopy(tiny_u2llm.config)
    config.text_config.vocab_size = 120
    inferer = PreferenceInferer("model", U2LLM(config))
    with pytest.raises(InputError, match="the reference's vocabulary has 120 tokens, the policy's 100"):
        inferer(network=tiny_u2llm, **batch)
