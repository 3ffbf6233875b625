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

"""Files of weights: whole models, and the vision checkpoints of the vision pre-training and of M3D-CLIP."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from monai_u2.exceptions import InputError

logger = logging.getLogger(__name__)

# prefixes of the vision tower in M3D-CLIP and in our own models
_TOWER_PREFIXES = ("vision_encoder.", "vision_tower.")
_OTHER_PARTS = ("language_encoder.", "mm_vision_proj.", "mm_language_proj.", "logit_scale")
_NAMED = 5  # keys that an error names
_VISION = "vision checkpoint"
_VISION_MISSING = (
    "train one with configs/pretrain.json, or set vision_checkpoint to null to start from a random vision tower"
)
_VISION_SIZES = "Give the model the sizes (vision, finding_labels) of the checkpoint, or another checkpoint"


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, by which a model file is told from others.

    Raises:
        InputError: when the file isn't there.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"model file {path} does not exist; train one with configs/sft.json, or give another path.")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_model_weights(network: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load a whole model's weights, such as those that `sft.json` writes.

    Args:
        network: a model.
        path: a `.pt`, `.pth`, `.bin` (loaded with `weights_only`) or `.safetensors` file.

    Returns:
        The network.

    Raises:
        InputError: when the file isn't there or isn't such a file, or its keys or shapes don't fit the model.
    """
    path = Path(path)
    state = _read(path, "model file", "train one with configs/sft.json, or give another path")
    _load(network, state, path, "model file", "weights", "Use the config that the model was trained with")
    return network


def load_vision_checkpoint(network: nn.Module, path: str | os.PathLike[str] | None) -> nn.Module:
    """Load a pre-trained vision tower, and its finding head where the file has one, into a model.

    Two kinds of file are known: what `pretrain.json` writes (`{"vision_tower": …, "finding_head": …}`), and a state
    dict whose vision tower has the keys of M3D-CLIP (`vision_encoder.blocks.0.…`; its text tower is left out).

    Args:
        network: a :class:`U2LLM`.
        path: a `.pt`, `.pth`, `.bin` (loaded with `weights_only`) or `.safetensors` file; None for no checkpoint.

    Returns:
        The network.

    Raises:
        InputError: when the file isn't there or isn't such a file, or its keys or shapes don't fit the model.
    """
    if path is None:
        return network
    path = Path(path)
    content = _read(path, _VISION, _VISION_MISSING)
    model = network.model
    if isinstance(content.get("vision_tower"), Mapping):
        parts = dict(content)
    else:
        parts = {"vision_tower": _tower_of_state_dict(content, path)}
    unknown = sorted(map(str, set(parts) - {"vision_tower", "finding_head"}))
    if unknown:
        raise InputError(f"vision checkpoint {path}: unknown parts {unknown}; expected vision_tower and finding_head.")
    _load(model.vision_tower, parts["vision_tower"], path, _VISION, "vision_tower", _VISION_SIZES)
    if "finding_head" in parts and model.finding_head is not None:
        _load(model.finding_head, parts["finding_head"], path, _VISION, "finding_head", _VISION_SIZES)
    logger.info("vision tower from %s (%s)", path.name, ", ".join(parts))
    return network


def _read(path: Path, what: str, way_out: str) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{what} {path} does not exist; {way_out}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{what} {path} can't be read ({type(error).__name__}); expected weights.") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{what} {path} holds a {type(content).__name__}; expected a dict of weights.")
    _check_weights(content, path, what)
    return dict(content)


def _check_weights(content: Mapping[str, Any], path: Path, what: str) -> None:
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            _check_weights(value, path, what)
        elif not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise InputError(f"{what} {path} holds a {type(value).__name__} as {key!r}; expected names and tensors.")
        elif value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{what} {path}: {key!r} has values that aren't finite.")


def _tower_of_state_dict(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    prefix = next((p for p in _TOWER_PREFIXES if any(key.startswith(p) for key in content)), "")
    rest = [key for key in content if not key.startswith((*_OTHER_PARTS, prefix))] if prefix else []
    if rest:
        raise InputError(f"vision checkpoint {path}: unknown keys {_named(rest)} beside {prefix}*.")
    tower = {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
    # MONAI's blocks hold this norm since 1.4 and use it for cross-attention alone, of which the tower has none
    return {key: value for key, value in tower.items() if ".norm_cross_attn." not in key}


def _load(module: nn.Module, state: Mapping[str, Any], path: Path, what: str, name: str, way_out: str) -> None:
    own = module.state_dict()
    shapes = [
        f"{key} {tuple(state[key].shape)}, the model's is {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = [
        f"{what} {_named(keys)}"
        for what, keys in (
            ("other shapes:", shapes),
            ("unknown keys", sorted(set(state) - set(own))),
            ("missing keys", sorted(set(own) - set(state))),
        )
        if keys
    ]
    if problems:
        raise InputError(f"{what} {path} doesn't fit the model's {name}: {'; '.join(problems)}. {way_out}.")
    module.load_state_dict(state)


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more
