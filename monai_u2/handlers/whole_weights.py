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

"""Whole weights while a sharded model is evaluated."""

from __future__ import annotations

import torch.nn as nn
from ignite.engine import Engine, Events
from torch.distributed.fsdp import FSDPModule


class WholeWeights:
    """Gather the weights of a model that is sharded over processes (FSDP2) before a validation, and let go of them
    after it.

    Processes don't wait for each other then: they may have different numbers of cases, and generate answers of
    different lengths. Each needs the memory of the whole weights. A model that isn't sharded is left alone.

    Args:
        network: the model.
    """

    def __init__(self, network: nn.Module) -> None:
        self.sharded = [module for module in network.modules() if isinstance(module, FSDPModule)]

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.STARTED, self._gather)
        engine.add_event_handler(Events.COMPLETED, self._let_go)

    def _gather(self, engine: Engine) -> None:
        if self.sharded:
            # else the layer that runs first would be taken for the root, as generation calls parts of the model
            self.sharded[0]._get_fsdp_state()._lazy_init()
        for module in self.sharded:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()

    def _let_go(self, engine: Engine) -> None:
        for number, module in enumerate(self.sharded):
            module.reshard()
            # the first one is the model itself, whose weights are needed again right after its forward pass
            module.set_reshard_after_forward(number > 0, recurse=False)
