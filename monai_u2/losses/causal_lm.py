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


def causal_lm_loss(logits: torch.Tensor, labels: torch.Tensor, num_answers: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy of the next token: mean over each answer, then over the answers.

    A mean over all tokens would leave a yes or no a fiftieth of what a whole report has, whatever the weights of the
    mixture of questions.

    Args:
        logits: `(B, L, V)`.
        labels: `(B, L)`, -100 where nothing is trained on.
        num_answers: number by which the sum over the answers is divided, where these are a part of them; by default
            their own.

    Returns:
        Scalar.

    Raises:
        ValueError: when no label of the batch is trained on.
    """
    targets = labels[:, 1:]
    if not torch.compiler.is_compiling() and not bool((targets != -100).any()):
        raise ValueError("no token of the batch is trained on: all labels are -100.")
    # transposed: cross_entropy takes the classes as the second axis
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), targets, ignore_index=-100, reduction="none")
    counts = (targets != -100).sum(dim=1)
    num_answers = count_answers(labels) if num_answers is None else num_answers
    return (losses.sum(dim=1) / counts.clamp(min=1)).sum() / num_answers


def count_answers(labels: torch.Tensor) -> torch.Tensor:
    """Number of rows of labels `(B, L)` with a token that is trained on, a scalar."""
    return (labels[:, 1:] != -100).any(dim=1).sum()


class ReportLoss(nn.Module):
    """Causal language-model loss plus finding supervision of patch tokens and image tokens.

    Args:
        findings: finding supervision, see :class:`FindingLoss`; None for the language model's loss alone.
    """

    def __init__(self, findings: FindingLoss | None = None) -> None:
        super().__init__()
        self.findings = findings if findings is not None and findings.active else None

    def normalizers(self, targets: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the means of the loss divide by. Those of the parts of a batch add up to the batch's own, so that losses
        of the parts, divided by the sums, add up to the batch's loss.

        Args:
            targets: see :meth:`forward`.

        Returns:
            name -> number, a scalar tensor.

        Raises:
            ValueError: when the finding supervision asks for what the targets lack.
        """
        counts = {"answers": count_answers(targets["labels"])}
        return counts if self.findings is None else counts | self.findings.normalizers(targets)

    def forward(
        self,
        output: U2LLMOutput,
        targets: Mapping[str, torch.Tensor],
        normalizers: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        Args:
            output: the network's output, with finding logits where findings are supervised.
            targets: `labels (R, L)`, `slab_mask (B, T)`, `image_index (R,)` (question r's volume), and the
                truth that the finding supervision asks for.
            normalizers: of the batch that these cases are a part of; by default their own.

        Returns:
            Scalar.

        Raises:
            ValueError: when the supervision asks for what the network or the targets lack.
        """
        normalizers = self.normalizers(targets) if normalizers is None else normalizers
        loss = causal_lm_loss(output.logits, targets["labels"], normalizers["answers"])
        if self.findings is None:
            return loss
        return loss + self.findings(output.finding_logits, targets, output.image_token_finding_logits, normalizers)
