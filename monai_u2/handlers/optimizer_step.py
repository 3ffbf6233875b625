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

"""What happens around an optimizer step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch.distributed.tensor import DTensor

from monai_u2.engines.inspection import diverged


class GradientClipping:
    """Clip the gradients' norm after each backward pass; a norm that isn't finite stops the training.

    Args:
        parameters: the parameters that are trained.
        max_norm: largest norm over all parameters.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], max_norm: float = 1.0) -> None:
        self.parameters = list(parameters)
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a MONAI trainer.
        """
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.

        Raises:
            NonFiniteError: when the norm isn't finite.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not bool(torch.isfinite(norm)):
            raise diverged("gradient norm", norm, engine, engine.state.batch)
