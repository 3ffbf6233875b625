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

"""A model over several processes: replicated (DDP) or sharded (FSDP2), with whole weights in its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn as nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only
from transformers.modeling_layers import GradientCheckpointingLayer

from monai_u2.exceptions import InputError
from monai_u2.processes import process_index

DISTRIBUTIONS = ("replicate", "full_shard")


def distribute(network: nn.Module, distribution: str, device: torch.device) -> nn.Module:
    """Prepare a model for training by several processes, which must have been started.

    On GPUs, batch normalization that is trained takes the statistics of all processes' cases; on CPUs, where PyTorch
    has no such layer, each process takes its own.

    Args:
        network: the same model in each process, on its device; changed in place.
        distribution: `"replicate"`, a copy in each process (DistributedDataParallel), or `"full_shard"`, a part of the
            weights, gradients and optimizer's state in each (FSDP2's `fully_shard` of each transformer layer and of
            the rest).
        device: the process's device.

    Returns:
        The model to train. Make the optimizer of its parameters.

    Raises:
        InputError: when `distribution` is unknown, or weights of several precisions are to be sharded.
    """
    if distribution not in DISTRIBUTIONS:
        raise InputError(f"distribution is {distribution!r}; expected one of {', '.join(DISTRIBUTIONS)}.")
    if device.type == "cuda":
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight.requires_grad:
                network.set_submodule(name, nn.SyncBatchNorm.convert_sync_batchnorm(module))
    if distribution == "full_shard":
        precisions = {str(parameter.dtype).removeprefix("torch.") for parameter in network.parameters()}
        if len(precisions) > 1:
            raise InputError(
                f"distribution is 'full_shard', the weights are {' and '.join(sorted(precisions))}; expected one "
                "precision. Give --frozen_precision float32, or --distribution replicate."
            )
        scalars = [name for name, parameter in network.named_parameters() if parameter.ndim == 0]
        for name in scalars:  # which fully_shard refuses; one element is broadcast alike
            parameter = network.get_parameter(name)
            parameter.data = parameter.data.reshape(1)
        network.scalar_parameters = scalars
        for module in list(network.modules()):
            if isinstance(module, GradientCheckpointingLayer):
                fully_shard(module)
        fully_shard(network)
        return network
    # which parameters take part in a loss depends on its weights
    return DistributedDataParallel(
        network, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=True
    )


def unwrapped(network: nn.Module) -> nn.Module:
    """The model in a DistributedDataParallel; any other model is given back."""
    return getattr(network, "module", network)


@contextmanager
def gradients_kept_local(network: nn.Module, local: bool) -> Iterator[None]:
    """Don't exchange gradients between replicas in the backward passes here, where `local`; they add up until then.

    Those of shards are exchanged each time: each process would hold all of them until then.
    """
    with network.no_sync() if local and isinstance(network, DistributedDataParallel) else nullcontext():
        yield


def full_state(part: Any) -> Any:
    """State dict of a module, an optimizer or anything else, without a trace of the processes.

    Each process has to call this. Of what is sharded the first one gets the whole, the others nothing: one machine may
    run several, and hasn't the memory for as many copies.

    Args:
        part: an object with `state_dict`; a module in DistributedDataParallel gives the module's own names, shards are
            gathered on the CPU.
    """
    if not isinstance(part, nn.Module):
        return tree_map_only(DTensor, whole_tensor, part.state_dict())
    part = unwrapped(part)
    state = part.state_dict()
    names: dict[int, str] = {}  # tied weights stay one tensor
    for name, parameter in part.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        state[name] = whole_tensor(state[name]) if first == name else state[first]
    for name in getattr(part, "scalar_parameters", ()):
        state[name] = state[name].reshape(() if state[name].numel() else 0)
    return state


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that is sharded over the processes as a whole, on the CPU of the first one; any other is given back."""
    if not isinstance(tensor, DTensor):
        return tensor
    whole = tensor.full_tensor()
    if process_index():
        return whole.new_empty(0)
    # gathered from uneven shards, it is a view of a larger one, all of which would be saved
    return whole.to("cpu", copy=True).contiguous()


def load_full_state(part: Any, state: Mapping[str, Any]) -> None:
    """Load what :func:`full_state` gave, with whatever number of processes and distribution.

    Args:
        part: an object with `load_state_dict`.
        state: the whole state, the same in each process.
    """
    if isinstance(part, nn.Module):
        part = unwrapped(part)
        held = part.state_dict()
        state = {name: _fitted(value, held[name]) if name in held else value for name, value in state.items()}
    elif isinstance(part, Optimizer):
        parameters = [parameter for group in part.param_groups for parameter in group["params"]]
        moments = {
            index: {
                name: value if name == "step" else _fitted(value, parameters[index]) for name, value in entry.items()
            }
            for index, entry in state["state"].items()
        }
        state = {**state, "state": moments}
    part.load_state_dict(state)


def _fitted(value: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """A whole tensor with the shape (a scalar or one element) and the shards of the one that is held."""
    if value.numel() == held.numel() == 1:
        value = value.reshape(held.shape)
    if not isinstance(held, DTensor) or value.shape != held.shape:
        return value  # another shape is an error when it is loaded
    return distribute_tensor(value.to(held.device), held.device_mesh, held.placements, src_data_rank=None)
