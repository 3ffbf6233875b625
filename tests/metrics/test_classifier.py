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

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from monai_u2.exceptions import InputError
from monai_u2.metrics import ReportClassifier, label_reports

LABELS = ["Cardiomegaly", "Lung nodule", "Hiatal hernia"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
SIZES |= {"max_position_embeddings": 64}


@pytest.fixture(scope="module")
def vocabulary(pairs: tuple[list[str], list[str]]) -> list[str]:
    return pairs[1]


@pytest.fixture(scope="module")
def folder(
    vocabulary: list[str], write_tokenizer: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A classifier of random weights, large enough that its labels depend on the text."""
    path = tmp_path_factory.mktemp("classifier")
    size = write_tokenizer(path, vocabulary)
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    network = BertForSequenceClassification(BertConfig(vocab_size=size, initializer_range=1.0, **SIZES, **names))
    network.save_pretrained(path)
    return path


def test_labels_are_those_above_the_threshold(folder: Path, vocabulary: list[str]) -> None:
    from transformers import AutoTokenizer

    classifier = ReportClassifier(folder)
    texts = [sentence for text in vocabulary for sentence in text.split("\n")[1:4]]
    matrix = label_reports(texts, classifier, LABELS)
    network = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = torch.cat([network(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    assert matrix.tolist() == (logits > 0).tolist()
    assert 0 < matrix.mean() < 1 and len({tuple(row) for row in matrix.tolist()}) > 1
    everything = ReportClassifier(folder, labels=["a", "b", "c"], threshold=0.0)
    assert everything(texts[0]) == ["a", "b", "c"] and everything(" ") == []


def test_long_texts_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    classifier = ReportClassifier(folder)
    with caplog.at_level(logging.WARNING):
        for words in (62, 63, 200):
            classifier(" ".join(["cyst"] * words))
    assert classifier.truncated == 2 and "2 texts so far have more than 64 tokens" in caplog.text


def test_bad_input(folder: Path, vocabulary: list[str], write_tokenizer: Callable[..., int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="radbert: is no folder"):
        ReportClassifier("radbert")
    with pytest.raises(InputError, match="has 3 outputs, its labels are"):
        ReportClassifier(folder, labels=["a", "b"])
    with pytest.raises(InputError, match="can't be loaded as a text classifier"):
        ReportClassifier(tmp_path)
    size = write_tokenizer(tmp_path, vocabulary)
    BertForSequenceClassification(BertConfig(vocab_size=size, num_labels=2, **SIZES)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"its labels are \['LABEL_0', 'LABEL_1'\].*Give labels"):
        ReportClassifier(tmp_path)
    BertModel(BertConfig(vocab_size=size, **SIZES)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="lacks the weights .*classifier.weight"):
        ReportClassifier(tmp_path, labels=["a", "b"])
