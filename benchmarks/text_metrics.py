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

"""Time and memory of scoring reports: text metrics, and intervals from resampled cases.

Pairs are phantom reports, three cases to a text, which gives the length of a CT-RATE report (about 200 words). The
interval is compared with a loop over the resamples that calls the plain function.

    python benchmarks/text_metrics.py --output runs/text_metrics.json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import fire
import numpy as np
from bundle_model import peak_memory, reset_peak_memory, write_figures

from monai_u2.data.phantom import FINDING_LABELS, draw_case, parse_findings, write_report
from monai_u2.metrics import (
    bleu_scores,
    bootstrap_intervals,
    compare_runs,
    f1_statistic,
    label_reports,
    mean_statistic,
    meteor_scores,
    micro_f1,
    paper_bleu1,
    rouge_scores,
)

_CASES_IN_A_TEXT = 3
_LOOPED = 200  # resamples of the loop, whose time is scaled


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it gives."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main(num_pairs: int = 3000, num_samples: int = 10_000, output: str | None = None) -> None:
    """Print seconds and gigabytes.

    Args:
        num_pairs: pairs of report and reference.
        num_samples: resamples of an interval, and permutations of a test.
        output: JSON file for the figures.
    """
    cases = [write_report(draw_case(number)).text for number in range(num_pairs + _CASES_IN_A_TEXT)]
    references = ["\n".join(cases[first : first + _CASES_IN_A_TEXT]) for first in range(num_pairs)]
    reports = references[1:] + references[:1]
    words = np.mean([len(text.split()) for text in references])
    print(f"{num_pairs} pairs of {words:.0f} words")
    figures: dict[str, Any] = {"pairs": num_pairs, "words": float(words), "seconds": {}}
    reset_peak_memory()
    scores: dict[str, np.ndarray] = {}
    for scorer in (rouge_scores, bleu_scores, paper_bleu1, meteor_scores):
        seconds, found = timed(lambda scorer=scorer: scorer(reports, references))
        figures["seconds"][scorer.__name__] = seconds
        scores |= found
        print(f"{scorer.__name__:<24}{seconds:8.2f} s")
    figures["text_seconds"] = sum(figures["seconds"].values())
    print(f"{'all text metrics':<24}{figures['text_seconds']:8.2f} s")

    predicted, there = (label_reports(texts, parse_findings, FINDING_LABELS) for texts in (reports, references))
    statistics = {name: mean_statistic(values) for name, values in scores.items()}
    statistics["micro_f1"] = f1_statistic(predicted, there)
    statistics["macro_f1"] = f1_statistic(predicted, there, "macro")
    for name, chosen in (("rouge1", ["rouge1"]), ("micro_f1", ["micro_f1"]), ("all", list(statistics))):
        picked = {key: statistics[key] for key in chosen}
        seconds, _ = timed(lambda picked=picked: bootstrap_intervals(picked, num_samples=num_samples))
        figures["seconds"][f"bootstrap {name}"] = seconds
        print(f"{f'bootstrap, {name}':<24}{seconds:8.2f} s")
    seconds, _ = timed(lambda: compare_runs(statistics, statistics, num_samples=num_samples))
    figures["seconds"]["compare all"] = seconds
    print(f"{'two runs compared, all':<24}{seconds:8.2f} s")
    figures["peak_gigabytes"] = peak_memory() / 1e9

    draws = np.random.default_rng(0).integers(num_pairs, size=(_LOOPED, num_pairs))
    seconds, _ = timed(lambda: [micro_f1(predicted[draw], there[draw]) for draw in draws])
    figures["seconds"]["bootstrap micro_f1, loop"] = seconds * num_samples / _LOOPED
    figures["ratio"] = figures["seconds"]["bootstrap micro_f1, loop"] / figures["seconds"]["bootstrap micro_f1"]
    print(f"{'bootstrap, plain loop':<24}{figures['seconds']['bootstrap micro_f1, loop']:8.2f} s")
    print(f"{figures['ratio']:.0f} times as fast as the loop; peak {figures['peak_gigabytes']:.2f} GB")
    write_figures(output, figures)


if __name__ == "__main__":
    fire.Fire(main)
