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

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from monai_u2.networks import U2LLM, PaperU2Tokenizer, U2LLMConfig

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {
    name: case
    for name, case in json.loads((GOLDEN / "manifest.json").read_text())["cases"].items()
    if case["reference_class"] == "u2Tokenizer"
}
POSITIONS = {"rma": "relative", "rope": "rotary", "mha": None}


def official(name: str) -> tuple[PaperU2Tokenizer, dict[str, torch.Tensor]]:
    """With the randomized weights of the official module; at its initialization all outputs would be about equal."""
    options, golden = CASES[name]["ctor"], load_file(GOLDEN / f"{name}.safetensors")
    sizes: dict[str, Any] = {key: options[key] for key in ("hidden_size", "num_heads", "num_layers")}
    module = PaperU2Tokenizer(
        **sizes,
        num_selected=options["top_k"],
        num_queries=options["num_3d_query_token"],
        position=POSITIONS[options["attn_type"]],
        selection="soft" if options["enable_diffts"] else "topk",
        pooling=("dynamic" if options["enable_dmtp"] else "multi") if options["use_multi_scale"] else None,
    )
    state = {name.removeprefix("state."): value for name, value in golden.items() if name.startswith("state.")}
    module.load_state_dict({key: value for key, value in state.items() if key in module.state_dict()})
    return module.eval(), golden


@pytest.mark.parametrize("name", CASES)
def test_folded_gives_the_same(name: str) -> None:
    module, golden = official(name)
    tokens, text = golden["input.v_token"], golden["input.t_token"]
    with torch.no_grad():
        torch.testing.assert_close(module.fold()(tokens, text), golden["output.y"], rtol=1e-3, atol=1e-4)
        module, tokens, text = module.double(), tokens.double(), text.double()
        folded = module.fold()
        for question in (text, None):
            torch.testing.assert_close(folded(tokens, question), module(tokens, question), rtol=1e-9, atol=1e-9)


def test_folded_leaves_the_tokenizer_alone_and_needs_no_gradient() -> None:
    module, _ = official("u2tok_full")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    folded = module.fold()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert folded.num_queries == module.num_queries


def test_without_layers() -> None:
    torch.manual_seed(0)
    module = PaperU2Tokenizer(32, 4, num_layers=0, num_selected=8, num_queries=6)
    tokens, text = torch.randn(1, 2, 10, 32), torch.randn(1, 3, 32)
    torch.testing.assert_close(module.fold()(tokens, text), module(tokens, text), rtol=1e-4, atol=1e-5)


def test_model_with_a_folded_tokenizer_answers_alike_and_is_not_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = U2LLMConfig(
        text_config={"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
        | {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 50},
        vision={"image_size": (8, 16, 16), "patch_size": (4, 8, 8), "hidden_size": 24, "mlp_dim": 48}
        | {"num_layers": 1, "num_heads": 4},
        projector={"pooling_size": 1},
        u2_tokenizer={"type": "paper", "num_heads": 4, "num_layers": 1, "num_selected": 8, "num_queries": 4},
        image_token_id=50,
    )
    model, image = U2LLM(config).eval(), torch.rand(2, 2, 8, 16, 16)
    with torch.no_grad():
        expected = model(image)
        model.model.u2_tokenizer = model.model.u2_tokenizer.fold()
        torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="folded for inference and couldn't be loaded again"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
