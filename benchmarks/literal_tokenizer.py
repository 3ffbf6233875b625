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

"""The published tokenizer written out from its equations, one line for each: the baseline of `tokenizer.py`.

It takes the parameters of :class:`monai_u2.networks.PaperU2Tokenizer` (relative positions, DTS, DMTP).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

State = Mapping[str, torch.Tensor]


def linear(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """`x W^T + b`."""
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attention(
    state: State, name: str, query: torch.Tensor, context: torch.Tensor, heads: int, values: torch.Tensor | None = None
) -> torch.Tensor:
    """`softmax(q k^T / sqrt(d) + R) v` with all its matrices, for each head; `values` in place of v where given."""

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

    q, k = split(linear(state, f"{name}.wq", query)), split(linear(state, f"{name}.wk", context))
    v = split(linear(state, f"{name}.wv", context) if values is None else values)
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if f"{name}.relative_bias" in state:
        table = state[f"{name}.relative_bias"]
        place = torch.arange(query.shape[1])
        logits = logits + table[place[None, :] - place[:, None] + (len(table) - 1) // 2].permute(2, 0, 1)
    weights = torch.softmax(logits, dim=-1)
    attended = (weights @ v).transpose(1, 2).reshape(query.shape)
    return attended if values is not None else linear(state, f"{name}.dense", attended)


def literal_tokenizer(
    state: State, tokens: torch.Tensor, text: torch.Tensor, heads: int, num_layers: int
) -> torch.Tensor:
    """Visual tokens `(B, T, N, C)` and the question `(B, L, C)` to `(B, Q, C)`."""
    batch, slabs, count, channels = tokens.shape
    x = tokens
    for i in range(num_layers):
        layer = f"svt_module.attention_network.layers.{i}"
        flat = x.reshape(batch * slabs, count, channels)
        x = attention(state, f"{layer}.spatial_attention", flat, flat, heads).reshape(batch, slabs, count, channels)
        flat = x.transpose(1, 2).reshape(batch * count, slabs, channels)
        x = attention(state, f"{layer}.temporal_attention", flat, flat, heads)
        x = x.reshape(batch, count, slabs, channels).transpose(1, 2)
    x = x.reshape(batch, slabs * count, channels)

    scores = linear(state, "svt_module.token_selection.score_net", x)
    selected = []
    for r in range(scores.shape[2]):  # z_r = sum_i softmax_i(s_ir) x_i
        weights = torch.softmax(scores[:, :, r], dim=1)
        selected.append((weights[:, :, None] * x).sum(dim=1))
    z = torch.stack(selected, dim=1)

    pooled = [F.avg_pool1d(z.transpose(1, 2), s, s).transpose(1, 2) for s in (1, 2, 4) if z.shape[1] >= s]
    gates = [linear(state, "svt_module.dynamic_pool.gate_fc", p.mean(dim=1)) for p in pooled]
    omega = torch.softmax(torch.cat(gates, dim=1), dim=1)
    visual = torch.cat([omega[:, i, None, None] * p for i, p in enumerate(pooled)], dim=1)

    queries = state["query_tokens"].expand(batch, -1, -1)
    for i in range(num_layers):
        layer = f"tta_module.layers_vt.{i}"

        def norm(name: str, value: torch.Tensor, layer: str = layer) -> torch.Tensor:
            return F.layer_norm(value, (channels,), state[f"{layer}.{name}.weight"], state[f"{layer}.{name}.bias"])

        queries = norm("norm_self", queries + attention(state, f"{layer}.self_attention", queries, queries, heads))
        seen = attention(state, f"{layer}.visual_cross_attention", queries, visual, heads)
        queries = norm("norm_cross_v", queries + seen)
        asked = attention(state, f"{layer}.text_cross_attention", queries, text, heads)
        queries = norm("norm_cross_t", queries + asked)
    return attention(state, "tta_module.layer_linagg.linear_aggregator", queries, visual, heads, values=visual)
