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

"""Finding supervision of visual tokens: per patch, per slab and per volume, where the truth is there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.losses import FocalLoss

from monai_u2.networks.finding_head import volume_finding_logits


class FindingLoss(nn.Module):
    """Do the visual tokens see the findings that are there?

    Per patch (from lesion masks) the focal loss of RetinaNet (https://arxiv.org/abs/1708.02002): negative patches are
    summed and divided by the number of positive ones; positive patches are averaged over each finding first, so that a
    nodule in one patch counts as much as an effusion in fifty; patches that a finding only grazes don't count. Per slab
    (from lesion masks too) and per volume (from finding labels) the mean binary cross-entropy of the largest logit.

    Args:
        patch_weight: weight of the patch term; needs `patch_findings (B, T, N, F)` in the targets where above 0.
        slab_weight: weight of the slab term; needs the same.
        volume_weight: weight of the volume term; needs `findings (B, F)` in the targets where above 0.
        gamma: exponent of the focal loss.
        alpha: weight of positive patches in the focal loss.

    Raises:
        ValueError: when a weight is negative.
    """

    def __init__(
        self,
        patch_weight: float = 0.0,
        slab_weight: float = 0.0,
        volume_weight: float = 0.0,
        gamma: float = 2.0,
        alpha: float = 0.25,
    ) -> None:
        super().__init__()
        for name, weight in (("patch", patch_weight), ("slab", slab_weight), ("volume", volume_weight)):
            if weight < 0:
                raise ValueError(f"{name}_weight is {weight}; expected 0 or more.")
        self.patch_weight = patch_weight
        self.slab_weight = slab_weight
        self.volume_weight = volume_weight
        # summed by hand: for inputs without spatial axes, reduction="sum" gives the mean
        self.focal = FocalLoss(include_background=True, gamma=gamma, alpha=alpha, reduction="none")

    @property
    def active(self) -> bool:
        """Whether any term has a weight."""
        return bool(self.patch_weight or self.slab_weight or self.volume_weight)

    def normalizers(self, targets: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the means of the terms divide by; those of the parts of a batch add up to the batch's own.

        Args:
            targets: see :meth:`forward`.

        Returns:
            name -> number, a scalar tensor.

        Raises:
            ValueError: when a weight asks for what the targets lack.
        """
        for key, weight in self._needed():
            if weight and key not in targets:
                raise ValueError(
                    f"finding supervision with weight {weight} needs {key!r} in the batch; set the weight to 0."
                )
        counts: dict[str, torch.Tensor] = {}
        if self.patch_weight:
            patches = self._positive(targets).sum(dim=(1, 2))
            counts |= {"present_findings": (patches > 0).sum(), "positive_patches": patches.sum()}
        if self.slab_weight:
            counts["certain_slabs"] = self._certain_slabs(targets).sum()
        if self.volume_weight:
            truth = targets["findings"]
            questions = len(targets.get("image_index", truth))
            counts["volume_findings"] = torch.tensor(truth.numel(), device=truth.device)
            counts["question_findings"] = torch.tensor(questions * truth.shape[1], device=truth.device)
        return counts

    def forward(
        self,
        logits: torch.Tensor | None,
        targets: Mapping[str, torch.Tensor],
        token_logits: torch.Tensor | None = None,
        normalizers: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        Args:
            logits: per patch token `(B, T, N, F)`.
            targets: `slab_mask (B, T)`, and the truth that the weights ask for.
            token_logits: per question and image token `(R, Q, F)`; the volume term then counts them too. Question r
                asks about volume `targets["image_index"][r]`, or about volume r without that key.
            normalizers: of the batch that these cases are a part of; by default their own.

        Returns:
            Scalar.

        Raises:
            ValueError: when a weight asks for what the network or the targets lack, or the numbers of findings differ.
        """
        if logits is None:
            raise ValueError("finding supervision needs a network with num_findings above 0; set its weights to 0.")
        counts = self.normalizers(targets) if normalizers is None else normalizers
        counts = {name: count.clamp(min=1) for name, count in counts.items()}
        for key, weight in self._needed():
            if weight and targets[key].shape[-1] != logits.shape[-1]:
                raise ValueError(
                    f"{key} {tuple(targets[key].shape)} has {targets[key].shape[-1]} findings, the network's finding "
                    f"head {logits.shape[-1]}: both must follow from the same finding_labels."
                )
        logits, slab_mask = logits.float(), targets["slab_mask"]
        loss = logits.new_zeros(())
        if self.patch_weight:
            loss = loss + self.patch_weight * self._patch_loss(logits, targets, counts)
        if self.slab_weight:
            loss = loss + self.slab_weight * self._slab_loss(logits, targets, counts)
        if self.volume_weight:
            truth = targets["findings"]
            terms = [(volume_finding_logits(logits, slab_mask), truth, counts["volume_findings"])]
            if token_logits is not None:
                asked = truth[targets["image_index"]] if "image_index" in targets else truth
                terms.append((token_logits.float().amax(dim=1), asked, counts["question_findings"]))
            for volume, findings, count in terms:
                summed = F.binary_cross_entropy_with_logits(volume, findings, reduction="sum")
                loss = loss + self.volume_weight * summed / count
        return loss

    def _needed(self) -> tuple[tuple[str, float], ...]:
        """Key of the targets and the weight that asks for it."""
        return (("patch_findings", self.patch_weight or self.slab_weight), ("findings", self.volume_weight))

    def _patch_loss(
        self, logits: torch.Tensor, targets: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        positive = self._positive(targets)
        negative = (targets["patch_findings"] == 0) & targets["slab_mask"][:, :, None, None]
        target = positive.to(logits.dtype)
        focal = self.focal(logits.flatten(0, 2), target.flatten(0, 2)).view_as(logits)
        patches = positive.sum(dim=(1, 2))  # (B, F) positive patches of each finding
        positive_loss = ((focal * positive).sum(dim=(1, 2)) / patches.clamp(min=1)).sum() / counts["present_findings"]
        return positive_loss + (focal * negative).sum() / counts["positive_patches"]

    def _slab_loss(
        self, logits: torch.Tensor, targets: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        positive = (targets["patch_findings"] == 1).any(dim=2).to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits.amax(dim=2), positive, reduction="none")
        return (loss * self._certain_slabs(targets)).sum() / counts["certain_slabs"]

    @staticmethod
    def _positive(targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Patches that a finding fills, boolean `(B, T, N, F)`."""
        return (targets["patch_findings"] == 1) & targets["slab_mask"][:, :, None, None]

    @staticmethod
    def _certain_slabs(targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Slabs of which it is known whether a finding is there, boolean `(B, T, F)`."""
        truth = targets["patch_findings"]
        certain = (truth == 1).any(dim=2) | (truth == 0).all(dim=2)
        return certain & targets["slab_mask"][:, :, None]
