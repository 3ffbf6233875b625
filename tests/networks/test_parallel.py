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

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from monai_u2.exceptions import InputError
from monai_u2.networks import U2LLM, MergedWeights, distribute, prepare_finetuning, unwrapped
from monai_u2.networks.parallel import full_state, gradients_kept_local, load_full_state
from monai_u2.processes import process_index

InProcesses = Callable[..., list[Any]]
CPU = torch.device("cpu")


def train(network: torch.nn.Module, batch: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        network.train()(**batch).logits.square().mean().backward()
        optimizer.step()


def optimizer_of(network: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=0.01)


def trained_states(network: U2LLM, batch: dict[str, torch.Tensor], distribution: str) -> dict[str, Any]:
    network = distribute(network, distribution, CPU)
    optimizer = optimizer_of(network)
    train(network, batch, optimizer)
    return {
        "network": full_state(network),
        "optimizer": full_state(optimizer),
        "merged": MergedWeights(network).state_dict(),
    }


def resumed(network: U2LLM, batch: dict[str, torch.Tensor], distribution: str, states: dict[str, Any]) -> Any:
    network = distribute(network, distribution, CPU)
    optimizer = optimizer_of(network)
    load_full_state(network, states["network"])
    load_full_state(optimizer, states["optimizer"])
    train(network, batch, optimizer)
    return full_state(network)


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name].reshape(value.shape), value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("distribution", ["replicate", "full_shard"])
def test_states_are_whole_and_go_on_anywhere(
    in_processes: InProcesses, tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor], distribution: str
) -> None:
    """With adapters, so that parameters are frozen and merged."""
    network = prepare_finetuning(tiny_u2llm, lora={"r": 2, "target_modules": ["q_proj"]}, frozen=["model.vision_tower"])
    alone, start = deepcopy(network), network
    optimizer = optimizer_of(alone)
    train(alone, batch, optimizer)
    expected = deepcopy({"network": full_state(alone), "optimizer": full_state(optimizer)})
    states = in_processes(2, trained_states, deepcopy(start), batch, distribution)
    first, second = states
    assert_same(expected["network"], first["network"])
    assert_same(MergedWeights(alone).state_dict(), first["merged"])
    tied = [first["network"][name] for name in ("lm_head.weight", "model.language_model.embed_tokens.weight")]
    assert tied[0].data_ptr() == tied[1].data_ptr()  # or they would be saved twice
    sizes = {name: value.numel() for name, value in second["network"].items()}
    if distribution == "full_shard":
        assert not any(sizes[name] for name, _ in start.named_parameters())
    else:
        assert_same(expected["network"], second["network"])
    # what several processes saved goes on alone, and what one saved in several
    train(alone, batch, optimizer)
    going_on = deepcopy(start)
    its_optimizer = optimizer_of(going_on)
    load_full_state(going_on, states[0]["network"])
    load_full_state(its_optimizer, states[0]["optimizer"])
    train(going_on, batch, its_optimizer)
    assert_same(alone.state_dict(), going_on.state_dict())
    assert_same(alone.state_dict(), in_processes(3, resumed, deepcopy(start), batch, distribution, expected)[0])


def kinds(network: U2LLM, distribution: str) -> tuple[bool, bool, int]:
    network = distribute(network, distribution, CPU)
    shards = sum(isinstance(module, FSDPModule) for module in network.modules())
    return isinstance(network, DistributedDataParallel), isinstance(unwrapped(network), U2LLM), shards


def test_kinds_of_distribution(in_processes: InProcesses, tiny_u2llm: U2LLM) -> None:
    assert in_processes(1, kinds, tiny_u2llm, "replicate") == [(True, True, 0)]
    # a layer of the vision tower, two of the tokenizer, two of the language model, and the rest
    assert in_processes(1, kinds, tiny_u2llm, "full_shard") == [(False, True, 6)]
    with pytest.raises(InputError, match="distribution is 'ddp'; expected one of replicate, full_shard"):
        distribute(tiny_u2llm, "ddp", CPU)


def accumulated(distribution: str) -> list[list[float]]:
    """Gradients after a backward pass that keeps them local, and after one that doesn't; each process has its input."""
    torch.manual_seed(0)
    network = distribute(torch.nn.Linear(2, 1, bias=False), distribution, CPU)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[process_index()]
    seen = []
    for local in (True, False):
        with gradients_kept_local(network, local):
            network(x).sum().backward()
        gradient = unwrapped(network).weight.grad
        if gradient is not None:
            gradient = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
            seen.append(gradient.flatten().tolist())
    return seen


def test_gradients_of_replicas_are_exchanged_once(in_processes: InProcesses) -> None:
    first, second = in_processes(2, accumulated, "replicate")
    assert first == [[1.0, 0.0], [1.0, 1.0]] and second == [[0.0, 1.0], [1.0, 1.0]]
    # those of shards each time, means over the processes that add up; a process would hold all of them otherwise
    assert in_processes(2, accumulated, "full_shard") == [[[0.5, 0.5], [1.0, 1.0]]] * 2


def test_weights_of_two_precisions_are_not_sharded(tiny_u2llm: U2LLM) -> None:
    network = prepare_finetuning(tiny_u2llm, lora={"r": 2}, frozen_precision="bfloat16")
    with pytest.raises(InputError, match="the weights are bfloat16 and float32; expected one precision"):
        distribute(network, "full_shard", CPU)
