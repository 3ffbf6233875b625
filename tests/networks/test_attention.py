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

from monai_u2.networks import MultiHeadAttention, RelativePositionBias


def test_masked_keys_change_nothing() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(32, 4)
    x, context = torch.randn(2, 3, 32), torch.randn(2, 6, 32)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    out = attention(x, context, key_mask=mask)
    torch.testing.assert_close(out[:1], attention(x[:1], context[:1, :4]))
    changed = context.clone()
    changed[0, 4:] += 100.0
    torch.testing.assert_close(out, attention(x, changed, key_mask=mask))
    assert not torch.allclose(out[:1], attention(x[:1], context[:1]))


def test_bias_and_mask_together_equal_explicit_softmax() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 2, qk_norm=False)
    x, bias = torch.randn(1, 5, 16), torch.randn(2, 5, 5)
    mask = torch.tensor([[True, True, False, True, True]])
    heads = [getattr(attention, name)(x).unflatten(-1, (2, 8)).transpose(1, 2) for name in ("query", "key", "value")]
    logits = heads[0] @ heads[1].transpose(-1, -2) / 8**0.5 + bias
    weights = logits.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    expected = attention.out((weights @ heads[2]).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, key_mask=mask, bias=bias), expected)


def test_heads_must_divide() -> None:
    with pytest.raises(ValueError, match="hidden_size 30 must be divisible by num_heads 4"):
        MultiHeadAttention(30, 4)


def test_bias_depends_on_offsets_alone_and_axes_add_up() -> None:
    torch.manual_seed(0)
    bias = RelativePositionBias(num_heads=3, num_axes=3)
    table = bias((2, 3, 4))
    assert table.shape == (3, 24, 24)

    def at(query: tuple[int, int, int], key: tuple[int, int, int]) -> torch.Tensor:
        return table[:, query[0] * 12 + query[1] * 4 + query[2], key[0] * 12 + key[1] * 4 + key[2]]

    torch.testing.assert_close(at((1, 2, 3), (0, 1, 1)), at((1, 1, 2), (0, 0, 0)))
    zero = at((0, 0, 0), (0, 0, 0))
    torch.testing.assert_close(
        at((1, 2, 3), (0, 0, 0)) + 2 * zero,
        at((1, 0, 0), (0, 0, 0)) + at((0, 2, 0), (0, 0, 0)) + at((0, 0, 3), (0, 0, 0)),
    )
    assert not torch.allclose(at((1, 0, 0), (0, 0, 0)), at((0, 0, 0), (1, 0, 0)))


def test_bias_of_a_larger_grid_holds_that_of_a_smaller() -> None:
    torch.manual_seed(0)
    bias = RelativePositionBias(num_heads=2, num_axes=1)
    torch.testing.assert_close(bias((9,))[:, :4, :4], bias((4,)))


def test_bias_refuses_another_number_of_axes() -> None:
    with pytest.raises(ValueError, match=r"grid \(2, 3\) must have 3 axes"):
        RelativePositionBias(2, 3)((2, 3))
