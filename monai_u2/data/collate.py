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

"""Batches of cases with different numbers of slabs and questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.data.utils import collate_meta_tensor_fn

SLAB_KEYS = ("image", "patch_findings")
TEXT_PADDING = {"input_ids": 0, "question_ids": 0, "labels": -100}


def _left_padded(sequences: Sequence[torch.Tensor], value: int) -> torch.Tensor:
    length = max(len(sequence) for sequence in sequences)
    return torch.stack([F.pad(sequence, (length - len(sequence), 0), value=value) for sequence in sequences])


def collate_reports(batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collate cases to one batch.

    Slabs are padded with zeros to the longest case, with a boolean `slab_mask (B, T)`. Token ids of all questions
    follow each other, padded on the left, with `attention_mask (R, L)`, boolean `question_mask (R, Lq)` and
    `image_index (R,)`, the case of each question. Tensors and numbers are stacked, images with their geometry and the
    trace of their transforms; texts stay a list; what else there is (lists and dicts of plain values, which MONAI's
    decollating would take apart) travels as JSON text.

    Args:
        batch: one dict a case, `image (T, D, H, W)`.

    Raises:
        ValueError: when a key isn't in all cases.
    """
    keys = batch[0].keys()
    for case in batch[1:]:
        if case.keys() != keys:
            raise ValueError(f"cases of one batch differ in their keys: {sorted(map(str, case.keys() ^ keys))}.")
    out: dict[str, Any] = {}
    for key in keys:
        values = [case[key] for case in batch]
        if key in TEXT_PADDING:
            rows = [row for value in values for row in value]
            out[key] = _left_padded(rows, TEXT_PADDING[key])
            if key == "input_ids":
                lengths = torch.tensor([len(row) for row in rows])
                out["attention_mask"] = _left_mask(lengths, out[key].shape[1]).long()
                out["image_index"] = torch.repeat_interleave(torch.tensor([len(value) for value in values]))
            elif key == "question_ids":
                out["question_mask"] = _left_mask(torch.tensor([len(row) for row in rows]), out[key].shape[1])
        elif key in SLAB_KEYS:
            slabs = max(len(value) for value in values)
            padded = [F.pad(v, (0, 0) * (v.ndim - 1) + (0, slabs - len(v))) for v in map(torch.as_tensor, values)]
            whole = all(isinstance(value, MetaTensor) for value in padded)
            out[key] = collate_meta_tensor_fn(padded) if whole else torch.stack(padded)
            if key == "image":
                out["slab_mask"] = torch.arange(slabs)[None] < torch.tensor([len(value) for value in values])[:, None]
        elif isinstance(values[0], (torch.Tensor, np.ndarray, float, int)):
            out[key] = torch.stack([torch.as_tensor(value) for value in values])
        elif isinstance(values[0], str):
            out[key] = values
        else:
            out[key] = [json.dumps(value) for value in values]
    return out


def _left_mask(lengths: torch.Tensor, length: int) -> torch.Tensor:
    """Boolean `(R, length)`, True for the last `lengths` places of each row."""
    return torch.arange(length)[None] >= length - lengths[:, None]
