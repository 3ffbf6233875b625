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

import json
from collections import Counter
from pathlib import Path

import pytest
from matplotlib.image import imread

from monai_u2.preferences import plot_summary
from monai_u2.preferences.summary import SummaryCounts


def test_numbers() -> None:
    counts = SummaryCounts(
        samples=24,
        dropped=Counter(empty=1, near_duplicate=4),
        scores=[0.0, 0.5, 0.5, 1.0],
        spreads=[1.0],
        margins=[1.0],
        tokens=[(10, 20)],
        cases_with_pairs=1,
        cases_without_pairs=Counter(small_margin=2),
        failures=[{"status": "truncated"}, {"status": "failed"}, {"status": "failed"}],
    )
    summary = json.loads(json.dumps(counts.to_summary()))
    assert summary["cases"] == 3 and summary["pairs"] == 1
    assert summary["dropped_samples"] == {"empty": 1, "cut_off": 0, "repetition": 0, "near_duplicate": 4}
    assert summary["cases_without_pairs"]["small_margin"] == 2
    assert summary["scores"]["mean"] == 0.5 and summary["scores"]["quartiles"] == [0.0, 0.375, 0.5, 0.625, 1.0]
    assert sum(summary["scores"]["histogram"]) == summary["scores"]["count"] == 4
    assert summary["mean_tokens"] == {"chosen": 10.0, "rejected": 20.0}
    assert summary["failed_judgements"] == {"truncated": 1, "unparsable": 0, "failed": 2}


@pytest.mark.parametrize("counts", [SummaryCounts(), SummaryCounts(scores=[0.25] * 8, margins=[0.5], samples=8)])
def test_plot(counts: SummaryCounts, tmp_path: Path) -> None:
    plot_summary(counts.to_summary(), tmp_path / "summary.png")
    assert [path.name for path in tmp_path.iterdir()] == ["summary.png"]
    assert imread(tmp_path / "summary.png").std() > 0.05
