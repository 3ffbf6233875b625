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

"""U2LLM: vision tower, projector, U2Tokenizer and any causal language model, as one Hugging Face model."""

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
from transformers import AutoConfig, GenerationMixin, PreTrainedConfig
from transformers.modeling_outputs import ModelOutput

from monai_u2.exceptions import InputError
from monai_u2.networks.finetuning import MergedWeights, without_adapters
from monai_u2.networks.log_probs import label_log_probs
from monai_u2.networks.paper_folding import FoldedPaperU2Tokenizer
from monai_u2.networks.u2_model import U2Model
from monai_u2.networks.u2llm_config import U2LLMConfig
from monai_u2.networks.u2llm_initialization import U2LLMPreTrainedModel

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
        log_probs: log-probability of each prompt's labels `(B,)`, float64, where they were asked for in place of
            logits.
        reference_log_probs: likewise without LoRA adapters.
        label_counts: number of each prompt's labels `(B,)`, likewise.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    finding_logits: torch.Tensor | None = None
    image_token_finding_logits: torch.Tensor | None = None
    past_key_values: Any = None
    log_probs: torch.Tensor | None = None
    reference_log_probs: torch.Tensor | None = None
    label_counts: torch.Tensor | None = None


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

        Raises:
            ValueError: when the tokenizer is folded, for which no configuration stands.
        """
        if isinstance(self.model.u2_tokenizer, FoldedPaperU2Tokenizer):
            raise ValueError(
                "u2_tokenizer is folded for inference and couldn't be loaded again; save the model before fold()."
            )
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
            config: the new model's; its `text_config` is replaced by the folder's. By default the published vision
                tower and numbers of tokens, and :class:`U2Tokenizer`'s own defaults.
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
        return_log_probs: bool = False,
        reference_without_adapters: bool = False,
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
            return_log_probs: give the log-probabilities of the labels in place of loss and logits, see
                :func:`monai_u2.networks.log_probs.label_log_probs`.
            reference_without_adapters: give them without LoRA adapters too, for the same encoded image.
            kwargs: passed on to the language model.

        Returns:
            :class:`U2LLMOutput`; with nothing but an image, the next-token logits after its image tokens, `(B, 1, V)`.

        Raises:
            ValueError: when images, masks, prompts or their placeholders don't fit each other; log-probabilities are
                asked for without labels, or those without adapters of a model that trains more than adapters.
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
        inputs_embeds, encoded, token_logits = self.model.embed_prompts(
            input_ids, image, question_ids, question_mask, slab_mask, image_index, inputs_embeds
        )
        kwargs |= {"attention_mask": attention_mask, "past_key_values": past_key_values}
        if return_log_probs:
            return self._log_probs(inputs_embeds, labels, reference_without_adapters, **kwargs)
        outputs = self.model(inputs_embeds, **kwargs)
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

    def _log_probs(
        self, inputs_embeds: torch.Tensor, labels: torch.Tensor | None, with_reference: bool, **kwargs: Any
    ) -> U2LLMOutput:
        if labels is None:
            raise ValueError("return_log_probs needs labels.")
        kwargs["use_cache"] = False
        reference = None
        if with_reference:
            with torch.no_grad(), without_adapters(self):
                hidden = self.model(inputs_embeds, **kwargs).last_hidden_state
                reference, _ = label_log_probs(hidden, self.lm_head, labels)
        hidden = self.model(inputs_embeds, **kwargs).last_hidden_state
        log_probs, counts = label_log_probs(hidden, self.lm_head, labels)
        return U2LLMOutput(log_probs=log_probs, reference_log_probs=reference, label_counts=counts)

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
