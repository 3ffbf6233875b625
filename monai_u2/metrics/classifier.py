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

"""Finding labels of a report by a text classifier of Hugging Face, such as CT-RATE's RadBERT."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from monai_u2.exceptions import InputError

_DEFAULT_LENGTH = 512  # tokens of BERT and RoBERTa


class ReportClassifier:
    """A labeller: from a text to the labels whose probability is above a threshold.

    A text that is longer than the model takes is cut, with a warning and counted in :attr:`truncated`. An empty text
    has no finding.

    Args:
        model: folder of a multi-label sequence classifier with its text tokenizer, as `save_pretrained` writes them.
        labels: its labels in the order of its outputs; those of its configuration without.
        threshold: probability above which a label is there.
        device: where the model runs; a GPU where there is one.

    Attributes:
        labels: the labels.
        truncated: number of texts that were cut so far.

    Raises:
        InputError: when the folder isn't there, holds no such model, or the labels aren't as many as its outputs.
    """

    def __init__(
        self,
        model: str | Path,
        labels: Sequence[str] | None = None,
        threshold: float = 0.5,
        device: str | None = None,
    ) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = Path(model)
        if not folder.is_dir():
            raise InputError(
                f"{model}: is no folder; expected a text classifier with its tokenizer on this machine. Download it "
                "first, for example with hf download IAMJB/RadBERT-CT --local-dir radbert_ct."
            )
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
            network, loaded = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{model}: can't be loaded as a text classifier: {error}") from error
        if loaded["missing_keys"]:
            raise InputError(
                f"{model}: lacks the weights {sorted(loaded['missing_keys'])}; expected a trained classifier."
            )
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._network = network.eval().to(self._device)
        names = network.config.id2label
        self.labels = list(labels) if labels is not None else [names[place] for place in range(len(names))]
        if len(self.labels) != network.config.num_labels or self.labels[0] == "LABEL_0":
            raise InputError(
                f"{model}: has {network.config.num_labels} outputs, its labels are {self.labels}; expected a name for "
                "each. Give labels."
            )
        self.threshold = threshold
        self.truncated = 0
        positions = getattr(network.config, "max_position_embeddings", _DEFAULT_LENGTH)
        offset = 2 if network.config.model_type == "roberta" else 0  # its positions start behind the padding's
        self._max_tokens = min(self._tokenizer.model_max_length, positions - offset)

    @torch.no_grad()
    def __call__(self, text: str) -> list[str]:
        """Labels that a report states, in the order of :attr:`labels`."""
        if not text.strip():
            return []
        ids = self._tokenizer(text, truncation=True, max_length=self._max_tokens, return_tensors="pt")
        if len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"]) > self._max_tokens:
            self.truncated += 1
            logging.getLogger(__name__).warning(
                "%d texts so far have more than %d tokens; only their beginning is classified.",
                self.truncated,
                self._max_tokens,
            )
        probabilities = torch.sigmoid(self._network(**ids.to(self._device)).logits[0]).tolist()
        return [label for label, probability in zip(self.labels, probabilities) if probability > self.threshold]
