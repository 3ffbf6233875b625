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

"""Mixed precision on any device."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

PRECISIONS = ("float32", "bfloat16")


class AutocastInferer(Inferer):
    """Run the network under autocast on the inputs' device.

    MONAI's own `amp` option knows CUDA alone; bfloat16 has the range of float32 and needs no gradient scaler.

    Args:
        precision: `"float32"` (no autocast) or `"bfloat16"`.

    Raises:
        ValueError: when `precision` is unknown.
    """

    def __init__(self, precision: str = "bfloat16") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r} must be one of {PRECISIONS}.")
        self.enabled = precision == "bfloat16"
        self.inferer = SimpleInferer()

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """
        Args:
            inputs: input of the network.
            network: the network.
            args: further arguments of the network.
            kwargs: further arguments of the network.

        Returns:
            The network's output.
        """
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.enabled):
            return self.inferer(inputs, network, *args, **kwargs)
