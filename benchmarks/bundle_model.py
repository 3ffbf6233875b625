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

"""What the benchmarks share: a bundle's model that answers questions, intervals over resampled cases, figure files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from monai_u2.data import collate_reports
from monai_u2.data.phantom import FINDING_LABELS
from monai_u2.data.records import write_text_atomically
from monai_u2.engines import PrepareReportBatch


def load_bundle(bundle: str | Path, device: str = "cpu", checkpoint: str | Path | None = None) -> ConfigParser:
    """The bundle's inference configuration with its trained network (or another checkpoint), in evaluation mode."""
    root = Path(bundle).resolve()
    parser = ConfigParser()
    parser.read_config(root / "configs" / "inference.json")
    parser.update({"bundle_root": str(root), "device": device})
    if checkpoint is not None:
        parser["checkpoint"] = str(checkpoint)
    state = torch.load(parser.get_parsed_content("checkpoint"), weights_only=True, map_location=device)
    network = parser.get_parsed_content("network")
    network.load_state_dict(state)
    network.eval()
    return parser


def answer_questions(parser: ConfigParser, image: str | Path, questions: Sequence[str]) -> list[str]:
    """Greedy answers to several questions about one volume, which is encoded once."""
    case = parser.get_parsed_content("preprocessing")({"image": str(image), "question": list(questions)})
    batch = collate_reports([{key: case[key] for key in ("image", "input_ids", "question_ids")}])
    image, _, _, arguments = PrepareReportBatch()(batch, parser.get_parsed_content("device"))
    network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("inferer")
    tokenizer = parser.get_parsed_content("text_tokenizer")
    ids = inferer(image, network, **arguments)
    return [tokenizer.decode(row.tolist(), skip_special_tokens=True).strip() for row in ids]


def findings_matrix(findings: Sequence[Sequence[str]]) -> np.ndarray:
    """Labels of each case to a boolean matrix `(cases, findings)`."""
    return np.array([[label in case for label in FINDING_LABELS] for case in findings])


def case_bootstrap(
    statistic: Callable[[np.ndarray], float], num_cases: int, *, num_samples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """A number over cases with its 95 % percentile interval, from resampled cases.

    Args:
        statistic: from indexes of cases to the number; NaN where these cases don't give one.
        num_cases: number of cases.
        num_samples: number of resamples.
        seed: seed of the resampling.

    Returns:
        `value, low, high`.
    """
    draws = np.random.default_rng(seed).integers(num_cases, size=(num_samples, num_cases))
    low, high = np.nanquantile([statistic(draw) for draw in draws], [0.025, 0.975])
    return {"value": float(statistic(np.arange(num_cases))), "low": float(low), "high": float(high)}


def ratio(hits: np.ndarray, counts: np.ndarray) -> Callable[[np.ndarray], float]:
    """Statistic of :func:`case_bootstrap`: hits of all cases over counts of all cases, each `(cases,)`."""
    return lambda cases: hits[cases].sum() / counts[cases].sum() if counts[cases].sum() else float("nan")


def show(number: dict[str, float], digits: int = 3) -> str:
    """A number with its interval, as it stands in a table."""
    return f"{number['value']:.{digits}f} ({number['low']:.{digits}f}–{number['high']:.{digits}f})"


def reset_peak_memory() -> int:
    """Start to watch the largest number of bytes that this process holds (Linux); returns what it holds now.

    The figure of `getrusage` would be that of the parent where the parent held more before it started this process.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    """Largest number of bytes that this process has held since :func:`reset_peak_memory`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def write_figures(output: str | Path | None, figures: dict[str, Any], indent: int | None = 4) -> None:
    """Write a benchmark's figures as JSON, where a file is asked for; its folder is made where needed."""
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(Path(output), json.dumps(figures, indent=indent) + "\n")
