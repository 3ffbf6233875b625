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

"""What came out of the samples: scores, margins, what was dropped and why, as numbers and as a plot."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monai_u2.judges.base import STATUSES
from monai_u2.preferences.filtering import DROP_REASONS
from monai_u2.preferences.pairs import NO_PAIR_REASONS

_BINS = np.linspace(0.0, 1.0, 21)


@dataclass
class SummaryCounts:
    """What is counted case by case.

    Args:
        samples: number of samples.
        dropped: reasons of dropped samples.
        scores: scores of the judged samples.
        spreads: best minus worst score of each case with two scores or more.
        margins: chosen minus rejected score of each pair.
        tokens: length of the chosen and of the rejected sample of each pair.
        cases_with_pairs: number of cases with a pair.
        cases_without_pairs: reasons of the others.
        failures: a dict of `image` (the file's name), `case_key`, `sample`, `status` and `explanation` for each
            judgement without a score.
    """

    samples: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    scores: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    tokens: list[tuple[int, int]] = field(default_factory=list)
    cases_with_pairs: int = 0
    cases_without_pairs: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def to_summary(self) -> dict[str, Any]:
        """Return the counts as JSON values; each distribution with its number, mean, quartiles and histogram."""
        statuses = Counter(failure["status"] for failure in self.failures)
        lengths = np.array(self.tokens, dtype=float).reshape(-1, 2)
        return {
            "cases": self.cases_with_pairs + sum(self.cases_without_pairs.values()),
            "cases_with_pairs": self.cases_with_pairs,
            "cases_without_pairs": {reason: self.cases_without_pairs[reason] for reason in NO_PAIR_REASONS},
            "pairs": len(self.margins),
            "samples": self.samples,
            "dropped_samples": {reason: self.dropped[reason] for reason in DROP_REASONS},
            "scores": _distribution(self.scores),
            "spreads": _distribution(self.spreads),
            "margins": _distribution(self.margins),
            "mean_tokens": {
                name: float(column.mean()) if len(column) else None
                for name, column in zip(("chosen", "rejected"), lengths.T)
            },
            "failed_judgements": {status: statuses[status] for status in STATUSES if status != "ok"},
            "failures": self.failures,
        }


def _distribution(values: Sequence[float]) -> dict[str, Any]:
    values = sorted(values)  # shares of the cases come in any order, and a sum depends on it in its last digits
    histogram, _ = np.histogram(values, _BINS)
    numbers: dict[str, Any] = {"count": len(values), "mean": None, "quartiles": None}
    if values:
        numbers["mean"] = float(np.mean(values))
        numbers["quartiles"] = [float(value) for value in np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0])]
    return {**numbers, "histogram": histogram.tolist()}


def plot_summary(summary: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw a summary: scores of the samples, margins of the pairs, and what became of samples and cases.

    Args:
        summary: as it stands in `summary.json`.
        path: PNG file; it appears whole or not at all.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    scores, margins, fates = figure.subplots(1, 3)
    for axes, name, label in ((scores, "scores", "score of a sample"), (margins, "margins", "margin of a pair")):
        axes.stairs(summary[name]["histogram"], _BINS, fill=True)
        axes.set(xlabel=label, ylabel="number", title=f"{summary[name]['count']} {name}", xlim=(0, 1))
    bars = {
        **{f"sample: {reason}": number for reason, number in summary["dropped_samples"].items()},
        **{f"judgement: {status}": number for status, number in summary["failed_judgements"].items()},
        **{f"case: {reason}": number for reason, number in summary["cases_without_pairs"].items()},
        "case: with pairs": summary["cases_with_pairs"],
    }
    names = [name.replace("_", " ") for name in bars]
    fates.bar_label(fates.barh(names, list(bars.values())))
    fates.invert_yaxis()
    fates.margins(x=0.15)
    fates.set_title(f"{summary['samples']} samples of {summary['cases']} cases")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=100)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
