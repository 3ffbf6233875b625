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

"""Finding logits of whole volumes, for the validation of a vision tower."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer

from monai_u2.networks.finding_head import volume_finding_logits


class FindingInferer(Inferer):
    """Run a network with a finding head and give the largest patch logit of each finding.

    Args:
        num_findings: number of findings to give, the first ones; all of them when None.
    """

    def __init__(self, num_findings: int | None = None) -> None:
        self.num_findings = num_findings

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """
        Args:
            inputs: images `(B, T, D, H, W)`.
            network: network whose output has `finding_logits (B, T, N, F)`.
            args: ignored.
            kwargs: `slab_mask (B, T)`; what else is there is not needed for findings.

        Returns:
            Logits `(B, F)`.

        Raises:
            ValueError: when the network has no finding head.
        """
        slab_mask = kwargs.get("slab_mask")
        if slab_mask is None:
            slab_mask = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        logits = network(inputs, slab_mask=slab_mask).finding_logits
        if logits is None:
            raise ValueError("the network has no finding head: build it with num_findings above 0.")
        return volume_finding_logits(logits.float(), slab_mask)[:, : self.num_findings]
