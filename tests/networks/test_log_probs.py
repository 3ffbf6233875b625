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

import pytest
import torch
from peft.tuners.lora import LoraLayer

from monai_u2.networks import U2LLM, prepare_finetuning
from monai_u2.networks.log_probs import label_log_probs

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def expected_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """From whole logits."""
    log_probs = logits[:, :-1].double().log_softmax(dim=-1)
    targets = labels[:, 1:]
    tokens = log_probs.gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return (tokens * (targets != -100)).sum(dim=1)


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_same_as_from_whole_logits(chunk_size: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3, 9, 8, dtype=torch.float64, requires_grad=True)
    head = torch.nn.Linear(8, 20, dtype=torch.float64)
    labels = torch.randint(20, (3, 9))
    labels[0, :4] = labels[1, :7] = -100
    found, counts = label_log_probs(hidden, head, labels, chunk_size)
    gradient = torch.autograd.grad(found.square().sum(), [hidden, head.weight])
    expected = expected_log_probs(head(hidden), labels)
    assert counts.tolist() == [5, 2, 8]  # the first token has nothing before it
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(expected.square().sum(), [hidden, head.weight]), rtol=1e-5, atol=1e-5
    )


def labels_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    labels = batch["input_ids"].clone()
    labels[:, :-3] = -100
    return labels


def test_model_gives_them_for_policy_and_reference(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    labels = labels_of(batch)
    before = expected_log_probs(tiny_u2llm(**batch).logits, labels).detach()
    frozen = [f"model.{name}" for name, _ in tiny_u2llm.model.named_children() if name != "language_model"]
    network = prepare_finetuning(tiny_u2llm, lora=LORA, frozen=frozen)
    for module in network.modules():
        if isinstance(module, LoraLayer):
            torch.nn.init.normal_(module.lora_B["default"].weight)
    encoded = []
    network.model.vision_tower.register_forward_hook(lambda *given: encoded.append(len(given[1][0])))
    out = network(**batch, labels=labels, return_log_probs=True, reference_without_adapters=True)
    assert encoded == [5]  # the slabs that are there, once
    torch.testing.assert_close(out.reference_log_probs, before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.log_probs, expected_log_probs(network(**batch).logits, labels), rtol=1e-5, atol=1e-5)
    assert (out.log_probs - out.reference_log_probs).abs().min() > 1e-3
    assert out.logits is None and out.label_counts.tolist() == [3] * len(labels)
    out.log_probs.sum().backward()
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert trained and all(".lora_" in name for name in trained)


def test_reference_needs_adapters_alone_to_be_trained(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    arguments = {**batch, "labels": labels_of(batch), "return_log_probs": True, "reference_without_adapters": True}
    with pytest.raises(ValueError, match="has no LoRA adapters to leave out"):
        tiny_u2llm(**arguments)
    network = prepare_finetuning(tiny_u2llm, lora=LORA)
    with pytest.raises(ValueError, match=r"beside LoRA adapters model\.vision_tower.*freeze them"):
        network(**arguments)
    with pytest.raises(ValueError, match="return_log_probs needs labels"):
        network(**batch, return_log_probs=True)
