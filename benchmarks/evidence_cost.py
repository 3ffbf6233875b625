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

"""What evidence adds to `monai-u2 report`: time and memory of the command with it over those without, by turns.

::

    python benchmarks/evidence_cost.py phantoms/images/case_200003.nii.gz --output runs/evidence_cost.json
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import fire
from bundle_model import write_figures

from monai_u2.exceptions import InputError

FIGURES = ("seconds", "processor seconds", "peak memory in GB")


def run_command(command: list[str]) -> tuple[float, float, float]:
    """Run a command to its end.

    Returns:
        Seconds, seconds of the processor, and the peak of its memory in GB.
    """
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}.")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def evidence_cost(image: str, output: str | None = None, bundle: str | None = None, rounds: int = 3) -> None:
    """Print a table of the medians and their ratios.

    Args:
        image: the CT.
        output: JSON file for the figures of all rounds.
        bundle: folder of the bundle; by default the one that `monai-u2 report` finds.
        rounds: how often each of the two runs.
    """
    if rounds < 1 or not Path(image).exists():
        raise InputError(f"image is {image}, rounds is {rounds}; expected a CT that is there and at least 1 round.")
    seen: dict[str, list[tuple[float, float, float]]] = {"without": [], "with evidence": []}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "monai_u2", "report", image] + ([] if bundle is None else ["--bundle", bundle])
        for number in range(rounds):
            for name, options in (("without", []), ("with evidence", ["--evidence"])):
                seen[name].append(run_command([*command, "--output", f"{folder}/{name}_{number}", *options]))
    medians = {name: [median(column) for column in zip(*rows)] for name, rows in seen.items()}
    ratios = [much / little for much, little in zip(medians["with evidence"], medians["without"])]
    print("| | without | with evidence | ratio |\n|---|---|---|---|")
    for figure, little, much, share in zip(FIGURES, *medians.values(), ratios):
        print(f"| {figure} | {little:.2f} | {much:.2f} | {share:.2f} |")
    write_figures(output, {"figures": FIGURES, "rounds": seen, "ratios": ratios})


if __name__ == "__main__":
    fire.Fire(evidence_cost)
