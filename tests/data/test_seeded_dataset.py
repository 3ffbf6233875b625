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
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, RandGaussianNoised, RandShiftIntensityd

from monai_u2.data import ResumableBatchSampler, SeededDataset

STEPS = [RandShiftIntensityd("image", offsets=1.0, prob=0.5), RandGaussianNoised("image", prob=1.0)]


def cases() -> SeededDataset:
    return SeededDataset(Dataset([{"image": torch.full((1, 4), float(i))} for i in range(7)], Compose(STEPS)), seed=3)


def test_a_case_is_the_same_whatever_was_loaded_before() -> None:
    dataset = cases()
    first = dataset[2, 5]["image"]
    assert not torch.equal(dataset[2, 4]["image"] - 4, first - 5)  # each case has draws of its own
    assert not torch.equal(dataset[3, 5]["image"], first)  # and each epoch
    again = dataset[2, 5]
    assert torch.equal(again["image"], first) and again["case_index"] == 5


def test_number_of_workers_and_start_do_not_matter() -> None:
    def epoch(num_workers: int, first_batch: int) -> list[torch.Tensor]:
        sampler = ResumableBatchSampler(7, 2, seed=1)
        sampler.set_epoch(1, first_batch)
        return [batch["image"] for batch in DataLoader(cases(), batch_sampler=sampler, num_workers=num_workers)]

    whole = epoch(0, 0)
    assert len(whole) == 3
    for images in (epoch(2, 0), [whole[0], *epoch(0, 1)], [*whole[:2], *epoch(2, 2)]):
        assert torch.equal(torch.stack(images), torch.stack(whole))
