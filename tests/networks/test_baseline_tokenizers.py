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

import pytest
import torch
import torch.nn as nn

from monai_u2.networks import LinearTokens, QueryResampler

GRID = (2, 3, 4)


@pytest.fixture(params=["linear", "resampler"])
def tokenizer(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    if request.param == "linear":
        return LinearTokens(hidden_size=32, pooled_grid=(2, 1, 4))
    return QueryResampler(hidden_size=32, num_heads=4, num_layers=2, num_queries=8)


def test_shapes(tokenizer: nn.Module) -> None:
    tokens = torch.randn(2, 3, 24, 32)
    assert tokenizer.num_queries == 8
    assert tokenizer(tokens, torch.randn(2, 5, 32), GRID).shape == (2, 8, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_empty_slabs_change_nothing(tokenizer: nn.Module, dtype: torch.dtype) -> None:
    tokenizer = tokenizer.to(dtype)
    tokens = torch.randn(2, 3, 24, 32, dtype=dtype)
    padded = torch.cat([tokens, 100 * torch.randn(2, 2, 24, 32, dtype=dtype)], dim=1)
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    out = tokenizer(padded, None, GRID, mask)[:1]
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(out, tokenizer(tokens[:1], None, GRID), rtol=tolerance, atol=tolerance)


def test_question_is_not_used(tokenizer: nn.Module) -> None:
    tokens = torch.randn(1, 3, 24, 32)
    condensed = tokenizer.condense(tokens, GRID)
    assert torch.equal(tokenizer.aggregate(condensed, torch.randn(1, 5, 32), torch.ones(1, 5) > 0), condensed)


def test_signal_is_alive_at_initialization(tokenizer: nn.Module) -> None:
    tokens = torch.randn(2, 3, 24, 32)
    out = tokenizer(tokens, None, GRID)
    assert (out - out.mean(1, keepdim=True)).norm() / out.norm() > 0.3
    assert (tokenizer(tokens.flip(0), None, GRID) - out).norm() / out.norm() > 1e-2
    (out * torch.randn_like(out)).sum().backward()
    assert [name for name, parameter in tokenizer.named_parameters() if not parameter.grad.abs().max() > 0] == []


def test_linear_tokens_are_means_over_boxes_of_the_stacked_slabs() -> None:
    tokenizer = LinearTokens(hidden_size=4, pooled_grid=(3, 1, 2))
    tokenizer.norm = tokenizer.output = nn.Identity()
    tokens = torch.randn(1, 3, 24, 4)
    boxes = tokens.unflatten(2, GRID).unflatten(4, (2, 2))  # (B, T, d, h, 2, w / 2, C)
    expected = boxes.mean(dim=(2, 3, 5)).flatten(1, 2)
    torch.testing.assert_close(tokenizer.condense(tokens, GRID), expected)


def test_resampler_knows_slab_and_place() -> None:
    torch.manual_seed(0)
    tokenizer = QueryResampler(hidden_size=32, num_heads=4, num_layers=1, num_queries=4)
    tokens = torch.randn(1, 4, 24, 32)
    out = tokenizer.condense(tokens, GRID)
    grid = tokens.unflatten(2, GRID)  # (B, T, d, h, w, C)
    for axis in (1, 2, 3, 4):
        moved = tokenizer.condense(grid.roll(1, dims=axis).flatten(2, 4), GRID)
        assert (moved - out).abs().max() > 1e-3, axis


def test_bad_input_names_both_sides(tokenizer: nn.Module) -> None:
    tokens = torch.randn(2, 3, 24, 32)
    with pytest.raises(ValueError, match=r"grid \(2, 3, 5\) has 30 places for 24 tokens"):
        tokenizer.condense(tokens, (2, 3, 5))
    with pytest.raises(ValueError, match=r"slab_mask \(2, 4\) must be \(2, 3\)"):
        tokenizer.condense(tokens, GRID, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="volume 1 of the batch has no valid slab"):
        tokenizer.condense(tokens, GRID, torch.tensor([[True] * 3, [False] * 3]))
    with pytest.raises(ValueError, match=r"pooled_grid \(4, 0, 4\) must be three positive numbers"):
        LinearTokens(hidden_size=8, pooled_grid=(4, 0, 4))
