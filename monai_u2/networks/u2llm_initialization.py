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

"""How the parts of U2LLM start: Hugging Face's base class with a rule for every parameter."""

from __future__ import annotations

import torch
import torch.nn as nn
from monai.networks.blocks import PatchEmbeddingBlock
from transformers import PreTrainedModel
from transformers import initialization as init

from monai_u2.networks.finding_head import FindingHead
from monai_u2.networks.token_selection import INITIAL_LOG_SCALE, DynamicMultiScalePooling, SoftTokenSelection
from monai_u2.networks.u2_tokenizer import U2Tokenizer
from monai_u2.networks.u2llm_config import U2LLMConfig
from monai_u2.networks.vit3d import ViT3D


class U2LLMPreTrainedModel(PreTrainedModel):
    """Initialization shared by the model with and without its head."""

    config_class = U2LLMConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # the rules below leave loaded tensors alone; the shortcut for custom code would skip the finding heads, which
        # have no parameters of their own
        super()._initialize_weights(module)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # the language model is a PreTrainedModel and initializes itself; what comes here is the rest
        if module is getattr(self, "lm_head", None):
            init.normal_(module.weight, std=getattr(self.config.text_config, "initializer_range", 0.02))
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv3d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm3d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, PatchEmbeddingBlock):
            init.trunc_normal_(module.position_embeddings, std=0.02)
        elif isinstance(module, ViT3D):
            init.zeros_(module.cls_token)
        elif isinstance(module, FindingHead):
            module.reset_bias()
        elif isinstance(module, SoftTokenSelection):
            init.constant_(module.log_scale, INITIAL_LOG_SCALE)
        elif isinstance(module, DynamicMultiScalePooling):
            init.zeros_(module.scale_embedding)
        elif isinstance(module, U2Tokenizer):
            init.normal_(module.query_tokens)
            init.zeros_(module.text_sink)
        elif hasattr(module, "reset_parameters"):  # modules of the published tokenizer and the query resampler
            module.reset_parameters()
