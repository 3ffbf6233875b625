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

from monai_u2.exceptions import InputError
from monai_u2.transforms import AppendFindingKinds, FindingsToVector, LesionMaskToPatches, ParseFindingsd
from monai_u2.transforms.findings import UNCERTAIN, finding_kinds


def test_patches_of_a_mask_are_in_raster_order() -> None:
    mask = torch.zeros(2, 8, 16, 24)
    mask[1, 5, 9, 23] = 3  # slab 1, patch (1, 1, 2) of a grid (2, 2, 3)
    mask[0, 1:5, 0, 0] = 1  # three voxels in patch (0, 0, 0), one in (1, 0, 0) of slab 0
    target = LesionMaskToPatches((4, 8, 8), num_findings=4)(mask)
    assert target.shape == (2, 12, 4)
    assert (target == 1).nonzero().tolist() == [[0, 0, 0], [1, 11, 2]]
    assert (target == UNCERTAIN).nonzero().tolist() == [[0, 6, 0]]


def test_mask_values_beyond_the_list_are_refused() -> None:
    with pytest.raises(InputError, match="value 9, but there are 4 findings"):
        LesionMaskToPatches((4, 8, 8), num_findings=4)(torch.full((1, 4, 8, 8), 9.0))


def test_vector_and_unknown_label() -> None:
    vector = FindingsToVector(["a", "b", "c"])
    assert vector(["c", "a"]).tolist() == [1.0, 0.0, 1.0]
    assert vector([]).sum() == 0
    with pytest.raises(InputError, match="finding 'd' is not in the list of 3"):
        vector(["d"])


def test_parsed_report() -> None:
    parse = ParseFindingsd(keys="report", parser=str.split, labels=["a", "b"])
    assert parse({"report": "b"})["report_findings"].tolist() == [0.0, 1.0]


def test_kinds_beside_places() -> None:
    append = AppendFindingKinds(["nodule, right", "nodule, left", "cyst"])
    assert finding_kinds(["nodule, right", "nodule, left", "cyst"]) == ["nodule", "cyst"]
    assert append(torch.tensor([0.0, 1.0, 0.0])).tolist() == [0, 1, 0, 1, 0]
    patches = torch.tensor([[255, 1, 0], [0, 255, 1], [0, 0, 0]], dtype=torch.uint8)
    assert append(patches)[:, 3:].tolist() == [[1, 0], [255, 1], [0, 0]]
    with pytest.raises(ValueError, match=r"target \(2,\) must have 3 findings"):
        append(torch.zeros(2))
