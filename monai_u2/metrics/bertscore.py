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

"""BERTScore from a model on this machine."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_u2.exceptions import InputError

_DEFAULT_LENGTH = 512  # tokens of BERT and RoBERTa


class BertScore:
    """BERTScore F1 of each case by `bert-score`; called with reports and references.

    The scores are comparable within one model and layer only. An empty report scores 0. A text longer than the model
    takes is cut by `bert-score`: such cases are counted in a warning and told by :attr:`truncated`.

    Args:
        model: folder of the model with its text tokenizer, as `save_pretrained` writes them. The published numbers use
            `roberta-large`.
        num_layers: layer whose embeddings are compared; known for models whose folder has the name of one that
            `bert-score` knows (17 for `roberta-large`).
        batch_size: texts at once.
        device: where the model runs; a GPU where there is one.

    Attributes:
        name: name of the model's folder.
        num_layers: the layer.
        truncated: of the last call, whether the report or the reference was cut, boolean `(cases,)`.

    Raises:
        InputError: when `bert-score` is missing, the folder isn't there, or the layer is unknown or not the model's.
    """

    def __init__(
        self, model: str | Path, num_layers: int | None = None, batch_size: int = 16, device: str | None = None
    ) -> None:
        try:
            library = importlib.import_module("bert_score")
        except ImportError as error:
            raise InputError(
                f"bert-score is not installed (no module {error.name}). Install it: pip install 'monai-u2[metrics]'."
            ) from error
        folder = Path(model)
        if not folder.is_dir():
            raise InputError(
                f"{model}: is no folder; expected a model with its text tokenizer on this machine. Download it first, "
                "for example with hf download roberta-large --local-dir roberta-large."
            )
        self.name = folder.resolve().name
        if num_layers is None:
            num_layers = importlib.import_module("bert_score.utils").model2layers.get(self.name)
        if num_layers is None:
            raise InputError(
                f"{model}: bert-score knows no layer for a model of this name; give num_layers, which is "
                "bertscore_layers in evaluations."
            )
        if not isinstance(num_layers, int) or isinstance(num_layers, bool) or num_layers < 1:
            raise InputError(f"the layer for BERTScore is {num_layers!r}; expected a whole number from 1 on.")
        self.num_layers = num_layers
        self.truncated = np.zeros(0, dtype=bool)
        try:
            self._scorer = library.BERTScorer(
                model_type=str(folder),
                num_layers=num_layers,
                batch_size=batch_size,
                device=device,
                use_fast_tokenizer=True,
            )
        except AssertionError as error:
            raise InputError(f"{model}: has no layer {num_layers} ({error}); give another one.") from error
        tokenizer = self._scorer._tokenizer
        places = getattr(self._scorer._model.config, "max_position_embeddings", _DEFAULT_LENGTH)
        offset = (
            2 if self._scorer._model.config.model_type == "roberta" else 0
        )  # its positions start behind the padding
        self.max_tokens = min(tokenizer.model_max_length, places - offset)
        tokenizer.model_max_length = self.max_tokens
        self._tokenizer = tokenizer
        self._batch_size = batch_size

    def __call__(self, reports: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        """`bertscore`: F1 `(cases,)`.

        Raises:
            InputError: when there is no case, a reference is empty, or the numbers of texts differ.
        """
        if len(reports) != len(references) or not reports:
            raise InputError(f"{len(reports)} reports and {len(references)} references; expected as many, 1 or more.")
        if empty := [place for place, text in enumerate(references) if not text.strip()]:
            raise InputError(f"the references {empty} are empty; expected texts. Drop the cases.")
        self.truncated = np.array([self._is_long(a) or self._is_long(b) for a, b in zip(reports, references)])
        if self.truncated.any():
            logging.getLogger(__name__).warning(
                "BERTScore: %d of %d cases have more than %d tokens; the model sees their beginning only.",
                self.truncated.sum(),
                len(reports),
                self.max_tokens,
            )
        scores = np.zeros(len(reports))
        filled = [place for place, text in enumerate(reports) if text.strip()]
        if filled:
            _, _, f1 = self._scorer.score(
                [reports[place] for place in filled],
                [references[place] for place in filled],
                batch_size=self._batch_size,
            )
            scores[filled] = f1.double().numpy()
        return {"bertscore": scores}

    def _is_long(self, text: str) -> bool:
        return len(self._tokenizer.encode(text.strip(), truncation=False)) > self.max_tokens
