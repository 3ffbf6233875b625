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

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Decollated, Flip

from monai_u2.data import collate_reports


def case(slabs: int, lengths: list[int], **more: object) -> dict[str, object]:
    return {
        "image": torch.full((slabs, 2, 3, 4), float(slabs)),
        "input_ids": [torch.arange(1, n + 1) for n in lengths],
        "question_ids": [torch.arange(1, n) for n in lengths],
        "labels": [torch.arange(1, n + 1) for n in lengths],
        "findings": torch.tensor([1.0, 0.0]),
        **more,
    }


def test_slabs_and_texts_are_padded_and_masked() -> None:
    batch = collate_reports([case(1, [3, 5]), case(3, [4])])
    assert batch["image"].shape == (2, 3, 2, 3, 4)
    assert batch["slab_mask"].tolist() == [[True, False, False], [True, True, True]]
    assert batch["image"][0, 1:].abs().sum() == 0
    assert batch["image_index"].tolist() == [0, 0, 1]
    assert batch["input_ids"].tolist() == [[0, 0, 1, 2, 3], [1, 2, 3, 4, 5], [0, 1, 2, 3, 4]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1] * 5, [0, 1, 1, 1, 1]]
    assert batch["labels"][0].tolist() == [-100, -100, 1, 2, 3]
    assert batch["question_mask"].tolist() == [[False, False, True, True], [True] * 4, [False, True, True, True]]
    assert batch["findings"].shape == (2, 2)


def test_structured_values_survive_decollating() -> None:
    info = {"shape": [1, 2, 3], "warnings": ["short", "thin"], "scope": {}}
    batch = collate_reports(
        [case(1, [3], info=info, question="a"), case(2, [4], info={**info, "warnings": []}, question="b")]
    )
    cases = Decollated(keys=None)(batch)
    assert [json.loads(c["info"])["warnings"] for c in cases] == [["short", "thin"], []]
    assert [c["question"] for c in cases] == ["a", "b"]


def test_images_keep_their_geometry_and_trace() -> None:
    cases = [case(slabs, [3]) for slabs in (1, 3)]
    for i, entry in enumerate(cases):
        entry["image"] = Flip(0)(MetaTensor(entry["image"], affine=torch.diag(torch.tensor([2.0, 3.0, 4.0 + i, 1.0]))))
    separate = Decollated(keys=None)(collate_reports(cases))
    for entry, before in zip(separate, cases):
        assert torch.equal(entry["image"].affine, before["image"].affine)
        assert entry["image"].applied_operations == before["image"].applied_operations != []


def test_differing_keys_are_named() -> None:
    with pytest.raises(ValueError, match=r"differ in their keys: \['patch_findings'\]"):
        collate_reports([case(1, [3]), case(1, [3], patch_findings=torch.zeros(1, 4, 2))])
