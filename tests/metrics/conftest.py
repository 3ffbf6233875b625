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

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.metrics import CumulativeIterationMetric

from monai_u2.data.phantom import draw_case, write_report


def _altered(text: str, draws: random.Random) -> str:
    """Some words left out, some in another order."""
    words = [word for word in text.split(" ") if draws.random() > 0.1]
    place = draws.randrange(len(words) - 4)
    words[place : place + 4] = words[place : place + 4][::-1]
    return " ".join(words)


@pytest.fixture(scope="session")
def pairs() -> tuple[list[str], list[str]]:
    """60 generated reports and their references: altered, another case's, the same, and an empty one."""
    draws = random.Random(0)
    references = [write_report(draw_case(number)).text for number in range(60)]
    reports = [_altered(text, draws) for text in references]
    reports[40:] = references[20:40]
    reports[7], reports[9], reports[11] = references[7], "", "aorta"
    return reports, references


def _run(metric: CumulativeIterationMetric, pairs: tuple[list, list], sizes: tuple[int, ...]) -> Any:
    """What a metric gives where each process has so many of the pairs, in batches of 8."""
    from monai_u2.processes import process_index

    first = sum(sizes[: process_index()])
    mine = range(first, first + sizes[process_index()])
    for start in mine[::8]:
        batch = slice(start, min(start + 8, mine.stop))
        metric(y_pred=pairs[0][batch], y=pairs[1][batch])
    return metric.aggregate()


@pytest.fixture
def in_one_and_two(in_processes: Callable[..., list[Any]]) -> Callable[..., Any]:
    """Assert that a metric gives the same to the last bit in one and in two processes, also if one has no case."""

    def check(metric: CumulativeIterationMetric, pairs: tuple[list, list]) -> Any:
        number = len(pairs[0])
        alone = _run(metric, pairs, (number,))
        metric.reset()
        for share in (number // 3, 0):
            assert in_processes(2, _run, metric, pairs, (share, number - share)) == [alone] * 2
        return alone

    return check


@pytest.fixture(scope="session")
def write_tokenizer() -> Callable[..., int]:
    """Write a text tokenizer of these texts' words, as BERT has it, into a folder; it returns their number."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    def write(folder: Path, texts: list[str], **options: int) -> int:
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        splitter = pre_tokenizers.BertPreTokenizer()
        words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())})
        vocabulary = {word: place for place, word in enumerate([*special, *words])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = splitter
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **options).save_pretrained(folder)
        return len(vocabulary)

    return write
