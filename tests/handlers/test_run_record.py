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

from __future__ import annotations

import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest
from ignite.engine import Engine
from monai.handlers import MLFlowHandler

from monai_u2.data import RecordedCases
from monai_u2.handlers import RunRecord


def test_hashes_and_versions_in_file_and_tags(tmp_path: Path) -> None:
    records = tmp_path / "train.jsonl"
    records.write_text("{}\n")
    uri = f"sqlite:///{tmp_path}/mlruns.db"
    tracking = MLFlowHandler(tracking_uri=uri, experiment_name="e", iteration_log=False, epoch_log=False)
    engine = Engine(lambda engine, batch: None)
    tracking.attach(engine)
    RunRecord(tmp_path / "out", {"train_records": records}, [object(), tracking]).attach(engine)
    engine.run([0])
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    sha256 = hashlib.sha256(b"{}\n").hexdigest()
    assert record["sha256"] == {"train_records": sha256}
    assert record["environment"]["torch"] == version("torch")
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert run.data.tags["sha256.train_records"] == sha256 and run.data.tags["environment.processes"] == "1"


def test_the_executed_config_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config_20260101_120000.json").write_text("{}")
    # as MONAI writes an output_dir from the command line and the name of the file
    artifacts = (f"{tmp_path} + '/config_20260101_120000.json'", "absent.json")
    uri = f"sqlite:///{tmp_path}/mlruns.db"
    tracking = MLFlowHandler(
        tracking_uri=uri, experiment_name="e", iteration_log=False, epoch_log=False, artifacts=artifacts
    )
    client = mlflow.MlflowClient(tracking_uri=uri)
    kept = []

    def step(engine: Engine, batch: int) -> None:
        (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
        kept.append([file.path for file in client.list_artifacts(run.info.run_id)])

    engine = Engine(step)
    tracking.attach(engine)
    RunRecord(tmp_path / "out", {}, [tracking]).attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run([0])
    assert kept == [["config_20260101_120000.json"]]
    assert "absent.json isn't there" in caplog.text


def test_other_records_are_named_at_a_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = tmp_path / "train.jsonl"
    records.write_text("{}\n")
    state = RunRecord(tmp_path, {"train_records": records}, []).state_dict()
    with caplog.at_level(logging.WARNING):
        RunRecord(tmp_path, {"train_records": records}, []).load_state_dict(state)
        assert caplog.text == ""
        records.write_text("{} \n")
        RunRecord(tmp_path, {"train_records": records}, []).load_state_dict(state)
    assert "train_records aren't those that the training began with" in caplog.text


def test_cases_are_hashed_by_their_file_or_themselves(tmp_path: Path) -> None:
    records = tmp_path / "train.jsonl"
    records.write_text("{}\n")
    hashes = RunRecord(tmp_path, {"file": records, "of_file": RecordedCases(records, [{}]), "bare": [{}]}, []).hashes
    assert hashes["file"] == hashes["of_file"] == hashlib.sha256(b"{}\n").hexdigest()
    assert hashes["bare"] == hashlib.sha256(b"[{}]").hexdigest()


def test_a_corrected_report_is_another_record(tmp_path: Path) -> None:
    cases = [{"image": "a.nii.gz", "label": str(tmp_path / "a.txt")}]
    hashes = []
    for text in ("Clear.", "Clear.", "An effusion."):
        (tmp_path / "a.txt").write_text(text)
        hashes.append(RunRecord(tmp_path, {"cases": cases}, []).hashes["cases"])
    assert hashes[0] == hashes[1] != hashes[2]
