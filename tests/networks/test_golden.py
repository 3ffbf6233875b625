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

"""The published function against tensors of the official implementation (see tests/golden/manifest.json).

Not compared are the attention maps that the official modules return beside their output: ours are never held.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from safetensors.torch import load_file

from monai_u2.networks import SpatialPoolingProjector, ViT3D
from monai_u2.networks.paper_attention import PaperAttention
from monai_u2.networks.paper_token_selection import (
    DifferentiableTokenSelection,
    GatedMultiScalePooling,
    MultiScalePooling,
    NoPooling,
    PooledTokens,
    TokenSelection,
)
from monai_u2.networks.paper_u2_tokenizer import (
    LinearAggregation,
    PaperU2Tokenizer,
    SpatioTemporalAttention,
    TextConditionedLayer,
)

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "manifest.json").read_text())["cases"]
POSITIONS = {"rma": "relative", "rope": "rotary", "mha": None}
# the official aggregation holds these and doesn't use them
UNUSED = tuple(f"linear_aggregator.{layer}.{kind}" for layer in ("wv", "dense") for kind in ("weight", "bias"))

Run = Callable[..., dict[str, torch.Tensor]]


def attention(case: dict[str, Any]) -> tuple[nn.Module, Run]:
    options = case["ctor"]
    position = {"RelativeMultiheadAttention": "relative", "RotaryMultiheadAttention": "rotary"}.get(
        case["reference_class"]
    )
    module = PaperAttention(options["d_model"], options["num_heads"], position, options.get("max_seq_len", 512))

    def run(
        query: torch.Tensor, key: torch.Tensor | None = None, value: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        value = query if value is None else value
        key = value if key is None else key
        if "forward" in options:  # is_compress: values as they are
            return {"y": module.attend(module.wq(query), module.wk(key), value)}
        return {"y": module.dense(module.attend(module.wq(query), module.wk(key), module.wv(value)))}

    return module, run


def refiner(case: dict[str, Any]) -> tuple[nn.Module, Run]:
    options = case["ctor"]
    count = options.get("num_layers", 1)
    position = POSITIONS[options["attn_type"]]
    layers = [SpatioTemporalAttention(options["embed_size"], options["num_heads"], position) for _ in range(count)]
    stack = nn.Sequential(*layers)
    module = nn.ModuleDict({"layers": stack}) if "num_layers" in options else layers[0]
    return module, lambda x: {"y": stack(x)}


def selection(case: dict[str, Any]) -> tuple[nn.Module, Run]:
    options = case["ctor"]
    if case["reference_class"] == "TokenSelection":
        module: nn.Module = TokenSelection(options["embed_size"], options["top_k"])
    else:
        module = DifferentiableTokenSelection(options["embed_size"], options["top_k"], options["tau"])
    return module, lambda x: {"y": module(x.flatten(1, 2))}


def pooling(case: dict[str, Any]) -> tuple[nn.Module, Run]:
    gated = "embed_size" in case["ctor"]
    module = GatedMultiScalePooling(case["ctor"]["embed_size"]) if gated else MultiScalePooling()
    return module, lambda x: {"y": module(x)}


def aggregation(case: dict[str, Any]) -> tuple[nn.Module, Run]:
    module = LinearAggregation(case["ctor"]["d_model"], case["ctor"]["num_heads"])
    return nn.ModuleDict({"linear_aggregator": module}), lambda query, value: {
        "y": module(query, PooledTokens(value, NoPooling()))
    }


def aggregator(case: dict[str, Any]) -> tuple[nn.Module, Run]:
    options = case["ctor"]
    count = options.get("num_layers", 1)
    sizes = (options["d_model"], options["num_heads"], POSITIONS[options["attn_type"]])
    layers = nn.ModuleList(TextConditionedLayer(*sizes) for _ in range(count))
    whole = "num_layers" in options
    final = LinearAggregation(*sizes[:2])
    module: nn.Module = layers[0]
    if whole:
        module = nn.ModuleDict({"layers_vt": layers, "layer_linagg": nn.ModuleDict({"linear_aggregator": final})})

    def run(query: torch.Tensor, visual: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = PooledTokens(visual, NoPooling())
        for layer in layers:
            query = layer(query, tokens, text)
        return {"y": final(query, tokens) if whole else query}

    return module, run


def tokenizer(case: dict[str, Any]) -> tuple[nn.Module, Run]:
    options = case["ctor"]
    module = PaperU2Tokenizer(
        options["embed_size"],
        options["num_heads"],
        options["num_layers"],
        options["top_k"],
        options["num_3d_query_token"],
        position=POSITIONS[options["attn_type"]],
        selection="soft" if options["enable_diffts"] else "topk",
        pooling=("dynamic" if options["enable_dmtp"] else "multi") if options["use_multi_scale"] else None,
    )

    def run(v_token: torch.Tensor, t_token: torch.Tensor) -> dict[str, torch.Tensor]:
        selected = module.condense(v_token)
        refined = module.svt_module["dynamic_pool"](selected)
        return {"y": module.aggregate(selected, t_token), "refined": refined}

    return module, run


def projector(case: dict[str, Any]) -> tuple[nn.Module, Run]:
    options = case["ctor"]
    module = SpatialPoolingProjector(
        [size // patch for size, patch in zip(options["image_size"], options["patch_size"])],
        options["in_dim"],
        options["out_dim"],
        pooling_size=options["pooling_size"],
        pooling_type=options["pooling_type"],
        layer_type=options["layer_type"],
        num_layers=options["layer_num"],
        drop_remainder=True,
    )
    return module, lambda x: {"y": module(x)}


def vision(case: dict[str, Any]) -> tuple[nn.Module, Run]:
    options = case["ctor"]
    kept = ("patch_size", "hidden_size", "mlp_dim", "num_layers", "num_heads")
    module = ViT3D(image_size=options["img_size"], **{key: options[key] for key in kept})
    held: dict[str, torch.Tensor] = {}
    module.norm.register_forward_hook(lambda layer, inputs, output: held.update(y=output))
    for i, block in enumerate(module.blocks):
        block.register_forward_hook(
            lambda layer, inputs, output, name=f"hidden_states.{i}": held.update({name: output})
        )

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        patches = module(images)
        return {**held, "y": patches} if options.get("vision_select_feature") == "patch" else dict(held)

    return module, run


BUILDERS: dict[str, Callable[[dict[str, Any]], tuple[nn.Module, Run]]] = {
    "RelativeMultiheadAttention": attention,
    "RotaryMultiheadAttention": attention,
    "MultiHeadCrossAttention": attention,
    "SpatioTemporalAttentionLayer": refiner,
    "SpatioTemporalSignificanceScoring": refiner,
    "TokenSelection": selection,
    "DifferentiableTokenSelection": selection,
    "DynamicMultiScalePooling": pooling,
    "inline code of SpatioTemporalVisualTokenRefinerModel.forward": pooling,
    "LinearAggregation": aggregation,
    "TextConditionTokenAttMap": aggregator,
    "TextConditionTokenAggregatorModel": aggregator,
    "u2Tokenizer": tokenizer,
    "SpatialPoolingProjector": projector,
    "ViT": vision,
    "ViT3DTower (inner ViT with small dims)": vision,
}


def tensors(golden: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}


def test_every_case_is_compared() -> None:
    elsewhere = {"u2Transform(data_type='validation').adaptive_resize", "u2LlamaForCausalLM (transformers 4.52.4)"}
    assert {case["reference_class"] for case in CASES.values()} == set(BUILDERS) | elsewhere
    assert {path.stem for path in GOLDEN.glob("*.safetensors")} == set(CASES)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["reference_class"] in BUILDERS])
def test_computes_what_the_official_code_does(name: str) -> None:
    """Outputs and gradients to 20 times the official code's own float32 noise, or 1e-4 relative."""
    case, golden = CASES[name], load_file(GOLDEN / f"{name}.safetensors")
    module, run = BUILDERS[case["reference_class"]](case)
    state = {
        key.removeprefix("vision_tower."): value
        for key, value in tensors(golden, "state.").items()
        if not key.endswith(UNUSED)
    }
    module.load_state_dict(state)
    inputs = {key: value.requires_grad_() for key, value in tensors(golden, "input.").items()}
    outputs = run(**inputs)
    expected = {key: value for key, value in tensors(golden, "output.").items() if "attn" not in key}
    assert outputs.keys() >= expected.keys() >= {"y"}

    def compare(key: str, found: torch.Tensor, value: torch.Tensor) -> None:
        tolerance = 20 * max(case["noise"].get(key, 0.0), 1e-9)
        torch.testing.assert_close(found, value, rtol=1e-4, atol=tolerance, msg=lambda text: f"{key}: {text}")

    for key, value in expected.items():
        compare(f"output.{key}", outputs[key], value)
    outputs["y"].square().mean().backward()
    compare("loss", outputs["y"].square().mean().detach().reshape(1), golden["loss"].reshape(1))
    for key, value in tensors(golden, "grad.input.").items():
        compare(f"grad.input.{key}", inputs[key].grad, value)
    parameters = {f"vision_tower.{key}": value for key, value in module.named_parameters()}
    parameters |= dict(module.named_parameters())
    for key, value in tensors(golden, "grad.state.").items():
        compare(f"grad.state.{key}", parameters[key].grad, value)
