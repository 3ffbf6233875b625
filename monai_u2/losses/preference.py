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

"""Direct preference optimization: the report that the judge prefers becomes more likely than the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_u2.networks.attention import checked_option

PREFERENCE_STATISTICS = (
    "reward_chosen",
    "reward_rejected",
    "reward_margin",
    "reward_accuracy",
    "kl",
    "log_prob_chosen",
    "log_prob_rejected",
    "chosen_fall",
    "length_chosen",
    "length_rejected",
)
LOSS_TYPES = ("sigmoid", "hinge", "ipo", "robust", "apo_zero")


class PreferenceLoss(nn.Module):
    """Loss of pairs of a chosen and a rejected answer, from their log-probabilities.

    With the log-ratios of policy and reference `c` (chosen) and `r` (rejected), and `d = c - r`:

    - `"sigmoid"`: `-log σ(β d)` (Rafailov et al., https://arxiv.org/abs/2305.18290).
    - `"hinge"`: `max(0, 1 - β d)` (Zhao et al., "SLiC-HF", https://arxiv.org/abs/2305.10425).
    - `"ipo"`: `(d - 1 / (2 β))²`, c and r being means over the tokens (Azar et al., https://arxiv.org/abs/2310.12036).
    - `"robust"`: for a share `label_smoothing` of pairs the wrong way round,
      `(-(1 - ε) log σ(β d) + ε log σ(-β d)) / (1 - 2 ε)` (Chowdhury et al., https://arxiv.org/abs/2403.00409).
    - `"apo_zero"`: `1 - σ(β c) + σ(β r)` (D'Oosterlinck et al., https://arxiv.org/abs/2408.06266).

    `sft_weight` adds the chosen answers' cross-entropy, a mean over the batch's tokens (RPO, Pang et al.,
    https://arxiv.org/abs/2404.19733), which keeps them from becoming less likely together with the rejected ones.

    Args:
        beta: how strongly the policy is held to the reference.
        loss_type: see above.
        label_smoothing: ε of `"robust"`, at least 0 and below 0.5.
        sft_weight: weight of the chosen answers' cross-entropy; 0 for none.

    Raises:
        ValueError: for an unknown type, or values out of their range.
    """

    def __init__(
        self, beta: float = 0.1, loss_type: str = "sigmoid", label_smoothing: float = 0.0, sft_weight: float = 0.0
    ) -> None:
        super().__init__()
        if beta <= 0:
            raise ValueError(f"beta {beta} must be above 0.")
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(f"label_smoothing {label_smoothing} must be at least 0 and below 0.5.")
        if label_smoothing and loss_type != "robust":
            raise ValueError(
                f"label_smoothing {label_smoothing} works with loss_type 'robust' alone, not {loss_type!r}."
            )
        if sft_weight < 0:
            raise ValueError(f"sft_weight {sft_weight} must be at least 0.")
        self.beta = beta
        self.loss_type = checked_option("loss_type", loss_type, LOSS_TYPES)
        self.label_smoothing = label_smoothing
        self.sft_weight = sft_weight

    def forward(
        self,
        policy_chosen: torch.Tensor,
        policy_rejected: torch.Tensor,
        reference_chosen: torch.Tensor,
        reference_rejected: torch.Tensor,
        chosen_lengths: torch.Tensor | None = None,
        rejected_lengths: torch.Tensor | None = None,
        num_pairs: torch.Tensor | None = None,
        num_chosen_tokens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            policy_chosen: log-probability of each chosen answer `(B,)`, summed over its tokens.
            policy_rejected: likewise `(B,)`.
            reference_chosen: likewise under the reference `(B,)`.
            reference_rejected: likewise `(B,)`.
            chosen_lengths: number of tokens of each chosen answer `(B,)`; needed by `"ipo"` and `sft_weight`.
            rejected_lengths: likewise `(B,)`; needed by `"ipo"`.
            num_pairs: of the batch that these pairs are a part of, whose parts' losses add up; by default B.
            num_chosen_tokens: likewise the tokens of its chosen answers; by default the sum of `chosen_lengths`.

        Returns:
            Scalar, mean over the pairs.

        Raises:
            ValueError: when lengths are needed and missing, or shapes differ.
        """
        given = {"policy_rejected": policy_rejected, "reference_chosen": reference_chosen}
        given |= {"reference_rejected": reference_rejected}
        given |= {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
        for name, value in given.items():
            if value is not None and value.shape != policy_chosen.shape:
                raise ValueError(f"{name} {tuple(value.shape)} must be {tuple(policy_chosen.shape)}, as policy_chosen.")
        needed = {"ipo": ("chosen_lengths", "rejected_lengths")}.get(self.loss_type, ())
        needed = (*needed, "chosen_lengths") if self.sft_weight else needed
        if missing := sorted({name for name in needed if given[name] is None}):
            raise ValueError(f"loss_type {self.loss_type!r} with sft_weight {self.sft_weight} needs {missing}.")
        chosen, rejected = policy_chosen - reference_chosen, policy_rejected - reference_rejected
        losses = self._loss(chosen, rejected, chosen_lengths, rejected_lengths)
        loss = losses.sum() / (len(losses) if num_pairs is None else num_pairs)
        if self.sft_weight:
            num_chosen_tokens = chosen_lengths.sum() if num_chosen_tokens is None else num_chosen_tokens
            loss = loss - self.sft_weight * policy_chosen.sum() / num_chosen_tokens
        return loss

    def _loss(
        self,
        chosen: torch.Tensor,
        rejected: torch.Tensor,
        chosen_lengths: torch.Tensor | None,
        rejected_lengths: torch.Tensor | None,
    ) -> torch.Tensor:
        if self.loss_type == "ipo":
            return (chosen / chosen_lengths - rejected / rejected_lengths - 1 / (2 * self.beta)) ** 2
        if self.loss_type == "apo_zero":
            return 1 - torch.sigmoid(self.beta * chosen) + torch.sigmoid(self.beta * rejected)
        margin = self.beta * (chosen - rejected)
        if self.loss_type == "hinge":
            return F.relu(1 - margin)
        smoothing = self.label_smoothing  # 0 but for "robust", by which this is "sigmoid"
        right, wrong = F.logsigmoid(margin), F.logsigmoid(-margin)
        return (smoothing * wrong - (1 - smoothing) * right) / (1 - 2 * smoothing)


class ReportPreferenceLoss(nn.Module):
    """A :class:`PreferenceLoss` as :class:`monai_u2.engines.MicroBatchIteration` calls it.

    It takes what a `PreferenceInferer` gives.

    Args:
        loss: the loss of log-probabilities.
    """

    def __init__(self, loss: PreferenceLoss) -> None:
        super().__init__()
        self.loss = loss

    def normalizers(self, targets: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the means of the loss divide by, see :meth:`monai_u2.losses.ReportLoss.normalizers`.

        Args:
            targets: `labels (2 B, L)` of the pairs' answers, chosen, rejected, chosen, …

        Returns:
            `num_pairs` and `num_chosen_tokens`, scalar tensors.
        """
        chosen = targets["labels"][0::2]
        return {"num_pairs": torch.tensor(len(chosen)), "num_chosen_tokens": (chosen[:, 1:] != -100).sum()}

    def forward(
        self,
        output: Mapping[str, torch.Tensor],
        targets: Any = None,
        normalizers: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        Args:
            output: the arguments of :meth:`PreferenceLoss.forward`.
            targets: not used; the answers are part of the output.
            normalizers: of the batch that these pairs are a part of; by default their own.

        Returns:
            Scalar.
        """
        return self.loss(**output, **(normalizers or {}))

    @torch.no_grad()
    def statistics(
        self, output: Mapping[str, torch.Tensor], normalizers: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """What is watched of a batch; the values of its parts add up.

        Args:
            output: the arguments of :meth:`PreferenceLoss.forward`.
            normalizers: of the batch that these pairs are a part of.

        Returns:
            Means over the pairs, scalars: `reward_chosen` and `reward_rejected` (β times the log-ratio of policy and
            reference), `reward_margin` (their difference), `reward_accuracy` (share of pairs where it is above 0), `kl`
            (how much less likely the answers, samples of the reference, are under the policy: mean of both log-ratios
            with the sign exchanged), `log_prob_chosen` and `log_prob_rejected` (a token), `chosen_fall` (how much less
            likely the chosen answers are than under the reference, nats a token), `length_chosen` and
            `length_rejected` (tokens).
        """
        beta = self.loss.beta
        chosen = output["policy_chosen"] - output["reference_chosen"]
        rejected = output["policy_rejected"] - output["reference_rejected"]
        of_pairs = (
            beta * chosen,
            beta * rejected,
            beta * (chosen - rejected),
            chosen > rejected,
            -(chosen + rejected) / 2,
            output["policy_chosen"] / output["chosen_lengths"],
            output["policy_rejected"] / output["rejected_lengths"],
            -chosen / output["chosen_lengths"],
            output["chosen_lengths"],
            output["rejected_lengths"],
        )
        sums = (values.double().sum() for values in of_pairs)
        return {name: value / normalizers["num_pairs"] for name, value in zip(PREFERENCE_STATISTICS, sums)}
