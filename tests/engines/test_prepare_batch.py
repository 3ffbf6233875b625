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

import torch
from monai.data import MetaTensor

from monai_u2.engines import PrepareReportBatch


def test_splits_network_arguments_from_targets() -> None:
    batch = {
        "image": torch.rand(1, 2, 3, 4, 5),
        "input_ids": torch.ones(1, 3),
        "labels": torch.ones(1, 3),
        "slab_mask": torch.ones(1, 2, dtype=torch.bool),
        "image_index": torch.zeros(1, dtype=torch.long),
        "question": ["What?"],
    }
    image, targets, args, kwargs = PrepareReportBatch()(batch, device="cpu")
    assert image is batch["image"]
    assert set(targets) == {"labels", "slab_mask", "image_index"}
    assert args == ()
    assert set(kwargs) == {"input_ids", "slab_mask", "image_index"}


def test_geometry_is_kept_where_it_is_asked_for() -> None:
    batch = {"image": MetaTensor(torch.rand(1, 2, 3, 4, 5), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))}
    plain, tracked = (PrepareReportBatch(track_meta=track)(batch, device="cpu")[0] for track in (False, True))
    assert not isinstance(plain, MetaTensor)
    assert torch.equal(tracked.affine, batch["image"].affine)
