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

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler, from_engine

from monai_u2.exceptions import InputError
from monai_u2.metrics import CollapseMetric, MeanReportScore


def lengths(reports: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """Lengths of both; an empty report has none."""
    return {
        "report": np.array([len(report) or np.nan for report in reports]),
        "reference": np.array([len(reference) for reference in references]),
    }


def test_means_accumulate_over_batches() -> None:
    metric = MeanReportScore(lengths)
    metric(y_pred=["a", ""], y=["aa", "bb"])
    metric(y_pred=["abc"], y=["cc"])
    assert metric.aggregate() == {"report": 2, "reference": 2}
    assert len(metric) == 3
    metric.reset()
    metric(y_pred=[""], y=["abcd"])
    assert metric.aggregate() == pytest.approx({"report": np.nan, "reference": 4}, nan_ok=True)
    metric.reset()
    with pytest.raises(ValueError, match="MeanReportScore has seen no case"):
        metric.aggregate()


def test_one_score_by_name() -> None:
    metric = MeanReportScore(lengths, name="report")
    metric(y_pred=["abc"], y=["cc"])
    assert metric.aggregate() == 3
    with pytest.raises(InputError, match="no score 'words'; expected one of report, reference"):
        MeanReportScore(lengths, name="words")(y_pred=["abc"], y=["cc"])


def test_texts_only() -> None:
    with pytest.raises(TypeError, match="takes lists of strings"):
        MeanReportScore(lengths)(y_pred=torch.zeros(2, 3), y=torch.zeros(2, 3))
    with pytest.raises(InputError, match="1 reports and 2 references"):
        MeanReportScore(lengths)(y_pred=["a"], y=["a", "b"])


def test_monai_handler_reads_decoded_texts() -> None:
    cases = [{"report": "abc", "answer": "ab"}, {"report": "a", "answer": "abcd"}]
    engine = Engine(lambda engine, batch: batch)
    keys = from_engine(["report", "answer"])
    IgniteMetricHandler(MeanReportScore(lengths), output_transform=keys).attach(engine, "lengths")
    IgniteMetricHandler(MeanReportScore(lengths, name="report"), output_transform=keys).attach(engine, "length")
    IgniteMetricHandler(CollapseMetric(), output_transform=keys).attach(engine, "collapse")
    engine.run([cases, cases[:1]])
    assert engine.state.metrics["length"] == engine.state.metrics["lengths"]["report"] == pytest.approx(7 / 3)
    assert engine.state.metrics["distinct_reports"] == pytest.approx(2 / 3)
    assert engine.state.metric_details["length"].tolist() == [[3], [1], [3]]


def test_means_are_equal_in_one_and_two_processes(in_one_and_two: Callable[..., Any]) -> None:
    """Numbers of many sizes, whose sum depends on the order in which they are added."""

    def thirds(reports: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        sizes = [10.0 ** len(reference) for reference in references]
        return {"third": np.array([len(report) / 3 * size for report, size in zip(reports, sizes)])}

    pairs = ["a" * (1 + number % 7) for number in range(40)], ["a" * (number % 5) for number in range(40)]
    assert in_one_and_two(MeanReportScore(thirds), pairs)["third"] > 0
