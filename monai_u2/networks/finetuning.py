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

"""What of a U2LLM is trained: LoRA on the language model, frozen parts, activations that are computed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn as nn
from transformers.modeling_layers import GradientCheckpointingLayer

from monai_u2.exceptions import InputError
from monai_u2.networks.parallel import full_state, unwrapped, whole_tensor

LANGUAGE_MODEL = "model.language_model"
# options of LoRA that change more than a weight by a product of two matrices
_REFUSED = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices")
# adapters go into layers by their full names, so that PEFT doesn't look at these
_WITHOUT_EFFECT = ("layers_to_transform", "layers_pattern")
# the others change the model's own weights, or what it computes at the first step
_INITIALIZATIONS = (True, "gaussian", "orthogonal")


def prepare_finetuning(
    network: nn.Module,
    lora: Mapping[str, Any] | None = None,
    frozen: Sequence[str] | str | None = (),
    activation_checkpointing: bool = False,
    frozen_precision: str = "float32",
    frozen_statistics: bool = False,
) -> nn.Module:
    """Choose what of a model is trained, and how.

    Args:
        network: a :class:`U2LLM`; changed in place.
        lora: arguments of `peft.LoraConfig`, such as `{"r": 16, "target_modules": ["q_proj", "v_proj"]}`: low-rank
            adapters in the language model, whose own weights are frozen; elsewhere none are put. None for no adapters.
        frozen: names of modules or parameters that aren't trained, or patterns of them as in file names, such as
            `model.vision_tower`, `model.language_model.layers.[0-7]` or `*.bias`. Modules stay in evaluation mode, so
            that batch normalization keeps its statistics too.
        activation_checkpointing: compute activations of vision tower, tokenizer and language model again in the
            backward pass, in place of holding them.
        frozen_precision: `"float32"`, or `"bfloat16"` to hold a language model of which adapters alone are trained in
            half the memory.
        frozen_statistics: whether batch normalization keeps its running statistics and uses them, in every part: as the
            reference of preference optimization does.

    Returns:
        The network.

    Raises:
        InputError: when `lora` holds no options of LoRA, a name or pattern fits nothing of the model or nothing of it
            is left to train, no layer of the language model has a name of `target_modules`, adapters couldn't be merged
            into the weights, or `frozen_precision` is unknown or more of the language model than adapters is trained.
    """
    if lora is not None:
        if not isinstance(lora, Mapping):
            raise InputError(f"lora is {lora!r}; expected options of peft.LoraConfig, such as {{'r': 16}}, or null.")
        _add_lora(network, dict(lora))
    for pattern in [frozen] if isinstance(frozen, str) else frozen or ():
        _freeze(network, pattern)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError(f"frozen {frozen!r} leaves nothing to train; leave a part of the model out of it.")
    if frozen_statistics:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.register_forward_pre_hook(_stay_in_evaluation_mode)
    if frozen_precision != "float32":
        _hold_frozen_in(network, frozen_precision)
    if activation_checkpointing:
        # transformers 5.23 gave it this name
        getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)()
    return network


def _freeze(network: nn.Module, pattern: str) -> None:
    modules = {name: module for name, module in network.named_modules() if name}
    parameters = dict(network.named_parameters(remove_duplicate=False))
    of_modules = [name for name in modules if fnmatchcase(name, pattern)]
    fitting = {name for name in parameters if fnmatchcase(name, pattern)}
    if not of_modules and not fitting:
        tops = [key for key in modules if key.count(".") == 1 and key.startswith("model.")]
        raise InputError(
            f"frozen {pattern!r} is no module or parameter of the model, nor a pattern of them; expected names such as "
            f"{', '.join(tops)}."
        )
    for name in of_modules:
        modules[name].register_forward_pre_hook(_stay_in_evaluation_mode)
        fitting |= {f"{name}.{inner}" for inner, _ in modules[name].named_parameters()}
    for name in fitting:
        if ".lora_" not in name:  # adapters are what is trained of a language model that is frozen
            parameters[name].requires_grad_(False)


def _hold_frozen_in(network: nn.Module, precision: str) -> None:
    if precision != "bfloat16":
        raise InputError(f"frozen_precision is {precision!r}; expected 'float32' or 'bfloat16'.")
    # the head is tied to the embedding, or a matrix of its own
    parts = [*network.get_submodule(LANGUAGE_MODEL).named_parameters(), *network.lm_head.named_parameters("lm_head")]
    if trained := [name for name, value in parts if value.requires_grad and ".lora_" not in name]:
        raise InputError(
            f"frozen_precision is 'bfloat16', but {trained[0]} of the language model is trained ({len(trained)} "
            "weights in all); expected adapters alone. Give lora, freeze model.language_model and lm_head, or take "
            "'float32'."
        )
    for name, value in parts:
        if ".lora_" not in name:
            value.data = value.data.bfloat16()


def _stay_in_evaluation_mode(module: nn.Module, inputs: Any) -> None:
    if module.training:
        for name, inner in module.named_modules():
            if "lora_dropout" not in name:  # adapters are trained
                # of a layer itself, the mode decides alone whether its activations are computed again
                inner.training = isinstance(inner, GradientCheckpointingLayer)


def _add_lora(network: nn.Module, options: dict[str, Any]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    refused = [name for name in _REFUSED if options.get(name)]
    if refused:
        raise InputError(
            f"lora: {', '.join(refused)} can't be merged into model.pt; expected low-rank adapters alone. Leave "
            f"{'it' if len(refused) == 1 else 'them'} out."
        )
    if unused := [name for name in _WITHOUT_EFFECT if options.get(name) is not None]:
        raise InputError(
            f"lora: {', '.join(unused)} would have no effect; expected target_modules, whose layers all get adapters. "
            f"Leave {'it' if len(unused) == 1 else 'them'} out."
        )
    if options.get("init_lora_weights", True) not in _INITIALIZATIONS:
        raise InputError(
            f"lora: init_lora_weights is {options['init_lora_weights']!r}; expected one of "
            f"{', '.join(map(repr, _INITIALIZATIONS))}, with which the model is at first what it was without adapters."
        )
    targets = options.get("target_modules") or ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"]
    names = [targets] if isinstance(targets, str) else list(targets)
    chosen = [
        name
        for name, module in network.get_submodule(LANGUAGE_MODEL).named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in names
    ]
    missing = [name for name in names if name not in {key.split(".")[-1] for key in chosen}]
    if not chosen or (missing and options.get("target_modules")):
        linear = {
            name.split(".")[-1]
            for name, module in network.get_submodule(LANGUAGE_MODEL).named_modules()
            if isinstance(module, nn.Linear)
        }
        raise InputError(
            f"lora: no layer of the language model is called {', '.join(missing)}; its linear layers are "
            f"{', '.join(sorted(linear))}. Name some of them as target_modules."
        )
    others = [parameter for name, parameter in network.named_parameters() if not name.startswith(LANGUAGE_MODEL)]
    trained = [parameter for parameter in others if parameter.requires_grad]
    try:
        config = LoraConfig(**{**options, "target_modules": [f"{LANGUAGE_MODEL}.{name}" for name in chosen]})
    except (TypeError, ValueError) as error:
        raise InputError(f"lora {options}: {error}; expected options of peft.LoraConfig.") from error
    inject_adapter_in_model(config, network)  # freezes all but the adapters
    for parameter in trained:
        parameter.requires_grad_(True)
    network.get_output_embeddings().weight.requires_grad_(False)
    for name, parameter in network.named_parameters():
        if ".lora_" in name:  # small steps round away in half precision
            parameter.data = parameter.data.float()
    network.train(network.training)


@contextmanager
def without_adapters(network: nn.Module) -> Iterator[None]:
    """The model as it was before its LoRA adapters were trained, for the reference of preference optimization.

    Args:
        network: a :class:`U2LLM` of whose parameters the adapters alone are trained.

    Raises:
        ValueError: when it has no adapters, or trains more: without adapters it wouldn't be the model that it was.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        raise ValueError("the model has no LoRA adapters to leave out; give it some, or a reference of its own.")
    trained = [name for name, value in network.named_parameters() if value.requires_grad and ".lora_" not in name]
    if trained:
        raise ValueError(
            f"beside LoRA adapters {', '.join(trained[:3])} are trained ({len(trained)} in all), so that the model "
            "without adapters isn't what it was; freeze them, or give it a reference of its own."
        )
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


class MergedWeights:
    """State dict of a model with its LoRA adapters added to the weights, under the names of a model without adapters.

    So `model.pt` loads where no adapters are known; the model itself stays as it is.

    Args:
        network: a :class:`U2LLM`, also one that is distributed over processes; each of them has to ask for the weights.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @torch.no_grad()
    def state_dict(self) -> dict[str, torch.Tensor]:
        """The merged weights; the model's own tensors where it has no adapters."""
        network, state = unwrapped(self.network), full_state(self.network)
        if not getattr(network, "peft_config", None):
            return state
        from peft.tuners.lora import LoraLayer

        merged = {
            f"{name}.weight": whole_tensor(
                # in float32: small changes of a weight round away in half precision
                module.base_layer.weight.float() + module.get_delta_weight(module.active_adapters[0]).float()
            )
            for name, module in network.named_modules()
            if isinstance(module, LoraLayer)
        }
        state = {key: value for key, value in state.items() if ".lora_" not in key}
        return {key.replace(".base_layer.", "."): value for key, value in state.items()} | merged
