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

"""Configuration of an official μ²LLM folder, from its `config.json` and the shapes of its tensors."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from monai_u2.exceptions import InputError
from monai_u2.networks.u2llm_config import U2LLMConfig

BACKBONES = ("llama", "qwen3", "phi3")
DEFAULT_VISION_HEADS = 12  # M3D-CLIP's; tensors don't tell
DEFAULT_IMAGE_SIZE, DEFAULT_PATCH_SIZE = (32, 256, 256), (4, 16, 16)

# options of language models that newer releases of transformers keep under other names
_OLDER_TEXT_OPTIONS = ("rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings")
_NOT_TEXT_OPTIONS = {"model_type", "architectures", "auto_map", "transformers_version", "_name_or_path"}
_POSITION_OF_ATTENTION = {"rma": "relative", "rope": "rotary"}


def official_config(
    content: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], source: str | os.PathLike[str] = "config.json"
) -> U2LLMConfig:
    """Configuration of the model that an official folder holds.

    Args:
        content: of the official `config.json`.
        shapes: shape of each tensor; sizes that they tell are taken from them.
        source: what errors name.

    Raises:
        InputError: when `content` and `shapes` contradict each other, or it is another model.
    """
    text = _text_config(content, source)
    vision = _vision_options(content, shapes, source)
    projector = _projector_options(content, shapes, vision, source)
    return U2LLMConfig(
        text_config=text,
        vision=vision,
        projector=projector,
        u2_tokenizer=_tokenizer_options(content, shapes, vision, projector, source),
        image_token_id=text.vocab_size,
    )


def _text_config(content: Mapping[str, Any], source: str | os.PathLike[str]) -> PreTrainedConfig:
    kind = str(content.get("model_type", ""))
    backbone = next((name for name in BACKBONES if name in kind.lower().replace("-", "").replace("_", "")), None)
    if backbone is None:
        raise InputError(
            f"{source}: its model_type is {kind!r}; expected a μ²LLM on one of the backbones {', '.join(BACKBONES)}."
        )
    try:
        return _known_text_config(content, backbone)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise InputError(f"{source}: its config.json describes no {backbone} model: {error}") from error


def _known_text_config(content: Mapping[str, Any], backbone: str) -> PreTrainedConfig:
    known = {*AutoConfig.for_model(backbone).to_dict(), *_OLDER_TEXT_OPTIONS} - _NOT_TEXT_OPTIONS
    return AutoConfig.for_model(backbone, **{key: value for key, value in content.items() if key in known})


def _need(shapes: Mapping[str, tuple[int, ...]], name: str, source: str | os.PathLike[str]) -> tuple[int, ...]:
    if name not in shapes:
        raise InputError(f"{source}: has no tensor {name!r}; expected a μ²LLM model. Check the folder.")
    return shapes[name]


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})


def _vision_options(
    content: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], source: str | os.PathLike[str]
) -> dict[str, Any]:
    tower = "model.vision_tower.vision_tower."
    patch = _need(shapes, f"{tower}patch_embedding.patch_embeddings.1.weight", source)
    positions = _need(shapes, f"{tower}patch_embedding.position_embeddings", source)
    image_size = _sizes(content, "image_size", DEFAULT_IMAGE_SIZE, source)
    patch_size = _sizes(content, "patch_size", DEFAULT_PATCH_SIZE, source)
    grid = tuple(size // part for size, part in zip(image_size, patch_size))
    if math.prod(patch_size) != patch[1] or math.prod(grid) != positions[1]:
        raise InputError(
            f"{source}: image_size {image_size} and patch_size {patch_size} make {math.prod(grid)} patches of "
            f"{math.prod(patch_size)} voxels; its tensors hold {positions[1]} patches of {patch[1]}."
        )
    if image_size[0] > image_size[2]:
        raise InputError(
            f"{source}: image_size {image_size} has its depth last; expected (depth, height, width), such as "
            f"{DEFAULT_IMAGE_SIZE}. With the other order the official projector pools patches that aren't neighbours; "
            "correct config.json if the model was trained otherwise."
        )
    feature, layer = content.get("vision_select_feature", "patch"), content.get("vision_select_layer", -1)
    if feature != "patch" or layer != -1:
        raise InputError(
            f"{source}: vision_select_feature {feature!r} and vision_select_layer {layer}; expected 'patch' and -1, "
            "the others don't run in the official code."
        )
    return {
        "image_size": image_size,
        "patch_size": patch_size,
        "hidden_size": patch[0],
        "mlp_dim": _need(shapes, f"{tower}blocks.0.mlp.linear1.weight", source)[0],
        "num_layers": _count(shapes, f"{tower}blocks."),
        "num_heads": _number(content, "vision_num_heads", DEFAULT_VISION_HEADS, source),
    }


def _sizes(
    content: Mapping[str, Any], name: str, default: tuple[int, ...], source: str | os.PathLike[str]
) -> tuple[int, ...]:
    value = content.get(name, default)
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(type(n) is int and n > 0 for n in value):
        raise InputError(f"{source}: {name} is {value!r}; expected three positive numbers (depth, height, width).")
    return tuple(value)


def _number(content: Mapping[str, Any], name: str, default: int, source: str | os.PathLike[str]) -> int:
    value = content.get(name, default)
    if type(value) is not int or value < 1:
        raise InputError(f"{source}: {name} is {value!r}; expected a positive whole number.")
    return value


def _projector_options(
    content: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    vision: Mapping[str, Any],
    source: str | os.PathLike[str],
) -> dict[str, Any]:
    spp = [name for name in shapes if name.startswith("model.mm_projector.projector.") and name.endswith(".weight")]
    if not spp:
        return {"pooling_size": 1, "layer_type": "linear", "num_layers": 1}
    pool = _number(content, "proj_pooling_size", 2, source)
    grid = tuple(size // part for size, part in zip(vision["image_size"], vision["patch_size"]))
    if pool > min(grid):
        raise InputError(f"{source}: proj_pooling_size is {pool}; expected at most {min(grid)}, the grid is {grid}.")
    return {
        "pooling_size": pool,
        "pooling_type": content.get("proj_pooling_type", "spatial"),
        "layer_type": content.get("proj_layer_type", "mlp"),
        "num_layers": len(spp),
        "drop_remainder": True,
    }


def _tokenizer_options(
    content: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    vision: Mapping[str, Any],
    projector: Mapping[str, Any],
    source: str | os.PathLike[str],
) -> dict[str, Any]:
    prefix = "model.u2tokenizer."
    if not any(name.startswith(prefix) for name in shapes):
        if content.get("enable_u2tokenizer", True):
            raise InputError(
                f"{source}: has no tensors {prefix}*, but enable_u2tokenizer isn't false in its config.json."
            )
        pool = projector["pooling_size"]
        grid = [size // part for size, part in zip(vision["image_size"], vision["patch_size"])]
        count = (
            math.prod(grid) // pool**3
            if projector.get("pooling_type") == "sequence"
            else math.prod(size // pool for size in grid)
        )
        return {"type": "projected", "num_queries": count}
    attention = f"{prefix}tta_module.layers_vt.0.self_attention."
    bias = shapes.get(f"{attention}relative_bias")
    position = "relative" if bias else None if f"{attention}in_proj_weight" in shapes else "rotary"
    said = content.get("attn_type")
    said = _POSITION_OF_ATTENTION.get(said) if said is not None else content.get("enable_rpe", position)
    said = {True: "relative", False: None}.get(said, said) if isinstance(said, bool) else said
    if said != position:
        given = {key: content[key] for key in ("attn_type", "enable_rpe") if key in content}
        raise InputError(
            f"{source}: its config.json has {given}, position {said!r}; its tensors are of position {position!r}."
        )
    scores = _need(shapes, f"{prefix}svt_module.token_selection.score_net.weight", source)
    soft = content.get("enable_diffts", scores[0] > 1)
    if not soft and scores[0] != 1:
        raise InputError(
            f"{source}: enable_diffts is {soft}, but its score_net gives {scores[0]} scores a token; expected 1."
        )
    gated = f"{prefix}svt_module.dynamic_pool.gate_fc.weight" in shapes
    options = {key: content[key] for key in ("use_multi_scale", "enable_dmtp") if key in content}
    if gated != all(options.values()) and (gated or options.get("enable_dmtp")):
        raise InputError(f"{source}: its config.json has {options}; its tensors have {'a' if gated else 'no'} gate_fc.")
    heads = content.get("u2t_num_heads")
    if heads is None:
        if bias is None:
            raise InputError(f"{source}: config.json has no u2t_num_heads; expected it, tensors don't tell.")
        heads = bias[1]
    return {
        "type": "paper",
        "num_heads": heads,
        "num_layers": _count(shapes, f"{prefix}tta_module.layers_vt."),
        "num_selected": scores[0] if soft else content.get("u2t_top_k", 1024),
        "num_queries": _need(shapes, f"{prefix}query_tokens", source)[1],
        "position": position,
        "selection": "soft" if soft else "topk",
        "pooling": "dynamic" if gated else "multi" if content.get("use_multi_scale", True) else None,
        "max_length": (bias[0] + 1) // 2 if bias else 512,
    }
