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

"""Supervised fine-tuning: the answer's tokens, and the findings that the visual tokens should see."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_u2.losses.findings import FindingLoss
from monai_u2.networks.u2llm import U2LLMOutput


def causal_lm_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the next token: mean over each answer, then over the answers.

    A mean over all tokens would leave a yes or no a fiftieth of what a whole report has, whatever the weights of the
    mixture of questions.

    Args:
        logits: `(B, L, V)`.
        labels: `(B, L)`, -100 where nothing is trained on.

    Returns:
        Scalar.

    Raises:
        ValueError: when no label of the batch is trained on.
    """
    targets = labels[:, 1:]
    if not bool((targets != -100).any()):
        raise ValueError("no token of the batch is trained on: all labels are -100.")
    # transposed: cross_entropy takes the classes as the second axis
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), targets, ignore_index=-100, reduction="none")
    counts = (targets != -100).sum(dim=1)
    return (losses.sum(dim=1) / counts.clamp(min=1)).sum() / (counts > 0).sum()


class ReportLoss(nn.Module):
    """Causal language-model loss plus finding supervision of patch tokens and image tokens.

    Args:
        findings: finding supervision, see :class:`FindingLoss`; None for the language model's loss alone.
    """

    def __init__(self, findings: FindingLoss | None = None) -> None:
        super().__init__()
        self.findings = findings if findings is not None and findings.active else None

    def forward(self, output: U2LLMOutput, targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """
        Args:
            output: the network's output, with finding logits where findings are supervised.
            targets: `labels (R, L)`, `slab_mask (B, T)`, `image_index (R,)` (question r's volume), and the
                truth that the finding supervision asks for.

        Returns:
            Scalar.

        Raises:
            ValueError: when the supervision asks for what the network or the targets lack.
        """
        loss = causal_lm_loss(output.logits, targets["labels"])
        if self.findings is None:
            return loss
        return loss + self.findings(output.finding_logits, targets, output.image_token_finding_logits)
