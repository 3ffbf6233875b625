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

from monai_u2.networks import U2Tokenizer

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


def test_padded_question_changes_nothing(tokenizer: U2Tokenizer) -> None:
    tokens, text = torch.randn(1, 2, 24, 32), torch.randn(1, 5, 32)
    padded = torch.cat([100 * torch.randn(1, 3, 32), text], dim=1)
    mask = torch.tensor([[False] * 3 + [True] * 5])
    torch.testing.assert_close(
        tokenizer(tokens, padded, GRID, text_mask=mask), tokenizer(tokens, text, GRID), rtol=1e-4, atol=1e-5
    )


def test_no_question_equals_a_fully_masked_one(tokenizer: U2Tokenizer) -> None:
    tokens = torch.randn(1, 2, 24, 32)
    masked = tokenizer(tokens, torch.randn(1, 4, 32), GRID, text_mask=torch.zeros(1, 4, dtype=torch.bool))
    torch.testing.assert_close(masked, tokenizer(tokens, None, GRID))


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
