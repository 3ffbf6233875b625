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

from __future__ import annotations

from monai_u2._lazy import lazy_attributes

# public name -> module that defines it
_NAMES: dict[str, str] = {
    "CLIP3D": "clip3d",
    "CLIP3DOutput": "clip3d",
    "ConvolutionalStem": "vit3d",
    "FindingHead": "finding_head",
    "FoldedPaperU2Tokenizer": "paper_folding",
    "IntensityWindows": "vit3d",
    "LinearTokens": "baseline_tokenizers",
    "MergedWeights": "finetuning",
    "MultiHeadAttention": "attention",
    "PaperU2Tokenizer": "paper_u2_tokenizer",
    "ProjectedTokens": "baseline_tokenizers",
    "QueryResampler": "baseline_tokenizers",
    "RelativePositionBias": "attention",
    "SpatialPoolingProjector": "projector",
    "TOKENIZER_TYPES": "u2llm_config",
    "U2LLM": "u2llm",
    "U2LLMConfig": "u2llm_config",
    "U2LLMOutput": "u2llm",
    "U2Tokenizer": "u2_tokenizer",
    "ViT3D": "vit3d",
    "convert_official": "official_checkpoints",
    "file_sha256": "checkpoints",
    "load_model_weights": "checkpoints",
    "distribute": "parallel",
    "load_vision_checkpoint": "checkpoints",
    "prepare_finetuning": "finetuning",
    "relative_windows": "vit3d",
    "u2_tokenizer_paper": "paper_u2_tokenizer",
    "unwrapped": "parallel",
}

__getattr__, __dir__ = lazy_attributes(__name__, _NAMES)
