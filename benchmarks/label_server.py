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

"""A real MONAI Label server with the stock monaibundle app and a copy of the shipped bundle: what it answers, how fast
it is against the plain inference workflow, and a training from a report. In the environment of requirements/label.txt::

    python benchmarks/label_server.py --folder runs/label_server --ct CT.nii.gz --output runs/label_server.json
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np
import requests
from bundle_model import write_figures
from monai.bundle import ConfigParser
from monailabel.client import MONAILabelClient

from monai_u2.data.phantom import draw_case, render_case
from monai_u2.exceptions import InputError

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "u2llm"
MODEL = "u2llm"
QUESTION = "Is there a pleural effusion?"
WAIT_SECONDS = 600


def prepare(folder: Path, ct: str | None) -> np.ndarray:
    """The app with the bundle, and studies with a phantom of 100 slices; return the phantom's lesions."""
    if folder.exists():
        raise InputError(f"{folder}: is there already; expected a name for a new folder. Give another --folder.")
    command = [sys.executable, "-m", "monailabel.main", "apps", "--download", "--name", "monaibundle", "--output"]
    subprocess.run([*command, str(folder)], check=True, capture_output=True)
    bundle = folder / "monaibundle" / "model" / MODEL
    shutil.copytree(BUNDLE, bundle, symlinks=True, ignore=shutil.ignore_patterns("data", "eval"))
    (folder / "studies").mkdir()
    cases = (draw_case(number) for number in itertools.count(200_000))
    hu, lesions, affine = render_case(next(case for case in cases if case.labels and case.grid.shape[2] == 100))
    nib.save(nib.Nifti1Image(hu, affine), folder / "studies" / "phantom.nii.gz")
    if ct is not None:
        shutil.copy(Path(ct).expanduser(), folder / "studies" / "ct.nii.gz")
    return lesions > 0


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Start the server; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(folder / "monaibundle")]
    command += ["--studies", str(folder / "studies"), "--conf", "models", MODEL, "--conf", "sam2", "false"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    settings = {"MONAI_ZOO_SOURCE": "ngc", "MONAI_LABEL_INFER_CONCURRENCY": "1"}
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for_server(server, f"http://127.0.0.1:{port}", folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wait_for_server(server: subprocess.Popen, address: str, log: Path) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < WAIT_SECONDS:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}; see {log}")
        try:
            requests.get(f"{address}/info/", timeout=WAIT_SECONDS).raise_for_status()
            return
        except requests.ConnectionError:
            time.sleep(0.2)
    raise RuntimeError(f"the server isn't there after {WAIT_SECONDS} s; see {log}")


def report_of(address: str, image: str, folder: Path, question: str | None = None) -> dict[str, Any]:
    """What ``monai-u2 label-report`` writes of an image."""
    command = [sys.executable, "-m", "monai_u2", "label-report", address, image, "--output", str(folder)]
    subprocess.run([*command, *([] if question is None else ["--question", question])], check=True, capture_output=True)
    return json.loads((folder / "report.json").read_text())


def ask_for_all(address: str, image: str) -> None:
    """Report and evidence, as a viewer asks for them."""
    requests.post(f"{address}/infer/{MODEL}", params={"image": image}, timeout=WAIT_SECONDS).raise_for_status()


def geometry_is_kept(label: Path, image: Path) -> bool:
    mine, theirs = nib.load(label), nib.load(image)
    return mine.shape == theirs.shape[:3] and np.allclose(mine.affine, theirs.affine, atol=1e-3)


def train(address: str, **params: Any) -> str:
    """Train in the background, as viewers do; return how it ended."""
    requests.post(f"{address}/train/{MODEL}", json=params, timeout=WAIT_SECONDS).raise_for_status()
    begin = time.monotonic()
    while time.monotonic() - begin < WAIT_SECONDS:
        status = requests.get(f"{address}/train/", timeout=WAIT_SECONDS).json()
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            return status["status"]
        time.sleep(0.5)
    return "RUNNING"


def median_seconds(ways: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Median of some runs of each way after a first one that doesn't count; the ways take turns, as a machine's speed
    changes."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(seconds[1:])) for name, seconds in times.items()}


def plain_workflow(folder: Path, evidence: bool) -> Any:
    """The bundle's inference workflow of the phantom, set up."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    given = {"bundle_root": str(BUNDLE), "input_image": str(folder / "studies" / "phantom.nii.gz")}
    parser.update({**given, "output_dir": str(folder / "plain"), "evidence": evidence})
    return parser.get_parsed_content("evaluator")


def main(folder: str, ct: str | None = None, runs: int = 5, output: str | None = None) -> None:
    """Run it all and print a line for each.

    Args:
        folder: a new folder for the app, the studies and the server's log.
        ct: a further CT to report on, NIfTI.
        runs: runs whose median is taken.
        output: JSON file for the figures.
    """
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    root = Path(folder).resolve()
    lesions = prepare(root, ct)
    model = root / "monaibundle" / "model" / MODEL / "models" / "model.pt"
    plain = {evidence: plain_workflow(root, evidence) for evidence in (False, True)}
    plain[False].run()
    written = json.loads((root / "plain" / "report.json").read_text())
    begin = time.monotonic()
    with serving(root) as address:
        info = requests.get(f"{address}/info/", timeout=WAIT_SECONDS).json()["models"][MODEL]
        print(f"/info/ after {time.monotonic() - begin:.0f} s: {info['type']}, {info['labels']}, {info['config']}")
        answer = report_of(address, "phantom", root / "phantom")
        checks = {"same report": answer["report"] == written["report"]}
        print(f"report of the phantom as the plain workflow's: {checks['same report']}")
        print("    " + answer["report"].replace("\n", "\n    "))
        levels = np.asarray(nib.load(root / "phantom" / "evidence_levels.nii.gz").dataobj)
        kept = geometry_is_kept(root / "phantom" / "evidence_levels.nii.gz", root / "studies" / "phantom.nii.gz")
        shares = (levels[lesions] > 0).mean(), (levels > 0).mean()
        checks |= {"geometry": kept, "evidence over lesions": shares[0] > shares[1]}
        print(f"evidence in the image's geometry: {kept}; over {shares[0]:.0%} of the lesions, {shares[1]:.1%} of all")
        _, result = MONAILabelClient(address).infer(MODEL, "phantom", {})
        checks["Python client"] = result["report"] == answer["report"]
        print(f"the Python client gives the same report: {checks['Python client']}")
        answer = report_of(address, "phantom", root / "question", QUESTION)
        print(f"{QUESTION} {answer['report']}")
        if ct is not None:
            answer = report_of(address, "ct", root / "ct")
            kept = geometry_is_kept(root / "ct" / "evidence_levels.nii.gz", root / "studies" / "ct.nii.gz")
            checks["geometry of the CT"] = kept
            print(f"report of {Path(ct).name}, geometry kept: {kept}, warnings: {answer['warnings']}")
            print("    " + answer["report"].replace("\n", "\n    "))
        ways = {"label_seconds": lambda: ask_for_all(address, "phantom"), "plain_seconds": plain[False].run}
        figures = median_seconds({**ways, "plain_with_evidence_seconds": plain[True].run}, runs)
        label, alone, with_evidence = figures.values()
        print(f"warm, 100 slices, median of {runs}: {label:.2f} s")
        print(f"    the plain workflow {alone:.2f} s, ratio {label / alone:.2f}")
        print(f"    the plain workflow with evidence {with_evidence:.2f} s, ratio {label / with_evidence:.2f}")
        report = json.loads((root / "phantom" / "report.json").read_text())["report"].encode()
        saved = requests.put(
            f"{address}/datastore/label",
            params={"image": "phantom", "tag": "final"},
            files={"label": ("phantom.txt", report)},
            timeout=WAIT_SECONDS,
        ).json()
        print(f"final label saved: {saved}")
        before = hashlib.sha256(model.read_bytes()).hexdigest()
        begin = time.monotonic()
        ended = train(address, max_epochs=1, device=info["config"]["device"][0], multi_gpu=False)
        after = hashlib.sha256(model.read_bytes()).hexdigest()
        print(f"one epoch: {ended} in {time.monotonic() - begin:.0f} s; model changed: {before != after}")
        requests.post(f"{address}/infer/{MODEL}", params={"image": "phantom"}, timeout=WAIT_SECONDS).raise_for_status()
        reloaded = "Reload model from cache" in (root / "server.log").read_text()
        print(f"new model used at once: {reloaded}")
    write_figures(output, figures)
    checks |= {"training": ended == "DONE", "new model": before != after, "used at once": reloaded}
    if not all(checks.values()):
        sys.exit(f"not so: {', '.join(name for name, holds in checks.items() if not holds)}")


if __name__ == "__main__":
    fire.Fire(main)
