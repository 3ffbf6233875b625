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

"""Preference pairs as a user makes them, of a few phantoms and the shipped model."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from monai_u2.data import load_records
from monai_u2.data.phantom import generate_phantoms
from monai_u2.networks import file_sha256
from tests.python_process import bundle_command, printed_by, start_python

NUM_CASES = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom")
    generate_phantoms(root, NUM_CASES, 0, 0, questions_per_case=2, num_workers=0, progress=False)
    return root


def command(data: Path, output: Path, *more: str) -> list[str]:
    # the phantoms are there, so that all the time until a kill is that of sampling
    values = {"dataset_dir": data, "output_dir": output, "train_records": data / "train.jsonl", "num_samples": 4}
    return bundle_command("preferences", "configs/preferences.json", values, *more)


def run(folder: Path, data: Path, output: Path, *more: str) -> str:
    return printed_by(command(data, output, *more), folder)


@pytest.fixture(scope="module")
def uninterrupted(bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("preferences")
    run(bundle.parents[1], data, output)
    return output


def test_pairs_summary_and_plot(uninterrupted: Path, bundle: Path, data: Path) -> None:
    pairs = load_records(uninterrupted / "pairs.jsonl")
    records = {record["image"]: record for record in load_records(data / "train.jsonl") if record["kind"] == "report"}
    for pair in pairs:
        assert {key: pair[key] for key in records[pair["image"]]} == records[pair["image"]]
        assert pair["chosen"].startswith("FINDINGS:") and pair["chosen"] != pair["rejected"]
        assert pair["chosen_score"] >= pair["rejected_score"] + 0.1 - 1e-9 and pair["chosen_score"] > 0
        assert pair["judge"].startswith("findings 1+")
        assert pair["model_sha256"] == file_sha256(bundle / "models" / "model.pt")
    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert summary["cases"] == NUM_CASES and summary["samples"] == 4 * NUM_CASES
    assert summary["pairs"] == len(pairs) > 0
    assert (uninterrupted / "summary.png").stat().st_size > 10_000


def test_a_killed_run_goes_on_to_the_same_pairs(uninterrupted: Path, bundle: Path, data: Path, tmp_path: Path) -> None:
    process = start_python(command(data, tmp_path), bundle)
    journal = tmp_path / "samples-00000.jsonl"
    while not (journal.exists() and journal.stat().st_size):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = journal.read_bytes()
    assert not (tmp_path / "pairs.jsonl").exists()
    run(bundle, data, tmp_path)
    assert journal.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert (tmp_path / "pairs.jsonl").read_text() == (uninterrupted / "pairs.jsonl").read_text()


def test_two_processes_make_the_same_pairs(uninterrupted: Path, bundle: Path, data: Path, tmp_path: Path) -> None:
    processes = [
        start_python(command(data, tmp_path), bundle.parents[1], RANK=str(rank), WORLD_SIZE="2") for rank in range(2)
    ]
    logs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], logs
    assert sorted(path.name for path in tmp_path.glob("samples-*.jsonl")) == [
        "samples-00000.jsonl",
        "samples-00001.jsonl",
    ]
    assert (tmp_path / "pairs.jsonl").read_text() == (uninterrupted / "pairs.jsonl").read_text()


def test_other_settings_in_the_same_folder_are_refused(uninterrupted: Path, bundle: Path, data: Path) -> None:
    with pytest.raises(AssertionError, match="samples were made with another sampling"):
        run(bundle, data, uninterrupted, "--temperature", "0.7")
    with pytest.raises(AssertionError, match="retry_failed is 'false'; expected True or False"):
        run(bundle, data, uninterrupted, "--retry_failed", "false")
