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

from typing import Any

import pytest
import torch

from monai_u2.networks import U2Tokenizer
from monai_u2.networks.token_masks import SlabPlaces
from monai_u2.networks.token_selection import TopKTokenSelection

GRID = (2, 3, 4)


@pytest.fixture
def tokenizer() -> U2Tokenizer:
    torch.manual_seed(0)
    return U2Tokenizer(hidden_size=32, num_heads=4, num_layers=2, num_selected=16, num_queries=8)


def test_shapes_and_number_of_selected_tokens(tokenizer: U2Tokenizer) -> None:
    tokens = torch.randn(2, 3, 24, 32)
    assert tokenizer.condense(tokens, GRID).shape == (2, 16 + 8 + 4, 32)
    assert tokenizer(tokens, torch.randn(2, 5, 32), GRID).shape == (2, 8, 32)


def test_empty_slabs_change_nothing(tokenizer: U2Tokenizer) -> None:
    tokens, text = torch.randn(1, 3, 24, 32), torch.randn(1, 5, 32)
    mask = torch.tensor([[True, True, True, False, False]])
    padded = torch.cat([tokens, 100 * torch.randn(1, 2, 24, 32)], dim=1)
    torch.testing.assert_close(tokenizer(padded, text, GRID, mask), tokenizer(tokens, text, GRID), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["relative_3d", "relative", "rotary", None])
@pytest.mark.parametrize("selection", ["soft", "topk"])
@pytest.mark.parametrize("pooling", ["dynamic", "multi", None])
def test_all_combinations_run_and_learn_and_ignore_empty_slabs(
    position: str | None, selection: str, pooling: str | None
) -> None:
    torch.manual_seed(0)
    options = {"position": position, "selection": selection, "pooling": pooling}
    tokenizer = U2Tokenizer(32, num_heads=4, num_layers=1, num_selected=60, num_queries=8, **options)
    tokens, text = torch.randn(2, 3, 24, 32), torch.randn(2, 5, 32)
    mask = torch.tensor([[True, False, True], [False, True, False]])  # 24 tokens for 60 places
    out = tokenizer(tokens, text, GRID, mask)
    assert out.shape == (2, 8, 32)
    more = torch.cat([tokens, 100 * torch.randn(2, 4, 24, 32)], dim=1)
    padded = torch.cat([mask, torch.zeros(2, 4, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(tokenizer(more, text, GRID, padded), out, rtol=1e-4, atol=1e-5)
    changed = tokens.clone()
    changed[0, 0, 3] = torch.randn(32)
    others = tokenizer(changed, text, GRID, mask)
    assert (others[0] - out[0]).abs().max() > 1e-4 and torch.equal(others[1], out[1])
    (out * torch.randn_like(out)).sum().backward()
    assert [name for name, parameter in tokenizer.named_parameters() if parameter.grad is None] == []
    scores = tokenizer.pooling.selections[0].score.weight.grad
    assert scores.abs().max() > 0  # top-k too: the weights of what was chosen learn


@pytest.mark.parametrize("position", ["relative_3d", "relative", "rotary", None])
def test_positions_tell_places_apart(position: str | None) -> None:
    torch.manual_seed(0)
    block = U2Tokenizer(32, num_heads=4, num_layers=1, num_selected=8, num_queries=4, position=position).refiner[0]
    mask = torch.ones(1, 2, dtype=torch.bool)
    x = torch.randn(2, 24, 32)
    moved = torch.cat([x[:, 1:], x[:, :1]], dim=1)
    out, of_moved = (block(tokens, GRID, SlabPlaces(mask)) for tokens in (x, moved))
    same = torch.allclose(torch.cat([out[:, 1:], out[:, :1]], dim=1), of_moved, atol=1e-5)
    assert same is (position is None)


def test_top_k_takes_the_highest_scores_in_their_order() -> None:
    torch.manual_seed(0)
    selection = TopKTokenSelection(8, num_selected=3)
    x, mask = torch.randn(1, 6, 8), torch.tensor([[True] * 5 + [False]])
    scores = selection.score(selection.norm(x))[0, :5, 0]
    chosen, weights = selection(x, mask)
    order = scores.argsort(descending=True)[:3]
    assert torch.equal(chosen[0], x[0, order])
    torch.testing.assert_close(weights[0, :, 0], scores[order].sigmoid())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": "rope"}, "position 'rope' must be one of 'relative_3d', 'relative', 'rotary', None"),
        ({"selection": "hard"}, "selection 'hard' must be one of 'soft', 'topk'"),
        ({"pooling": "mean"}, "pooling 'mean' must be one of 'dynamic', 'multi', None"),
        ({"position": "rotary", "num_heads": 32}, "rotary positions need heads of even width; 32 / 32 is odd"),
        ({"num_heads": 5}, "hidden_size 32 must be divisible by num_heads 5"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        U2Tokenizer(**{"hidden_size": 32, "num_heads": 4, **options})


@pytest.mark.parametrize("masked", [False, True])
def test_compiles_without_graph_breaks(masked: bool) -> None:
    torch.manual_seed(0)
    tokenizer = U2Tokenizer(32, num_heads=4, num_layers=1, num_selected=16, num_queries=8).eval()
    tokens, text = torch.randn(2, 3, 24, 32), torch.randn(2, 5, 32)
    mask = torch.tensor([[True, True, False], [True] * 3]) if masked else None
    compiled = torch.compile(tokenizer, fullgraph=True, backend="eager")
    with torch.no_grad():
        expected = tokenizer(tokens, text, GRID, mask)
        torch.testing.assert_close(compiled(tokens, text, GRID, mask), expected, rtol=1e-4, atol=1e-5)


def test_runs_in_bfloat16(tokenizer: U2Tokenizer) -> None:
    tokens, text = torch.randn(2, 3, 24, 32), torch.randn(2, 5, 32)
    mask = torch.tensor([[True, True, False], [True] * 3])
    expected = tokenizer(tokens, text, GRID, mask)
    half = tokenizer.bfloat16()(tokens.bfloat16(), text.bfloat16(), GRID, mask)
    assert half.dtype == torch.bfloat16 and (half.float() - expected).abs().max() < 0.1


def test_padded_question_changes_nothing(tokenizer: U2Tokenizer) -> None:
    tokens, text = torch.randn(1, 2, 24, 32), torch.randn(1, 5, 32)
    padded = torch.cat([100 * torch.randn(1, 3, 32), text], dim=1)
    mask = torch.tensor([[False] * 3 + [True] * 5])
    torch.testing.assert_close(
        tokenizer(tokens, padded, GRID, text_mask=mask), tokenizer(tokens, text, GRID), rtol=1e-4, atol=1e-5
    )


def test_works_without_a_question(tokenizer: U2Tokenizer) -> None:
    tokens = torch.randn(1, 2, 24, 32)
    without, asked = tokenizer(tokens, None, GRID), tokenizer(tokens, torch.randn(1, 4, 32), GRID)
    assert without.isfinite().all() and (without - asked).abs().max() > 1e-2


def test_signal_is_alive_at_initialization(tokenizer: U2Tokenizer) -> None:
    """The published tokenizer collapses here: equal outputs, no effect of the question, gradients 1e-7 of their
    size."""
    tokens, text = torch.randn(2, 3, 24, 32), torch.randn(2, 5, 32)
    out = tokenizer(tokens, text, GRID)
    spread = (out - out.mean(1, keepdim=True)).norm() / out.norm()
    assert spread > 0.3
    swapped = tokenizer(tokens, text.flip(0), GRID)
    assert (swapped - out).norm() / out.norm() > 1e-2
    other_image = tokenizer(tokens.flip(0), text, GRID)
    assert (other_image - out).norm() / out.norm() > 1e-2
    (out * torch.randn_like(out)).sum().backward()
    without = [name for name, parameter in tokenizer.named_parameters() if not parameter.grad.abs().max() > 0]
    # a key's bias moves all logits of a softmax alike, unless the key is normalized
    assert without == []


def test_bad_input_names_both_sides(tokenizer: U2Tokenizer) -> None:
    tokens = torch.randn(2, 3, 24, 32)
    with pytest.raises(ValueError, match=r"grid \(2, 3, 5\) has 30 places for 24 tokens"):
        tokenizer.condense(tokens, (2, 3, 5))
    with pytest.raises(ValueError, match=r"slab_mask \(2, 4\) must be \(2, 3\)"):
        tokenizer.condense(tokens, GRID, torch.ones(2, 4, dtype=torch.bool))
    mask = torch.tensor([[True] * 3, [False] * 3])
    with pytest.raises(ValueError, match="volume 1 of the batch has no valid slab"):
        tokenizer.condense(tokens, GRID, mask)
    text = torch.randn(2, 5, 32)
    with pytest.raises(ValueError, match=r"text_mask \(2, 4\) must be \(2, 5\)"):
        tokenizer(tokens, text, GRID, text_mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="question 1 of the batch has no token that isn't masked"):
        tokenizer(tokens, text, GRID, text_mask=torch.tensor([[True] * 5, [False] * 5]))
