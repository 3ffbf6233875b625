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

"""Configuration of U2LLM."""

# no `from __future__ import annotations` here: it would switch off the validation of the fields' types

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

# how visual tokens become image tokens: classes U2Tokenizer, PaperU2Tokenizer, LinearTokens, QueryResampler and
# ProjectedTokens
TOKENIZER_TYPES = ("u2", "paper", "linear", "resampler", "projected")


@strict
class U2LLMConfig(PreTrainedConfig):
    """What :class:`monai_u2.networks.U2LLM` is composed of.

    Args:
        text_config: configuration of the causal language model (a dict with `model_type`, or a `PreTrainedConfig`).
        vision: arguments of :class:`monai_u2.networks.ViT3D`.
        projector: arguments of :class:`monai_u2.networks.SpatialPoolingProjector` other than sizes that follow.
        u2_tokenizer: `type`, one of :data:`TOKENIZER_TYPES` ("u2" by default), and arguments other than `hidden_size`
            of its class: :class:`monai_u2.networks.U2Tokenizer` ("u2"),
            :class:`monai_u2.networks.PaperU2Tokenizer` ("paper"), :class:`monai_u2.networks.LinearTokens` ("linear"),
            :class:`monai_u2.networks.QueryResampler` ("resampler") or :class:`monai_u2.networks.ProjectedTokens`
            ("projected").
        image_token_id: id of the placeholder that each image token replaces.
        num_findings: number of findings of the supervising heads, on patch tokens and on image tokens; 0 for no such
            heads.
        num_finding_tokens: number of image tokens made from the volume's finding logits, before those of the
            tokenizer; 0 for none.

    Raises:
        ValueError: for an unknown tokenizer type, or finding tokens without findings.
    """

    model_type = "u2llm"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")}

    text_config: dict | PreTrainedConfig | None = None
    vision: dict[str, Any] | None = None
    projector: dict[str, Any] | None = None
    u2_tokenizer: dict[str, Any] | None = None
    image_token_id: int = 0
    num_findings: int = 0
    num_finding_tokens: int = 0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision = dict(self.vision or {})
        self.projector = dict(self.projector or {})
        self.u2_tokenizer = dict(self.u2_tokenizer or {})
        tokenizer_type = self.u2_tokenizer.get("type", "u2")
        if tokenizer_type not in TOKENIZER_TYPES:
            raise ValueError(f"u2_tokenizer type {tokenizer_type!r} must be one of {', '.join(TOKENIZER_TYPES)}.")
        if self.num_finding_tokens < 0 or (self.num_finding_tokens > 0 and self.num_findings == 0):
            raise ValueError(
                f"num_finding_tokens {self.num_finding_tokens} with num_findings {self.num_findings}: finding tokens "
                f"need at least one finding, and their number can't be negative."
            )
        super().__post_init__(**kwargs)
        # the tie is the language model's, but saving and loading read it here
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
