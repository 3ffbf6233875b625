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

"""Word overlap of reports: a validation's measure where no finding labels can be read from a report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def word_f1(report: str, reference: str) -> float:
    """F1 of the words that two texts share, each as often as both have it (ROUGE-1's F, without stemming); 0 to 1.

    It tells whether a training goes on, not whether a report is right: a wrong side costs one word.
    """
    words, expected = (Counter(re.findall(r"\w+", text.casefold())) for text in (report, reference))
    total = words.total() + expected.total()
    return 2 * (words & expected).total() / total if total else 0.0


def word_f1_of_cases(output: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """:func:`word_f1` of each case of an evaluator's output, as `ignite.metrics.Average` takes it.

    Args:
        output: one dict a case, with the texts `report` and `reference`.

    Returns:
        `(B, 1)`.
    """
    return torch.tensor([[word_f1(case["report"], case["reference"])] for case in output])
