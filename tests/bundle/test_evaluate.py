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

"""An evaluation as a user runs it, of a few phantoms and the shipped model."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from monai_u2.data import load_records, write_records
from monai_u2.data.phantom import generate_phantoms
from monai_u2.networks import file_sha256
from tests.python_process import bundle_command, printed_by, run_python, start_python

NUM_CASES = 6
FILES = ("predictions.jsonl", "predictions_zeroed_images.jsonl", "predictions_shuffled_images.jsonl")
FILES += ("predictions_most_frequent_report.jsonl", "metrics.json", "metrics.csv", "evaluation.html")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom")
    generate_phantoms(root, 2, 0, NUM_CASES, questions_per_case=3, num_workers=0, progress=False)
    return root


def command(data: Path, output: Path, *more: str) -> list[str]:
    values = {"records": data / "test.jsonl", "output_dir": output, "num_samples": 50, "batch_size": 2}
    return bundle_command("evaluating", "configs/evaluate.json", values, *more)


def run(folder: Path, data: Path, output: Path, *more: str) -> str:
    return printed_by(command(data, output, *more), folder)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def uninterrupted(bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluation")
    log = run(bundle.parents[1], data, output, "--tracking", "mlflow")
    assert "tokens per second" in log and "| micro_f1 |" in log
    assert "control swapped_questions is left out" in log
    return output


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_files_and_controls(uninterrupted: Path, bundle: Path, data: Path) -> None:
    found = metrics(uninterrupted)
    assert found["settings"]["model_sha256"] == file_sha256(bundle / "models" / "model.pt")
    assert found["settings"]["preprocessing"]["spacing_mm"] == [5.0, 4.0, 4.0]
    assert found["cases"]["scored"] == found["cases"]["patients"] == NUM_CASES
    runs = {run["name"]: run for run in found["runs"]}
    assert list(runs) == ["model", "zeroed_images", "shuffled_images", "most_frequent_report", "references"]
    f1 = {name: run["metrics"]["micro_f1"]["value"] for name, run in runs.items() if "metrics" in run}
    assert f1["model"] > 0.5 > max(f1["zeroed_images"], f1["shuffled_images"], f1["most_frequent_report"])
    assert runs["zeroed_images"]["collapse"]["distinct"] < runs["model"]["collapse"]["distinct"]
    records = [record for record in load_records(data / "test.jsonl") if record["kind"] == "report"]
    lines = {name: load(uninterrupted / name) for name in FILES if name.endswith(".jsonl")}
    for entries in lines.values():
        assert [entry["image"] for entry in entries] == [record["image"] for record in records]
        assert [entry["reference"] for entry in entries] == [record["answer"] for record in records]
    assert all(entry["new_tokens"] > 50 for entry in lines["predictions.jsonl"])
    generation = json.loads((uninterrupted / "generation.json").read_text())
    assert generation["tokens_per_second"] > 0 and generation["cut_reports"] == []


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_tracked(uninterrupted: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{uninterrupted}/mlruns.db")
    (tracked,) = client.search_runs([client.get_experiment_by_name("monai_experiment").experiment_id])
    interval = metrics(uninterrupted)["runs"][0]["metrics"]["micro_f1"]
    assert tracked.data.metrics["micro_f1"] == pytest.approx(interval["value"])
    assert tracked.data.metrics["micro_f1_low"] == pytest.approx(interval["low"])
    assert "sha256.records" in tracked.data.tags and tracked.info.status == "FINISHED"


def test_two_processes_write_the_same(uninterrupted: Path, bundle: Path, data: Path, tmp_path: Path) -> None:
    processes = [
        start_python(command(data, tmp_path), bundle.parents[1], RANK=str(rank), WORLD_SIZE="2") for rank in range(2)
    ]
    logs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], logs
    assert [len(load(path)) for path in sorted(tmp_path.glob("generated-*.jsonl"))] == [4, 2]
    assert content(tmp_path) == content(uninterrupted)
    assert sum("| micro_f1 |" in log for log in logs) == 1

    (tmp_path / "metrics.json").unlink()  # as after a kill while scoring
    for rank in (1, 0):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": "2"}
        done = run_python(command(data, tmp_path), bundle.parents[1], environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / "metrics.json").exists() == (rank == 0)
    assert content(tmp_path) == content(uninterrupted)


def test_a_killed_run_goes_on_to_the_same(uninterrupted: Path, bundle: Path, data: Path, tmp_path: Path) -> None:
    process = start_python(command(data, tmp_path), bundle)
    journal = tmp_path / "generated-00000.jsonl"
    while not (journal.exists() and journal.stat().st_size):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = journal.read_bytes()
    assert not (tmp_path / "metrics.json").exists()
    run(bundle, data, tmp_path)
    assert journal.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert content(tmp_path) == content(uninterrupted)


def test_other_settings_in_the_same_folder_are_refused(uninterrupted: Path, bundle: Path, data: Path) -> None:
    with pytest.raises(AssertionError, match="reports were made with another generation"):
        run(bundle, data, uninterrupted, "--max_new_tokens", "100")
    with pytest.raises(AssertionError, match="reports were made with another records_sha256"):
        run(bundle, data, uninterrupted, "--records", str(data / "train.jsonl"))


def test_records_without_known_findings_and_questions(bundle: Path, data: Path, tmp_path: Path) -> None:
    """Of a data set: no parser, patients, a reference that is none; reports and questions together."""
    records = [
        {key: record[key] for key in ("image", "question", "answer", "kind")} | {"patient": record["case"]}
        for record in load_records(data / "test.jsonl")[: 4 * 3]
    ]
    records[4]["answer"] = "Not given."
    write_records(tmp_path / "records.jsonl", records)
    kinds = "['report','region','presence','side','location','size']"
    more = ["--records", str(tmp_path / "records.jsonl"), "--question_kinds", kinds, "--report_parser", "$None"]
    run(bundle, data, tmp_path / "out", *more, "--train_records", str(data / "train.jsonl"))
    found = metrics(tmp_path / "out")
    assert found["cases"]["scored"] == 11 and found["cases"]["patients"] == 3
    assert len(found["cases"]["missing_references"]) == 1 and found["findings"] == {}
    assert found["cases"]["left_out_metrics"]["green"] == "no judge was given"
    assert found["cases"]["left_out_metrics"]["micro_f1"] == "no labels were given"
    runs = {run["name"]: run for run in found["runs"]}
    assert (
        runs["model"]["metrics"]["exact_answer"]["value"]
        > runs["swapped_questions"]["metrics"]["exact_answer"]["value"]
    )
    assert found["settings"]["generation"]["most_frequent_report"] == "train_records"
