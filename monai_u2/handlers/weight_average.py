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

"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from ignite.handlers import EMAHandler
from torch.distributed.fsdp import FSDPModule

from monai_u2.exceptions import InputError


class WeightAverage(EMAHandler):
    """ignite's `EMAHandler`, as a part of a resumable checkpoint: `ema_model` has the averaged weights.

    Each step it takes `1 - decay` of the model's weights; buffers are those of the model.

    Args:
        network: the model.
        decay: what is kept of the average at each step, such as 0.999.

    Raises:
        InputError: when `decay` isn't between 0 and 1, or the model is sharded over processes.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not isinstance(decay, float) or not 0 < decay < 1:
            raise InputError(f"ema_decay is {decay!r}; expected a number above 0 and below 1, such as 0.999, or null.")
        if isinstance(network, FSDPModule):
            raise InputError("ema_decay needs the whole weights in each process; leave it out with full_shard.")
        super().__init__(network, momentum=1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return self.ema_model.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the average of an earlier run."""
        self.ema_model.load_state_dict(state_dict)
