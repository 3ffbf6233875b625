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

"""The synthesis as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from monai_u2.data import load_records
from monai_u2.data.phantom.dataset import case_records
from monai_u2.data.records import write_records
from tests.chat_server import SECRET, ChatServer
from tests.python_process import bundle_command, printed_by
from tests.synthesis.scripted_model import scripted


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "train.jsonl"
    write_records(path, [record for number in range(4) for record in case_records(number, 2)])
    return path


def overrides(server: ChatServer, records: object, output: Path) -> dict[str, object]:
    return {"records": records, "url": server.url, "model": "a-model", "output_dir": str(output)}


def test_an_estimate_from_the_command_line(
    bundle: Path, chat_server: ChatServer, records: Path, tmp_path: Path
) -> None:
    prices = ("--prompt_price", "1", "--completion_price", "2", "--shard", "3/4", "--dry-run")
    values = overrides(chat_server, records, tmp_path)
    log = printed_by(bundle_command("synthesis", "configs/synthesis.json", values, *prices), bundle.parents[1])
    assert "nothing was sent" in log and "effusion" not in log, log
    estimate = json.loads((tmp_path / "estimate-00002-of-00004.json").read_text())
    assert estimate["total"]["price"] > 0 and estimate["stages"]["answers"]["requests"] == 5
    assert not chat_server.requests


@pytest.fixture
def synthesize(
    bundle: Path, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[[object, Path, dict[str, object]], None]:
    """Run the configuration in this process."""
    chat_server.script = scripted()
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.chdir(bundle)

    def run(records: object, output: Path, more: dict[str, object]) -> None:
        parser = ConfigParser()
        parser.read_config("configs/synthesis.json")
        parser.update({**overrides(chat_server, records, output), **more})
        for name in ("initialize", "run"):
            parser.get_parsed_content(name)

    return run


def test_two_shards(synthesize: Callable[..., None], records: Path, tmp_path: Path) -> None:
    synthesize(str(records), tmp_path, {"shard": "2/2"})
    assert not (tmp_path / "summary.json").exists()
    synthesize(str(records), tmp_path, {"shard": 0, "num_shards": 2})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["reports"] == 4 and summary["records"] == {"vqa": 8, "report_thinking": 4}
    assert {record["kind"] for record in load_records(tmp_path / "vqa.jsonl")} == {"vqa"}
    assert all(Path(record["image"]).is_absolute() for record in load_records(tmp_path / "report_thinking.jsonl"))


def test_stages_alone(synthesize: Callable[..., None], records: Path, tmp_path: Path) -> None:
    synthesize(str(records), tmp_path / "a", {"stages": ["questions"]})
    both = [str(records), str(tmp_path / "a" / "stages" / "questions.jsonl")]
    synthesize(both, tmp_path / "b", {"stages": ["answers", "report_thinking"], "keep_citations": True})
    assert "[1]" in (tmp_path / "b" / "vqa.jsonl").read_text()
    assert len(load_records(tmp_path / "b" / "report_thinking.jsonl")) == 4


def test_switches_are_checked(synthesize: Callable[..., None], records: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        synthesize(str(records), tmp_path, {"dry_run": "false"})
    assert "dry_run is 'false'; expected True or False" in str(caught.value.__cause__)


def test_without_records_the_message_says_what_to_give(synthesize: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        synthesize(str(tmp_path / "train.jsonl"), tmp_path, {})
    found = [caught.value]
    while found[-1].__cause__:
        found.append(found[-1].__cause__)
    assert any("train.jsonl does not exist" in str(error) and "--records FILE" in str(error) for error in found)
