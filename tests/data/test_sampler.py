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

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from monai_u2.data import ResumableBatchSampler
from monai_u2.exceptions import InputError


def test_each_epoch_has_every_case_at_most_once_in_a_new_order() -> None:
    sampler = ResumableBatchSampler(num_cases=11, batch_size=3, seed=5)
    epochs = []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert [len(batch) for batch in batches] == [3, 3, 3] and len(sampler) == 3
        assert {key[0] for batch in batches for key in batch} == {epoch}
        epochs.append([index for batch in batches for _, index in batch])
        assert len(set(epochs[-1])) == 9 and set(epochs[-1]) <= set(range(11))
    assert epochs[0] != epochs[1]
    assert not np.array_equal(ResumableBatchSampler(11, 3, seed=6).batches(1).ravel(), epochs[0])


def test_an_epoch_goes_on_from_any_batch() -> None:
    sampler = ResumableBatchSampler(11, 3, seed=5)
    sampler.set_epoch(4)
    whole = list(sampler)
    sampler.set_epoch(4, first_batch=2)
    assert list(sampler) == whole[2:] and len(sampler) == 3


def test_cases_of_similar_length_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 211)
    grouped = ResumableBatchSampler(211, 4, seed=1, lengths=lengths.tolist())
    plain = ResumableBatchSampler(211, 4, seed=1)

    def padding(batches: np.ndarray) -> int:
        of_batches = lengths[batches]
        return int((of_batches.max(axis=1, keepdims=True) - of_batches).sum())

    assert grouped.batches(1).shape == plain.batches(1).shape == (52, 4)
    assert set(grouped.batches(1).ravel()) == set(plain.batches(1).ravel())
    assert padding(grouped.batches(1)) < 0.2 * padding(plain.batches(1))
    assert {frozenset(batch) for batch in grouped.batches(1)}.isdisjoint(map(frozenset, grouped.batches(2)))
    longest = lengths[grouped.batches(1)].max(axis=1)
    assert abs(np.corrcoef(np.arange(52), longest)[0, 1]) < 0.4  # in a shuffled order


def test_batches_of_other_settings_are_refused() -> None:
    state = ResumableBatchSampler(11, 3, seed=5).state_dict()
    ResumableBatchSampler(11, 3, seed=5).load_state_dict(state)
    with pytest.raises(InputError, match="num_cases is 12, that of the training to resume was 11"):
        ResumableBatchSampler(12, 3, seed=5).load_state_dict(state)
    with pytest.raises(InputError, match="batch_size is 4, the data has 3 cases"):
        ResumableBatchSampler(3, 4, seed=5)


def shared() -> list[list[tuple[int, int]]]:
    return list(ResumableBatchSampler(13, 6, seed=5))


def uneven() -> str:
    with pytest.raises(InputError) as caught:
        ResumableBatchSampler(13, 4, seed=5)
    return str(caught.value)


def test_processes_share_each_batch(in_processes: Callable[..., list[Any]]) -> None:
    for number in (2, 3):
        shares = in_processes(number, shared)
        assert all(len(batch) == 6 // number for share in shares for batch in share)
        batches = [sorted(key for share in shares for key in share[i]) for i in range(2)]
        assert batches == [sorted(batch) for batch in shared()]
    assert "batch_size is 4, which 3 processes can't share evenly" in in_processes(3, uneven)[0]


def test_other_lengths_do_not_resume() -> None:
    state = ResumableBatchSampler(4, 2, seed=0, lengths=[1, 2, 3, 4]).state_dict()
    ResumableBatchSampler(4, 2, seed=0, lengths=[1.0, 2.0, 3.0, 4.0]).load_state_dict(state)
    for lengths in (None, [4, 3, 2, 1]):
        with pytest.raises(InputError, match="lengths is"):
            ResumableBatchSampler(4, 2, seed=0, lengths=lengths).load_state_dict(state)
