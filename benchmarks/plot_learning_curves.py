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

"""Learning curves of `docs/results/*.json` as PNG::

python benchmarks/plot_learning_curves.py --results docs/results --output docs/images
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fire
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def finish(axes: Axes, title: str, x: str, y: str, path: Path) -> None:
    """Labels, legend, file."""
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    axes.figure.tight_layout()
    axes.figure.savefig(path, dpi=110)
    plt.close(axes.figure)


def plot_learning_curves(results: str = "docs/results", output: str = "docs/images") -> None:
    """Draw the trials of the vision tower, the recipe's two stages, and the token paths.

    Args:
        results: folder with `vision_trials.json`, `recipe.json` and `token_paths.json`; those that are there are drawn.
        output: folder for the pictures.
    """
    source, target = Path(results), Path(output)
    target.mkdir(parents=True, exist_ok=True)
    if (source / "vision_trials.json").is_file():
        _, axes = plt.subplots(figsize=(8, 5))
        for trial in read(source / "vision_trials.json"):
            steps = [int(step) for step in trial["f1"]]
            axes.plot(steps, list(trial["f1"].values()), marker="o", markersize=3, label=trial["name"])
        finish(axes, "Vision tower, 64 validation phantoms", "steps of 8", "finding F1", target / "vision_trials.png")
    if (source / "recipe.json").is_file():
        _, axes = plt.subplots(figsize=(8, 5))
        for stage, points in read(source / "recipe.json").items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=stage)
        finish(axes, "The shipped model, 64 validation phantoms", "epochs", "finding F1", target / "recipe.png")
    if (source / "token_paths.json").is_file():
        _, axes = plt.subplots(figsize=(8, 5))
        rows = read(source / "token_paths.json")["runs"]
        for name in dict.fromkeys(row["variant"] for row in rows):
            losses = np.array([row["losses"] for row in rows if row["variant"] == name])
            width = max(1, losses.shape[1] // 30)
            smooth = losses[:, : losses.shape[1] // width * width].reshape(len(losses), -1, width).mean(axis=2)
            steps = (np.arange(smooth.shape[1]) + 0.5) * width
            axes.plot(steps, smooth.mean(axis=0), label=name)
            axes.fill_between(steps, smooth.min(axis=0), smooth.max(axis=0), alpha=0.15)
        axes.set_yscale("log")
        finish(axes, "Token paths at equal budget", "steps of 8", "training loss", target / "token_paths.png")


if __name__ == "__main__":
    fire.Fire(plot_learning_curves)
