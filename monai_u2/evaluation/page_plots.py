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

"""Plots of an evaluation as SVG elements whose colors are those of the page around them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# stand-ins while drawing -> CSS of the page
_INK, _FAINT, _MODEL, _REFERENCE = "#010101", "#020202", "#030303", "#040404"
_COLORS = {_INK: "currentColor", _FAINT: "var(--rule)", _MODEL: "var(--model)", _REFERENCE: "var(--reference)"}
_STYLE = {
    "axes.edgecolor": _FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.color": _FAINT,
    "ytick.labelcolor": _INK,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def draw_scores(scores: Mapping[str, Sequence[float]]) -> str:
    """Draw how each metric is distributed over the cases, with its mean.

    Args:
        scores: metric -> scores of the cases that have one, 1 or more.
    """
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(_STYLE):
        figure = _figure(3.0 * len(scores), 2.6)
        for axes, (name, values) in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores.items()):
            low, high = min(0.0, *values), max(1.0, *values)
            axes.hist(values, np.linspace(low, high, 21), color=_MODEL)
            mean = float(np.mean(values))
            axes.axvline(mean, color=_INK, linestyle="--", linewidth=1.2)
            axes.set(title=f"{name}\nmean {mean:.2f} of {len(values)} cases", xlabel="score", xlim=(low, high))
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.axes[0].set_ylabel("cases")
        return _svg(figure, "scores", "Histograms of the scores of the cases: " + ", ".join(scores))


def draw_findings(findings: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw F1 with its interval for each finding, and how often it is there, named and matched.

    Args:
        findings: label -> `f1` (`value`, `low`, `high`), `positives`, `named`, `matched`; only labels with an F1.
    """
    import matplotlib

    rows = np.arange(len(findings))
    with matplotlib.rc_context(_STYLE):
        figure = _figure(9.0, 0.9 + 0.26 * len(findings))
        axes = figure.subplots()
        for row, finding in zip(rows, findings.values()):
            f1 = finding["f1"]
            if f1["low"] is not None and f1["high"] is not None:
                axes.plot([f1["low"], f1["high"]], [row, row], color=_MODEL, linewidth=2)
            axes.plot(f1["value"], row, "o", color=_MODEL, markersize=5.5)
        columns = (("there", "positives", 1.08), ("named", "named", 1.23), ("matched", "matched", 1.39))
        for title, key, x in columns:
            axes.text(x, -1, title, ha="center", va="center", fontweight="bold")
            for row, finding in zip(rows, findings.values()):
                axes.text(x, row, str(finding[key]), ha="center", va="center")
        axes.set_yticks(rows, list(findings))
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set(xlabel="F1", xlim=(-0.02, 1.47), ylim=(len(findings) - 0.5, -1.5))
        axes.xaxis.set_label_coords(0.52 / 1.49, -0.4 / max(1.0, 0.26 * len(findings)))
        axes.grid(axis="y", visible=False)
        axes.spines["bottom"].set_bounds(0, 1)
        return _svg(
            figure, "findings", "F1 of each finding with its interval and counts; the table below has the numbers"
        )


def draw_lengths(reports: Sequence[int], references: Sequence[int]) -> str:
    """Draw the lengths in words of the model's reports and of their references, on one scale.

    Args:
        reports: of each case.
        references: in the same order.
    """
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    longest = max(*reports, *references, 20)
    with matplotlib.rc_context(_STYLE):
        figure = _figure(9.0, 3.0)
        counts, pairs = figure.subplots(1, 2, width_ratios=(2, 1))
        bins = np.linspace(0, longest, 31)
        counts.hist(
            references, bins, color=_REFERENCE, histtype="step", linewidth=2, linestyle="--", label="references"
        )
        counts.hist(reports, bins, color=_MODEL, alpha=0.7, label="model")
        counts.set(xlabel="words", ylabel="reports", xlim=(0, longest))
        counts.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        counts.legend(loc="upper left")
        pairs.plot([0, longest], [0, longest], color=_REFERENCE, linestyle="--", linewidth=1.2)
        pairs.plot(references, reports, "o", color=_MODEL, markersize=3.5, alpha=0.6)
        pairs.set(xlabel="words of the reference", ylabel="words of the model", aspect="equal")
        pairs.set(xlim=(0, longest * 1.03), ylim=(0, longest * 1.03))
        return _svg(figure, "lengths", "Histogram of the lengths of the model's reports and of the references in words")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an element; ids begin with the name, since a page holds several."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=_NO_METADATA)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:version|xmlns(?::xlink)?)="[^"]*"', "", svg)
    svg = re.sub(r'\bid="|href="#|url\(#', lambda match: match.group() + name + "-", svg).replace("xlink:href", "href")
    for color, css in _COLORS.items():
        svg = svg.replace(color, css)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description, quote=True)}"', 1)
