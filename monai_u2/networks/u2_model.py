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

"""U2Model: vision tower, projector, U2Tokenizer and the body of any causal language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from transformers import AutoModel

from monai_u2.networks.baseline_tokenizers import LinearTokens, ProjectedTokens, QueryResampler
from monai_u2.networks.finding_head import FindingHead, volume_finding_logits
from monai_u2.networks.paper_u2_tokenizer import PaperU2Tokenizer
from monai_u2.networks.projector import SpatialPoolingProjector
from monai_u2.networks.u2_tokenizer import U2Tokenizer
from monai_u2.networks.u2llm_config import U2LLMConfig
from monai_u2.networks.u2llm_initialization import U2LLMPreTrainedModel
from monai_u2.networks.vit3d import ViT3D

# class of each tokenizer type
TOKENIZERS: dict[str, type[nn.Module]] = {
    "u2": U2Tokenizer,
    "paper": PaperU2Tokenizer,
    "linear": LinearTokens,
    "resampler": QueryResampler,
    "projected": ProjectedTokens,
}


@dataclass
class EncodedImage:
    """What :meth:`U2Model.encode_image` sees in a batch of volumes, before any question is known.

    Attributes:
        selected: selected visual tokens `(B, V, C)`.
        finding_logits: `(B, T, N, F)`, or None without a finding head.
        volume_finding_logits: `(B, F)`, or None without a finding head.
    """

    selected: torch.Tensor
    finding_logits: torch.Tensor | None = None
    volume_finding_logits: torch.Tensor | None = None


class U2Model(U2LLMPreTrainedModel):
    """Vision tower, projector, U2Tokenizer and language model, without the language model's head.

    Args:
        config: see :class:`U2LLMConfig`.
    """

    def __init__(self, config: U2LLMConfig) -> None:
        super().__init__(config)
        hidden_size = config.text_config.hidden_size
        self.vision_tower = ViT3D(**config.vision)
        vision_size = self.vision_tower.norm.normalized_shape[0]
        self.projector = SpatialPoolingProjector(
            grid=self.vision_tower.grid, in_size=vision_size, out_size=hidden_size, **config.projector
        )
        options = {"type": "u2", **config.u2_tokenizer}
        self.u2_tokenizer = TOKENIZERS[options.pop("type")](hidden_size=hidden_size, **options)
        self.finding_head = FindingHead(vision_size, config.num_findings) if config.num_findings else None
        self.image_token_finding_head = FindingHead(hidden_size, config.num_findings) if config.num_findings else None
        prefix_size = config.num_finding_tokens * hidden_size
        self.finding_prefix = nn.Linear(config.num_findings, prefix_size) if prefix_size else None
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    @property
    def num_image_tokens(self) -> int:
        """Number of image placeholders of a prompt: finding tokens and the tokenizer's queries."""
        return self.config.num_finding_tokens + self.u2_tokenizer.num_queries

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def encode_image(
        self, image: torch.Tensor, slab_mask: torch.Tensor | None = None, patches: torch.Tensor | None = None
    ) -> EncodedImage:
        """Visual tokens of each volume, before any question is known. Padded slabs are not computed.

        Args:
            image: `(B, T, D, H, W)`, T slabs as channels, intensities in [0, 1].
            slab_mask: boolean `(B, T)`, True where a slab is there; all slabs when None.
            patches: the vision tower's tokens of all slabs that are there `(M, N, Cv)`, where they are known already.

        Raises:
            ValueError: when the image isn't 5-D, or `slab_mask` doesn't fit it.
        """
        if image.ndim != 5:
            raise ValueError(f"image {tuple(image.shape)} must have five axes (B, T, D, H, W), T slabs as channels.")
        batch, slabs = image.shape[:2]
        if slab_mask is None:
            slab_mask = torch.ones(batch, slabs, dtype=torch.bool, device=image.device)
        if slab_mask.shape != (batch, slabs):
            raise ValueError(f"slab_mask {tuple(slab_mask.shape)} must be {(batch, slabs)}, as the image's (B, T).")
        slab_mask = slab_mask.bool()
        if patches is None:
            patches = self.vision_tower(image[slab_mask][:, None].to(self.dtype))
        tokens = self.projector(patches)
        padded = tokens.new_zeros(batch, slabs, *tokens.shape[1:])
        if getattr(self.u2_tokenizer, "padded_slabs_take_part", False) and len(tokens) < batch * slabs:
            empty = torch.zeros(1, 1, *self.vision_tower.image_size, dtype=self.dtype, device=image.device)
            padded = padded + self.projector(self.vision_tower(empty))
        padded[slab_mask] = tokens
        selected = self.u2_tokenizer.condense(padded, self.projector.grid, slab_mask)
        if self.finding_head is None:
            return EncodedImage(selected)
        logits = self.finding_head(patches)
        padded_logits = logits.new_zeros(batch, slabs, *logits.shape[1:])
        padded_logits[slab_mask] = logits
        of_volume = volume_finding_logits(padded_logits, slab_mask)
        return EncodedImage(selected, padded_logits, of_volume)

    def guide_image(
        self,
        selected: torch.Tensor,
        question_ids: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        volume_finding_logits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Image tokens for the language model: what was found, then what the question asks for.

        Args:
            selected: selected tokens of each image `(B_images, V, C)`.
            question_ids: `(B, L)`, or None for no question.
            question_mask: boolean `(B, L)`, True where a question token is there.
            image_index: `(B,)`, the image of each question; by default question i asks about image i.
            volume_finding_logits: of each image `(B_images, F)`, from :meth:`encode_image`; needed by finding tokens.

        Returns:
            `(B, num_image_tokens, C)`.

        Raises:
            ValueError: when the model has finding tokens and `volume_finding_logits` is None, or questions, their ids
                and `image_index` don't fit.
        """
        count = len(selected) if question_ids is None else len(question_ids)
        if image_index is None and count != len(selected):
            raise ValueError(f"{count} questions for {len(selected)} images; give the image of each as image_index.")
        if image_index is not None:
            if question_ids is not None and len(image_index) != count:
                raise ValueError(f"image_index has {len(image_index)} entries for {count} questions.")
            if not torch.compiler.is_compiling() and not 0 <= int(image_index.min()) <= int(image_index.max()) < len(
                selected
            ):
                raise ValueError(f"image_index {image_index.tolist()} must lie between 0 and {len(selected) - 1}.")
            selected = selected[image_index]
        if question_ids is not None and not torch.compiler.is_compiling():
            largest, vocabulary = int(question_ids.max()), self.config.text_config.vocab_size
            if largest >= vocabulary:
                raise ValueError(
                    f"question_ids hold the id {largest}; the language model's vocabulary has {vocabulary}."
                )
        text = None if question_ids is None else self.get_input_embeddings()(question_ids)
        features = self.u2_tokenizer.aggregate(selected, text, question_mask)
        if self.finding_prefix is None:
            return features
        if volume_finding_logits is None:
            raise ValueError("guide_image needs volume_finding_logits for the finding tokens (num_finding_tokens > 0).")
        # detached: the findings are what the vision tower sees, not what makes the report likely
        probabilities = volume_finding_logits.detach().sigmoid()
        if image_index is not None:
            probabilities = probabilities[image_index]
        prefix = self.finding_prefix(probabilities.to(self.dtype)).unflatten(1, (self.config.num_finding_tokens, -1))
        return torch.cat([prefix, features.to(prefix.dtype)], dim=1)

    def embed_with_image(self, input_ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Embed token ids and put the image tokens in the places of the placeholders.

        Args:
            input_ids: `(B, L)` with `num_image_tokens` placeholders (`config.image_token_id`) a row.
            features: `(B, num_image_tokens, C)`.

        Returns:
            `(B, L, C)`.

        Raises:
            ValueError: when a row's number of placeholders isn't that of the image tokens.
        """
        placeholders = input_ids == self.config.image_token_id
        counts = placeholders.sum(dim=1)
        fits = features.shape[0] == input_ids.shape[0]
        if not fits or (not torch.compiler.is_compiling() and bool((counts != features.shape[1]).any())):
            raise ValueError(
                f"each of the {input_ids.shape[0]} prompts must hold {features.shape[1]} image placeholders "
                f"(id {self.config.image_token_id}) for the image tokens {tuple(features.shape)}; found "
                f"{counts.tolist()}."
            )
        vocabulary = self.config.text_config.vocab_size
        safe_ids = input_ids.masked_fill(placeholders, 0) if self.config.image_token_id >= vocabulary else input_ids
        embeds = self.get_input_embeddings()(safe_ids)
        return embeds.masked_scatter(placeholders[..., None], features.to(embeds.dtype))

    def embed_prompts(
        self,
        input_ids: torch.Tensor | None = None,
        image: torch.Tensor | None = None,
        question_ids: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        slab_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, EncodedImage | None, torch.Tensor | None]:
        """See :meth:`U2LLM.forward`; returns the embedded prompts `(B, L, C)`, what was encoded of the images, and the
        finding logits of each prompt's image tokens."""
        encoded = token_logits = None
        if image is not None:
            encoded = self.encode_image(image, slab_mask)
            features = self.guide_image(
                encoded.selected, question_ids, question_mask, image_index, encoded.volume_finding_logits
            )
            if self.image_token_finding_head is not None:
                token_logits = self.image_token_finding_head(features[:, self.config.num_finding_tokens :])
            inputs_embeds = self.embed_with_image(input_ids, features)
        elif inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        return inputs_embeds, encoded, token_logits

    def forward(self, inputs_embeds: torch.Tensor, **kwargs: Any) -> Any:
        """The language model's output on embedded prompts `(B, L, C)`; `kwargs` are its other arguments."""
        return self.language_model(inputs_embeds=inputs_embeds, **kwargs)
