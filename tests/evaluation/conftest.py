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

from monai_u2.data.phantom import FINDING_LABELS, draw_case, parse_findings, write_report
from monai_u2.evaluation import ReportScorer, TextLabels
from monai_u2.judges import FindingsJudge


@pytest.fixture
def references() -> list[dict[str, Any]]:
    """Twelve phantoms of six patients."""
    return [{"id": f"c{n}", "report": write_report(draw_case(n)).text, "patient": f"p{n // 2}"} for n in range(12)]


@pytest.fixture
def predictions(references: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Right, empty, and one report for all others."""
    reports = [reference["report"] for reference in references]
    texts = [*reports[:8], "", *[reports[3]] * 3]
    return [{"id": reference["id"], "report": text} for reference, text in zip(references, texts)]


@pytest.fixture
def scorer() -> ReportScorer:
    labels = TextLabels(parse_findings, FINDING_LABELS)
    return ReportScorer(labels=labels, judge=FindingsJudge(parse_findings), num_samples=200, seed=3)
