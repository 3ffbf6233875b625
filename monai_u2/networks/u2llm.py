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

"""U2LLM: vision tower, projector, U2Tokenizer and any causal language model, composed as one Hugging Face model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn as nn
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, GenerationMixin, PreTrainedConfig
from transformers.modeling_outputs import ModelOutput

from monai_u2.exceptions import InputError
from monai_u2.networks.baseline_tokenizers import LinearTokens, ProjectedTokens, QueryResampler
from monai_u2.networks.finding_head import FindingHead, volume_finding_logits
from monai_u2.networks.finetuning import MergedWeights
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
# what a U2LLMConfig holds beside the language model
_COMPOSED = ("vision", "projector", "u2_tokenizer", "image_token_id", "num_findings", "num_finding_tokens")
# what some language models do to their logits and a linear head doesn't; value of no effect
_LOGIT_OPTIONS = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}


@dataclass
class U2LLMOutput(ModelOutput):
    """Output of :class:`U2LLM`.

    Attributes:
        loss: mean cross-entropy of the next token over all labels that aren't -100, where labels were given.
        logits: next-token logits `(B, L, V)`.
        finding_logits: logits per image, slab, patch and finding `(B_images, T, N, F)`, where the model has a finding
            head and images were encoded.
        image_token_finding_logits: logits per prompt, image token of the tokenizer and finding `(B, num_queries, F)`,
            likewise; finding tokens have none.
        past_key_values: the language model's cache.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    finding_logits: torch.Tensor | None = None
    image_token_finding_logits: torch.Tensor | None = None
    past_key_values: Any = None


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

    def encode_image(self, image: torch.Tensor, slab_mask: torch.Tensor | None = None) -> EncodedImage:
        """Visual tokens of each volume, before any question is known. Padded slabs are not computed.

        Args:
            image: `(B, T, D, H, W)`, T slabs as channels, intensities in [0, 1].
            slab_mask: boolean `(B, T)`, True where a slab is there; all slabs when None.

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
        if features.shape[0] != input_ids.shape[0] or bool((counts != features.shape[1]).any()):
            raise ValueError(
                f"each of the {input_ids.shape[0]} prompts must hold {features.shape[1]} image placeholders "
                f"(id {self.config.image_token_id}) for the image tokens {tuple(features.shape)}; found "
                f"{counts.tolist()}."
            )
        vocabulary = self.config.text_config.vocab_size
        safe_ids = input_ids.masked_fill(placeholders, 0) if self.config.image_token_id >= vocabulary else input_ids
        embeds = self.get_input_embeddings()(safe_ids)
        return embeds.masked_scatter(placeholders[..., None], features.to(embeds.dtype))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        image: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        question_ids: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        slab_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Any, EncodedImage | None, torch.Tensor | None]:
        """See :meth:`U2LLM.forward`; returns the language model's output, what was encoded of the images, and the
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
        outputs = self.language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
        return outputs, encoded, token_logits


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of reading a folder's weights, with the folder."""
    try:
        yield
    except UnpicklingError as error:  # its own text advises to load it with weights_only=False
        raise InputError(
            f"{path}: a file of its weights holds more than tensors, and nothing of it was run; expected weights alone."
        ) from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: its weights can't be read ({error}); download or convert it again.") from error


def _check_loaded(path: str | os.PathLike[str], info: Mapping[str, Any], wanted: Callable[[str], bool]) -> None:
    """InputError where a folder's weights aren't those that are wanted, by their names."""
    found = {
        "missing": sorted(name for name in info["missing_keys"] if wanted(name)),
        "unknown": sorted(info["unexpected_keys"]),
        "of another shape": sorted(
            f"{name} {tuple(held)} instead of {tuple(own)}" for name, held, own in info["mismatched_keys"]
        ),
    }
    problems = [f"{what}: {', '.join(names[:5])} ({len(names)} in all)" for what, names in found.items() if names]
    if problems:
        raise InputError(
            f"{path}: its weights aren't those of the model in its config.json; {'; '.join(problems)}. Check the "
            "folder."
        )


class U2LLM(U2LLMPreTrainedModel, GenerationMixin):
    """From a CT volume and a question to a report.

    Composes a :class:`ViT3D`, a :class:`SpatialPoolingProjector`, a :class:`U2Tokenizer` and any causal language
    model of `transformers`. Placeholders of the prompt are replaced by image tokens; their number is checked.

    Args:
        config: see :class:`U2LLMConfig`.

    Raises:
        ValueError: for a language model whose head does more than a linear map.

    Example:
        >>> from monai_u2.networks import U2LLM, U2LLMConfig
        >>> config = U2LLMConfig(
        ...     text_config={"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        ...                  "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 100},
        ...     vision={"image_size": (8, 32, 32), "patch_size": (4, 8, 8), "hidden_size": 48, "mlp_dim": 96,
        ...             "num_layers": 1, "num_heads": 4},
        ...     u2_tokenizer={"num_heads": 4, "num_layers": 1, "num_selected": 8, "num_queries": 4},
        ...     image_token_id=99,
        ... )
        >>> U2LLM(config)(torch.rand(1, 2, 8, 32, 32)).shape
        torch.Size([1, 1, 100])
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: U2LLMConfig) -> None:
        super().__init__(config)
        for option, neutral in _LOGIT_OPTIONS.items():
            value = getattr(config.text_config, option, None)
            if value not in (None, neutral):
                raise ValueError(
                    f"language model {config.text_config.model_type}: its {option} is {value}, which changes the "
                    "logits; expected a plain linear head, as of Llama, Qwen3 or Phi-3."
                )
        self.model = U2Model(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Load a model from a folder; see `transformers.PreTrainedModel.from_pretrained`.

        Weights are mapped into memory and never held twice. What a folder lacks is an error here, instead of being
        initialized with a warning, unless `output_loading_info=True` asks for the list of it.

        Raises:
            InputError: when weights are missing, a file of them isn't whole, or the folder holds others.
        """
        if kwargs.get("output_loading_info"):
            return super().from_pretrained(path, *args, **kwargs)
        file = os.path.join(path, kwargs.get("subfolder", ""), "config.json")
        if "config" not in kwargs and os.path.isfile(file):
            kind = PreTrainedConfig.get_config_dict(os.path.dirname(file))[0].get("model_type")
            if kind != U2LLMConfig.model_type:
                raise InputError(
                    f"{path}: its model_type is {kind!r}; expected {U2LLMConfig.model_type!r}. An official μ²LLM goes "
                    "through monai-u2 convert first, a language model through U2LLM.from_language_model."
                )
        with _readable(path):
            # other shapes are reported below, with their names
            options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
            model, info = super().from_pretrained(path, *args, **{**kwargs, **options})
        _check_loaded(path, info, lambda name: True)
        return model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save the model in a folder; see `transformers.PreTrainedModel.save_pretrained`.

        LoRA adapters of :func:`prepare_finetuning` are merged into the weights.
        """
        if "state_dict" not in kwargs and getattr(self, "peft_config", None):
            kwargs["state_dict"] = MergedWeights(self).state_dict()
        super().save_pretrained(*args, **kwargs)

    @classmethod
    def from_language_model(
        cls, path: str | os.PathLike[str], config: U2LLMConfig | None = None, **kwargs: Any
    ) -> U2LLM:
        """A new model around a pre-trained language model: vision tower, projector and tokenizer start at random.

        Args:
            path: folder of a causal language model of `transformers`, such as Llama-3.2, Qwen3 or Phi-3.
            config: the new model's; its `text_config` is replaced by the folder's. By default the paper's sizes.
            kwargs: other arguments of `from_pretrained`, such as `dtype`.

        Raises:
            InputError: when there is no such folder, or it lacks weights of the language model or holds others.
        """
        if path is None or not os.path.isfile(os.path.join(path, "config.json")):
            raise InputError(
                f"language model {path}: no config.json there; expected the folder of a causal language model, "
                "downloaded from Hugging Face."
            )
        text_config = AutoConfig.from_pretrained(path)
        given = {} if config is None else {key: getattr(config, key) for key in _COMPOSED}
        if config is None:
            given = {"image_token_id": text_config.vocab_size}
        config = U2LLMConfig(text_config=text_config, **given)
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        names = {r"^model\.": "model.language_model."}
        with _readable(path):
            model, info = super().from_pretrained(path, config=config, key_mapping=names, **{**kwargs, **options})
        # kept, it would give the weights their old names when they are saved
        model._weight_conversions = None
        _check_loaded(path, info, lambda name: name.startswith(("model.language_model.", "lm_head.")))
        return model

    @property
    def num_image_tokens(self) -> int:
        """Number of image placeholders of a prompt."""
        return self.model.num_image_tokens

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self,
        image: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        question_ids: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        slab_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Any = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> U2LLMOutput | torch.Tensor:
        """
        Args:
            image: `(B, T, D, H, W)`, T slabs as channels, intensities in [0, 1].
            input_ids: prompts `(B, L)` with `num_image_tokens` image placeholders a row.
            attention_mask: `(B, L)`.
            question_ids: the question's ids `(B, Lq)` that guide the U2Tokenizer; None for no question.
            question_mask: boolean `(B, Lq)`, True where a question token is there.
            slab_mask: boolean `(B, T)`, True where a slab is there; all when None.
            image_index: `(B,)`, the image of each prompt, where several prompts ask about one image; by default
                prompt i asks about image i.
            inputs_embeds: embedded prompts instead of `input_ids`.
            past_key_values: the language model's cache.
            labels: `(B, L)`, -100 where nothing is trained on, for the loss as in other models of `transformers`. (The
                bundle's training weights answers alike, see :class:`monai_u2.losses.ReportLoss`.)
            logits_to_keep: compute the logits of the last positions only; all of them when 0.
            kwargs: passed on to the language model.

        Returns:
            :class:`U2LLMOutput`; with nothing but an image, the next-token logits after its image tokens, `(B, 1, V)`.

        Raises:
            ValueError: when images, masks, prompts or their placeholders don't fit each other.
        """
        image_only = input_ids is None and inputs_embeds is None
        if image_only:
            if image is None:
                raise ValueError("U2LLM needs an image, input_ids or inputs_embeds.")
            shape = (image.shape[0], self.num_image_tokens)
            input_ids = torch.full(shape, self.config.image_token_id, device=image.device)
            logits_to_keep = 1
        kwargs.setdefault("use_cache", not self.training)
        if past_key_values is None or past_key_values.get_seq_length() == 0:
            self._check_prompts(input_ids, inputs_embeds, attention_mask, image)
        outputs, encoded, token_logits = self.model(
            input_ids=input_ids,
            image=image,
            attention_mask=attention_mask,
            question_ids=question_ids,
            question_mask=question_mask,
            slab_mask=slab_mask,
            image_index=image_index,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        if image_only:
            return logits
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.text_config.vocab_size)
        return U2LLMOutput(
            loss=loss,
            logits=logits,
            finding_logits=None if encoded is None else encoded.finding_logits,
            image_token_finding_logits=token_logits,
            past_key_values=getattr(outputs, "past_key_values", None),
        )

    def _check_prompts(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        image: torch.Tensor | None,
    ) -> None:
        if torch.compiler.is_compiling():
            return
        prompts = inputs_embeds if input_ids is None else input_ids
        is_mask = isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2
        if is_mask and attention_mask.shape != prompts.shape[:2]:
            raise ValueError(
                f"attention_mask {tuple(attention_mask.shape)} must be {tuple(prompts.shape[:2])}, as the prompts."
            )
        if image is None and inputs_embeds is None and bool((input_ids == self.config.image_token_id).any()):
            raise ValueError(
                f"the prompts hold image placeholders (id {self.config.image_token_id}), but there is no image; give "
                "one, or prompts without placeholders."
            )

    @torch.no_grad()
    def generate(
        self,
        image: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        question_ids: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        slab_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Generate token ids; each image is encoded once, also for several prompts or several returned sequences.

        Args:
            image: see :meth:`forward`, as the next six.
            input_ids: left-padded prompts `(B, L)`.
            attention_mask: see :meth:`forward`.
            question_ids: see :meth:`forward`.
            question_mask: see :meth:`forward`.
            slab_mask: see :meth:`forward`.
            image_index: see :meth:`forward`.
            kwargs: options of `transformers.GenerationMixin.generate`.

        Returns:
            Prompts and their continuations `(B * num_return_sequences, L + new)`.
        """
        self._check_prompts(input_ids, None, attention_mask, image)
        encoded = self.model.encode_image(image, slab_mask)
        features = self.model.guide_image(
            encoded.selected, question_ids, question_mask, image_index, encoded.volume_finding_logits
        )
        inputs_embeds = self.model.embed_with_image(input_ids, features)
        return super().generate(
            input_ids=input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
        )
