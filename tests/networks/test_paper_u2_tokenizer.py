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
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from monai_u2.networks import PaperU2Tokenizer
from monai_u2.networks.paper_attention import PaperAttention

GOLDEN = Path(__file__).parents[1] / "golden" / "u2tok_full.safetensors"
# the official aggregation holds these and doesn't use them
UNUSED = {
    f"tta_module.layer_linagg.linear_aggregator.{layer}.{kind}"
    for layer in ("wv", "dense")
    for kind in ("weight", "bias")
}


def small(**options: Any) -> PaperU2Tokenizer:
    sizes = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "num_selected": 12, "num_queries": 4}
    return PaperU2Tokenizer(**{**sizes, **options})


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN)


@pytest.fixture
def official(golden: dict[str, torch.Tensor]) -> PaperU2Tokenizer:
    """With the randomized weights of the official module, under their official names."""
    tokenizer = PaperU2Tokenizer(hidden_size=32, num_heads=4, num_layers=2, num_selected=18, num_queries=8)
    state = {name.removeprefix("state."): value for name, value in golden.items() if name.startswith("state.")}
    loaded = tokenizer.load_state_dict(state, strict=False)
    assert loaded.missing_keys == [] and set(loaded.unexpected_keys) == UNUSED
    return tokenizer


def test_masks_are_ignored_as_published(golden: dict[str, torch.Tensor], official: PaperU2Tokenizer) -> None:
    visual, text = golden["input.v_token"], golden["input.t_token"]
    slab_mask = torch.tensor([[True, True, False]] * 2)
    text_mask = torch.tensor([[True] + [False] * 8] * 2)
    assert torch.equal(official(visual, text, (1, 3, 4), slab_mask, text_mask), official(visual, text))
    longer = torch.cat([text, torch.zeros(2, 3, 32)], dim=1)
    assert (official(visual, longer) - official(visual, text)).abs().max() > 1e-4


def test_without_positions_volumes_leak_into_each_other_as_published() -> None:
    torch.manual_seed(0)
    visual = torch.randn(2, 3, 6, 16)
    changed = torch.stack([visual[0], torch.randn(3, 6, 16)])
    for position, leaks in ((None, True), ("relative", False), ("rotary", False)):
        layer = small(position=position).svt_module["attention_network"]["layers"][0]
        assert bool((layer(changed)[0] - layer(visual)[0]).abs().max() > 1e-4) is leaks, position


def test_works_without_a_question(golden: dict[str, torch.Tensor], official: PaperU2Tokenizer) -> None:
    visual = golden["input.v_token"]
    out = official(visual, None)
    assert out.shape == (2, 8, 32) and out.isfinite().all()


@pytest.mark.parametrize(
    ("num_selected", "pooling", "expected"),
    [(3, "dynamic", 3 + 1), (13, "multi", 13 + 6 + 3), (16, "dynamic", 16 + 8 + 4), (16, None, 16)],
)
def test_number_of_visual_tokens(num_selected: int, pooling: str | None, expected: int) -> None:
    tokenizer = small(num_selected=num_selected, pooling=pooling)
    selected = tokenizer.condense(torch.randn(2, 3, 6, 16))
    assert selected.shape == (2, num_selected, 16)
    assert tokenizer.svt_module["dynamic_pool"](selected).shape == (2, expected, 16)


@pytest.mark.parametrize("position", ["relative", "rotary", None])
@pytest.mark.parametrize("selection", ["soft", "topk"])
@pytest.mark.parametrize("pooling", ["dynamic", "multi", None])
def test_all_combinations_run(position: str | None, selection: str, pooling: str | None) -> None:
    tokenizer = small(position=position, selection=selection, pooling=pooling)
    out = tokenizer(torch.randn(2, 3, 6, 16), torch.randn(2, 5, 16))
    assert out.shape == (2, 4, 16) and out.isfinite().all()


@pytest.mark.parametrize("position", ["relative", "rotary", None])
def test_compiles_without_graph_breaks_and_runs_in_bfloat16(position: str | None) -> None:
    torch.manual_seed(0)
    tokenizer = small(position=position).eval()
    visual, text = torch.randn(2, 3, 6, 16), torch.randn(2, 5, 16)
    with torch.no_grad():
        for module in (tokenizer, tokenizer.fold()):
            expected = module(visual, text)
            compiled = torch.compile(module, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(visual, text), expected, rtol=1e-4, atol=1e-5)
            half = module.bfloat16()(visual.bfloat16(), text.bfloat16())
            assert half.dtype == torch.bfloat16 and (half.float() - expected).abs().max() < 0.1
            tokenizer.float()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": "rope"}, "position 'rope' must be one of 'relative', 'rotary', None"),
        ({"selection": "hard"}, "selection 'hard' must be one of 'soft', 'topk'"),
        ({"pooling": "mean"}, "pooling 'mean' must be one of 'dynamic', 'multi', None"),
        ({"position": "rotary", "hidden_size": 6}, "rotary positions need heads of even width; 6 / 2 is odd"),
        ({"num_heads": 3}, "hidden_size 16 must be divisible by num_heads 3"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_top_k_of_fewer_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="num_selected 12 must be at most the number of tokens, 6"):
        small(selection="topk").condense(torch.randn(1, 1, 6, 16))


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
    with pytest.raises(ValueError, match="sequence of 5 tokens is longer than max_length 4"):
        PaperAttention(8, 2, "relative", max_length=4)(torch.zeros(1, 5, 8))
    with pytest.raises(ValueError, match="hidden_size 8 must be divisible by num_heads 3"):
        PaperAttention(8, 3)
