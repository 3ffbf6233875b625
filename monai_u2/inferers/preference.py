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

"""Log-probabilities of chosen and rejected answers as a MONAI inferer."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer

from monai_u2.exceptions import InputError
from monai_u2.inferers.autocast import AutocastInferer
from monai_u2.networks.attention import checked_option
from monai_u2.networks.parallel import unwrapped

REFERENCES = ("adapter", "precomputed", "model", "policy")


class PreferenceInferer(Inferer):
    """Log-probabilities of pairs of answers under the policy and the reference, for `PreferenceLoss`.

    The rows of a batch are chosen, rejected, chosen, rejected, …, as `PreferencePromptd` and `collate_reports` make
    them. Both answers share the encoding of their image.

    Args:
        reference: `"adapter"`: the policy without its LoRA adapters, with all else frozen, so that it shares the image
            tokens too; `"precomputed"`: log-probabilities that came with the batch; `"model"`: another model;
            `"policy"`: the policy as it is, for the pass that precomputes them.
        reference_network: the model of `"model"`.
        precision: see :class:`AutocastInferer`.

    Raises:
        ValueError: for an unknown reference, or a model that is missing or not asked for.
    """

    def __init__(
        self, reference: str = "adapter", reference_network: torch.nn.Module | None = None, precision: str = "bfloat16"
    ) -> None:
        self.reference = checked_option("reference", reference, REFERENCES)
        if (reference == "model") != (reference_network is not None):
            given = type(reference_network).__name__
            raise ValueError(f"reference is {reference!r}, reference_network a {given}; 'model' alone needs a network.")
        self.network = None if reference_network is None else reference_network.eval().requires_grad_(False)
        self.inferer = AutocastInferer(precision)

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """
        Args:
            inputs: images `(B, T, D, H, W)`.
            network: a :class:`monai_u2.networks.U2LLM`, or one wrapped for distributed training.
            args: further arguments of the network.
            kwargs: prompts with answers, `labels` and masks, see :meth:`monai_u2.networks.U2LLM.forward`; with
                `"precomputed"` also `reference_log_probs (B, 2)`.

        Returns:
            `policy_chosen`, `policy_rejected`, `reference_chosen`, `reference_rejected`, `chosen_lengths`,
            `rejected_lengths`, each `(pairs,)`.

        Raises:
            InputError: when the batch has no precomputed log-probabilities and they are asked for, or the reference's
                vocabulary isn't the policy's.
        """
        given = kwargs.pop("reference_log_probs", None)
        if self.reference == "precomputed" and given is None:
            raise InputError(
                "reference is 'precomputed', but the batch has no reference_log_probs; run "
                "precompute_reference of dpo.json first."
            )
        if self.network is not None:
            sizes = [model.config.text_config.vocab_size for model in (self.network, unwrapped(network))]
            if sizes[0] != sizes[1]:
                raise InputError(
                    f"the reference's vocabulary has {sizes[0]} tokens, the policy's {sizes[1]}; expected the same, or "
                    "token ids mean other words. Give the model that the policy started from as reference_checkpoint."
                )
        policy = self.inferer(
            inputs,
            network,
            *args,
            **kwargs,
            return_log_probs=True,
            reference_without_adapters=self.reference == "adapter",
        )
        reference = policy.reference_log_probs
        if self.reference == "precomputed":
            reference = given.flatten()
        elif self.reference == "policy":
            reference = policy.log_probs.detach()
        elif self.network is not None:
            with torch.no_grad():
                reference = self.inferer(inputs, self.network, *args, **kwargs, return_log_probs=True).log_probs
        out = {}
        for name, values in (("policy", policy.log_probs), ("reference", reference)):
            out |= {f"{name}_chosen": values[0::2], f"{name}_rejected": values[1::2]}
        return out | {"chosen_lengths": policy.label_counts[0::2], "rejected_lengths": policy.label_counts[1::2]}
