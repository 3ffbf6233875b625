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

from ignite.engine import Engine
from torch.utils.data import DataLoader

from monai_u2.data import ResumableBatchSampler
from monai_u2.handlers import SamplerEpoch


def run(state: dict[str, int] | None) -> list[list[tuple[int, int]]]:
    seen: list[list[tuple[int, int]]] = []
    sampler = ResumableBatchSampler(7, 2, seed=0)
    engine = Engine(lambda engine, batch: seen.append(batch))
    SamplerEpoch(sampler).attach(engine)
    if state is not None:
        engine.load_state_dict(state)

    class Keys:
        def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
            return key

    engine.run(DataLoader(Keys(), batch_sampler=sampler, collate_fn=list), max_epochs=3)
    return seen


def test_a_resumed_engine_sees_the_rest_of_its_epoch_and_then_whole_ones() -> None:
    whole = run(None)
    assert [batch[0][0] for batch in whole] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    for iteration in (1, 3, 5, 8):
        state = {"iteration": iteration, "epoch_length": 3, "max_epochs": 3}
        assert run(state) == whole[iteration:], iteration
