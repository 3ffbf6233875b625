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

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from monai_u2.networks import PaperU2Tokenizer
from monai_u2.networks.paper_u2_tokenizer import PaperAttention

GOLDEN = Path(__file__).parents[1] / "golden" / "u2tok_full.safetensors"
# the official aggregation holds these and doesn't use them
UNUSED = {
    f"tta_module.layer_linagg.linear_aggregator.{layer}.{kind}"
    for layer in ("wv", "dense")
    for kind in ("weight", "bias")
}


def tensors(golden: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN)


@pytest.fixture
def official(golden: dict[str, torch.Tensor]) -> PaperU2Tokenizer:
    """With the randomized weights of the official module, under their official names."""
    tokenizer = PaperU2Tokenizer(hidden_size=32, num_heads=4, num_layers=2, num_selected=18, num_queries=8)
    loaded = tokenizer.load_state_dict(tensors(golden, "state."), strict=False)
    assert loaded.missing_keys == [] and set(loaded.unexpected_keys) == UNUSED
    return tokenizer


def test_computes_what_the_official_code_does(golden: dict[str, torch.Tensor], official: PaperU2Tokenizer) -> None:
    visual, text = (golden[f"input.{name}"].clone().requires_grad_() for name in ("v_token", "t_token"))
    refined = official.condense(visual)
    out = official.aggregate(refined, text)
    torch.testing.assert_close(refined, golden["output.refined"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out, golden["output.y"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(official(visual, text), out)

    out.square().mean().backward()
    torch.testing.assert_close(visual.grad, golden["grad.input.v_token"], rtol=1e-3, atol=2e-6)
    torch.testing.assert_close(text.grad, golden["grad.input.t_token"], rtol=1e-3, atol=2e-8)
    parameters = dict(official.named_parameters())
    for name, expected in tensors(golden, "grad.state.").items():
        tolerance = 1e-3 * expected.abs().max().item()
        torch.testing.assert_close(parameters[name].grad, expected, rtol=1e-3, atol=tolerance, msg=name)


def test_masks_are_ignored_as_published(golden: dict[str, torch.Tensor], official: PaperU2Tokenizer) -> None:
    visual, text = golden["input.v_token"], golden["input.t_token"]
    slab_mask = torch.tensor([[True, True, False]] * 2)
    text_mask = torch.zeros(2, 9, dtype=torch.bool)
    assert torch.equal(official(visual, text, (1, 3, 4), slab_mask, text_mask), official(visual, text))
    longer = torch.cat([text, torch.zeros(2, 3, 32)], dim=1)
    assert (official(visual, longer) - official(visual, text)).abs().max() > 1e-4


def test_works_without_a_question(golden: dict[str, torch.Tensor], official: PaperU2Tokenizer) -> None:
    visual = golden["input.v_token"]
    out = official(visual, None)
    assert out.shape == (2, 8, 32) and out.isfinite().all()


@pytest.mark.parametrize(("num_selected", "expected"), [(3, 3 + 1), (13, 13 + 6 + 3), (16, 16 + 8 + 4)])
def test_number_of_selected_tokens(num_selected: int, expected: int) -> None:
    tokenizer = PaperU2Tokenizer(hidden_size=16, num_heads=2, num_layers=1, num_selected=num_selected, num_queries=4)
    assert tokenizer.condense(torch.randn(2, 3, 6, 16)).shape == (2, expected, 16)


def test_starts_as_published() -> None:
    torch.manual_seed(0)
    tokenizer = PaperU2Tokenizer(hidden_size=64, num_heads=4, num_layers=1, num_selected=16, num_queries=32)
    assert tokenizer.query_tokens.std().item() == pytest.approx(0.02, rel=0.1)
    attention = tokenizer.tta_module["layers_vt"][0].self_attention
    bound = (6 / (64 + 64)) ** 0.5
    for linear in (attention.wq, attention.wk, attention.wv, attention.dense):
        assert 0.98 * bound < linear.weight.abs().max() <= bound
        assert not linear.bias.any()
    assert not attention.relative_bias.any()
    score = tokenizer.svt_module["token_selection"].score_net
    assert 0.98 / 8 < score.weight.abs().max() <= 1 / 8 and score.bias.any()  # U(±1 / sqrt(64))


def test_sequences_beyond_the_table_are_refused() -> None:
    with pytest.raises(ValueError, match="sequence of 5 tokens is longer than max_relative 4"):
        PaperAttention(8, 2, max_relative=4)(torch.zeros(1, 5, 8))
    with pytest.raises(ValueError, match="hidden_size 8 must be divisible by num_heads 3"):
        PaperAttention(8, 3)
