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
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bert_score import BERTScorer
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from monai_u2.evaluation import ReportScorer, compare_reports, evaluate_reports
from monai_u2.exceptions import InputError
from monai_u2.metrics import BertScore, MeanReportScore

Pairs = tuple[list[str], list[str]]
WriteTokenizer = Callable[..., int]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def bert(pairs: Pairs, write_tokenizer: WriteTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights that takes 256 tokens, its tokenizer as many."""
    folder = tmp_path_factory.mktemp("bert")
    size = write_tokenizer(folder, pairs[1], model_max_length=256)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=size, max_position_embeddings=256, **SIZES)).save_pretrained(folder)
    return folder


def test_is_the_librarys(bert: Path, pairs: Pairs) -> None:
    scores = BertScore(bert, num_layers=2)(*pairs)["bertscore"]
    filled = [place for place, report in enumerate(pairs[0]) if report]
    texts = [[side[place] for place in filled] for side in pairs]
    library = BERTScorer(model_type=str(bert), num_layers=2, batch_size=16, use_fast_tokenizer=True)
    _, _, f1 = library.score(*texts, batch_size=16)
    assert len(filled) == 59 and scores[filled].tolist() == f1.double().tolist()
    assert scores[9] == 0  # empty
    assert scores[7] == pytest.approx(1, abs=1e-5)  # the reference itself
    assert len(set(scores.tolist())) > 20


def test_long_texts_are_counted(
    pairs: Pairs, write_tokenizer: WriteTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A tokenizer that knows no limit, and a RoBERTa of 64 positions, of which it uses 62."""
    size = write_tokenizer(tmp_path, pairs[1])
    RobertaModel(RobertaConfig(vocab_size=size, max_position_embeddings=64, pad_token_id=0, **SIZES)).save_pretrained(
        tmp_path
    )
    score = BertScore(tmp_path, num_layers=1)
    assert score.max_tokens == 62
    with caplog.at_level(logging.WARNING):
        score(["Short.", "Short.", " ".join(["cyst"] * 61)], ["Short.", pairs[1][0], "Short."])
    assert score.truncated.tolist() == [False, True, True]
    assert "2 of 3 cases have more than 62 tokens" in caplog.text
    score([" ".join(["cyst"] * 60)], ["Short."])
    assert score.truncated.tolist() == [False]


def test_evaluations_name_model_layer_and_cut_cases(bert: Path) -> None:
    references = [{"id": "a", "report": "Short."}, {"id": "b", "report": "Short."}]
    told = [{"id": "a", "report": " ".join(["cyst"] * 300)}, {"id": "b", "report": "Short."}]
    scorer = ReportScorer(text_metrics=False, bertscore=str(bert), bertscore_layers=1, num_samples=20)
    metrics = evaluate_reports({"model": told}, references, scorer).metrics
    assert metrics["settings"]["bertscore"] == {"model": bert.name, "layer": 1}
    assert metrics["cases"]["bertscore_truncated"] == ["a"]
    compared = compare_reports(told, references, references, (scorer, scorer))
    assert compared["settings"]["bertscore"]["layer"] == 1 and compared["cases"]["bertscore_truncated"] == [["a"], []]


def test_only_empty_reports_score_0(bert: Path) -> None:
    assert BertScore(bert, num_layers=1)(["", " "], ["Normal.", "Normal."])["bertscore"].tolist() == [0, 0]


def test_metric_is_equal_in_one_and_two_processes(bert: Path, pairs: Pairs, in_one_and_two: Callable[..., Any]) -> None:
    metric = MeanReportScore(BertScore(bert, num_layers=1, batch_size=1), name="bertscore")
    assert 0.1 < in_one_and_two(metric, pairs) < 1


def test_bad_input(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="roberta-large: is no folder; expected a model"):
        BertScore("roberta-large")
    with pytest.raises(InputError, match="give num_layers"):
        BertScore(bert)
    for layer in (0, True, "2"):
        with pytest.raises(InputError, match="the layer for BERTScore is"):
            BertScore(bert, num_layers=layer)
    with pytest.raises(InputError, match="has no layer 3"):
        BertScore(bert, num_layers=3)
    with pytest.raises(InputError, match=r"references \[1\] are empty"):
        BertScore(bert, num_layers=1)(["a", "b"], ["a", " "])
    with pytest.raises(InputError, match="1 reports and 2 references"):
        BertScore(bert, num_layers=1)(["a"], ["a", "b"])
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(InputError, match=r"bert-score is not installed.*monai-u2\[metrics\]"):
        BertScore(bert, num_layers=1)
