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

"""The epoch's number for a batch sampler."""

from __future__ import annotations

from ignite.engine import Engine, Events

from monai_u2.data.sampler import ResumableBatchSampler


class SamplerEpoch:
    """Tell a batch sampler the epoch, and how many of its batches were trained on before a resume.

    Args:
        sampler: the batch sampler of the trainer's loader.
    """

    def __init__(self, sampler: ResumableBatchSampler) -> None:
        self.sampler = sampler

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        self.sampler.set_epoch(engine.state.epoch, engine.state.iteration % engine.state.epoch_length)
