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

from typing import Any

import pytest

from monai_u2.evaluation import ReportScorer, compare_reports
from monai_u2.evaluation.comparison import comparison_table
from monai_u2.exceptions import InputError

Entries = list[dict[str, Any]]


def test_two_runs(predictions: Entries, references: Entries, scorer: ReportScorer) -> None:
    comparison = compare_reports(references, predictions, references, (scorer, scorer))
    row = comparison["metrics"]["micro_f1"]
    assert row["first"] == 1.0 > row["second"] and row["difference"] == pytest.approx(row["first"] - row["second"])
    assert row["low"] <= row["difference"] <= row["high"] and row["p_value"] <= row["p_holm"] <= 1
    assert comparison["cases"]["empty_reports"] == [[], ["c8"]] and comparison["cases"]["scored"] == 12
    assert "| micro_f1 | 1.000 |" in comparison_table(comparison)


def test_a_run_against_itself(predictions: Entries, references: Entries, scorer: ReportScorer) -> None:
    comparison = compare_reports(predictions, predictions, references, (scorer, scorer))
    assert {(row["difference"], row["p_value"]) for row in comparison["metrics"].values()} == {(0.0, 1.0)}


def test_runs_of_other_cases_are_refused(predictions: Entries, references: Entries, scorer: ReportScorer) -> None:
    with pytest.raises(InputError, match="of different cases"):
        compare_reports(predictions, predictions[:-1], references, (scorer, scorer))


def test_a_kind_that_is_null_asks_for_a_report(predictions: Entries, references: Entries, scorer: ReportScorer) -> None:
    null = [reference | {"kind": None} for reference in references]
    runs = [compare_reports(references, predictions, entries, (scorer, scorer)) for entries in (references, null)]
    assert runs[0] == runs[1]
