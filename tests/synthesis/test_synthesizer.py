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

"""The whole synthesis of 50 phantom reports, against a real HTTP server that answers well, badly, late and brokenly."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from monai_u2.chat_client import ChatClient
from monai_u2.data import load_records
from monai_u2.data.fingerprint import fingerprint
from monai_u2.exceptions import InputError
from monai_u2.synthesis import Synthesizer, load_sources, make_stages
from monai_u2.synthesis.stage import Row
from tests.chat_server import SECRET, ChatServer
from tests.synthesis.scripted_model import PLANTED, scripted, stage_of

STAGES = ("questions", "answers", "filter", "refine", "report_thinking")

# what one request after the other meets before it is answered well
LATE = ("sleep", "429", "500", "503", "hang up", "cut body", "no json", "other json")
# answers and refusals that no retry changes, and what becomes of their rows
BROKEN = {"length": "truncated", "cut content": "truncated", "malformed": "not_json", "wrong schema": "wrong_schema"}
BROKEN |= {"refusal": "refusal", "400": "unanswered"}
BAD = {"answers": PLANTED, "refine": PLANTED, "filter": {"improper": "improper_question", "wrong": "wrong_answer"}}
BAD |= {"report_thinking": {"disorder": "anatomical_order", "uncited": "missing_citation"}}


def fate(stage: str, material: str) -> str:
    """What is planted in an answer, by the request's hash: in a third of them something is."""
    number = int(fingerprint(stage, material)[:8], 16)
    planted = [*BAD.get(stage, ["well"])]
    return planted[number // 3 % len(planted)] if number % 3 == 0 else "well"


def client_of(server: ChatServer, **options: Any) -> ChatClient:
    settings = {"api_key_variable": "CHAT_KEY", "timeout": 3, "backoff": 0.01, "max_retries": 3, **options}
    return ChatClient(server.url, "a-model", **settings)


def synthesizer(server: ChatServer, records: Any, output: Path, **options: Any) -> Synthesizer:
    stages = make_stages(options.pop("names", STAGES), **options.pop("stages", {}))
    client = client_of(server, **options.pop("client", {}))
    return Synthesizer(load_sources(records), stages, client, output, shard=options.pop("shard", "1/1"), **options)


def rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def outputs(folder: Path) -> dict[str, str]:
    """Every file of a run but the answers, which come in any order."""
    paths = (path for path in sorted(folder.rglob("*.json*")) if path.parent.name != "answers")
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


class Trouble:
    """Gives the requests of each stage one fate after the other, and remembers it."""

    def __init__(self) -> None:
        self.fates: dict[tuple[str, str], str] = {}
        self.lock = threading.Lock()

    def __call__(self, stage: str, material: str) -> str:
        with self.lock:
            if (stage, material) not in self.fates:
                broken = () if stage in ("filter", "refine") else BROKEN  # few rows come to these
                fates = [*BAD.get(stage, ()), *LATE, *broken, *["well"] * len(broken)]
                place = sum(known == stage for known, _ in self.fates)
                self.fates[stage, material] = fates[place % len(fates)]
            return self.fates[stage, material]


@pytest.fixture
def trouble(chat_server: ChatServer) -> Trouble:
    """What goes wrong with the server's answers."""
    told = Trouble()
    cases: dict[str, str] = {}

    def script(body: dict[str, Any]) -> tuple[str, str]:
        case, content = scripted(told)(body)
        cases[case] = told(stage_of(body), body["messages"][1]["content"])
        return case, content

    def behavior(case: str, count: int) -> str:
        kind = cases[case]
        return kind if kind in BROKEN or (kind in LATE and count == 0) else "ok"

    chat_server.script, chat_server.behavior = script, behavior
    return told


def test_every_row_is_kept_rejected_or_failed_for_the_right_reason(
    chat_server: ChatServer, trouble: Trouble, phantom_records: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = synthesizer(chat_server, phantom_records, tmp_path, client={"prompt_price": 2.0, "completion_price": 10.0})
    with caplog.at_level(logging.DEBUG):
        path = run.run()
    summary = json.loads(path.read_text())
    stages = {stage.name: stage for stage in run.stages}
    seen: Counter[str] = Counter()
    lost = [*rows(tmp_path / "rejected.jsonl"), *rows(tmp_path / "failed.jsonl")]
    for row in lost:
        reason = {**BROKEN, **BAD.get(row["stage"], {})}[
            trouble(row["stage"], _material(stages[row["stage"]], row, tmp_path))
        ]
        assert row["reason"] == reason, row["detail"]
        seen[reason] += 1
    assert seen.keys() >= {*PLANTED.values(), *BROKEN.values(), "improper_question", "wrong_answer", "anatomical_order"}
    for name, stage in stages.items():
        counts = summary["stages"][name]
        kept = rows(tmp_path / "stages" / f"{name}.jsonl")
        assert counts["kept"] == len(kept) > 0
        assert counts["input"] + counts["added"] == len(kept) + sum(counts["rejected"].values()) + counts["failed"]
        assert Counter(row["reason"] for row in lost if row["stage"] == name) == Counter(
            counts["rejected"] | ({"unanswered": counts["failed"]} if counts["failed"] else {})
        )
        if name in ("answers", "filter", "refine"):
            for row in kept:
                before = {**row, "thinking": row.get("thinking_draft", row.get("thinking"))}
                assert trouble(name, stage.material(before)) in ("well", *LATE)
    inputs = [summary["stages"][name]["input"] for name in STAGES]
    kept = [summary["stages"][name]["kept"] for name in STAGES]
    assert inputs == [50, kept[0], kept[1], kept[2], 50]
    cost = summary["cost"]
    assert cost["requests"] == sum(chat_server.answered.values()) and set(chat_server.answered.values()) == {1}
    assert cost["price"] == pytest.approx(cost["requests"] * (1000 * 2.0 + 50 * 10.0) / 1e6)
    assert "requests got no answer (such as HTTP 400); their rows are in failed.jsonl" in caplog.text
    assert SECRET not in caplog.text and "FINDINGS" not in caplog.text and "lungs" not in caplog.text.lower()

    requests = chat_server.requests.total()
    again = synthesizer(chat_server, phantom_records, tmp_path, client={"prompt_price": 2.0, "completion_price": 10.0})
    again.run()
    refused = sum(row["reason"] == "unanswered" for row in lost)
    assert 0 < chat_server.requests.total() - requests <= refused  # equal requests are sent once


def _material(stage: Any, row: Row, output: Path) -> str:
    """What a stage asked about a row that it rejected."""
    before = {key: value for key, value in row.items() if key not in ("stage", "reason", "detail")}
    if stage.name == "refine" and "thinking_draft" in row:
        before["thinking"] = row["thinking_draft"]
    if stage.name == "report_thinking":
        refined = [r for r in rows(output / "stages" / "refine.jsonl") if r["case_key"] == row["case_key"]]
        before["notes"] = [{key: r[key] for key in ("question", "thinking", "answer")} for r in refined]
    return stage.material(before)


def test_records_to_train_on(chat_server: ChatServer, phantom_records: Path, tmp_path: Path) -> None:
    chat_server.script = scripted()
    synthesizer(chat_server, phantom_records, tmp_path / "a").run()
    answers, thinking = (load_records(tmp_path / "a" / f"{name}.jsonl") for name in ("vqa", "report_thinking"))
    assert len(answers) == 100 and len(thinking) == 50
    assert {"image", "question", "thinking", "answer"} <= answers[0].keys()
    assert {"image", "report", "question", "thinking_before", "thinking_after"} <= thinking[0].keys()
    sources = {record["image"]: record for record in load_records(phantom_records) if record["kind"] == "report"}
    for record in thinking:
        assert record["report"] == record["answer"] == sources[record["image"]]["answer"]
        assert record["question"] == sources[record["image"]]["question"]
        thinking_after = record["thinking_after"]
        places = [thinking_after.find(title) for title in ("Findings:", "Impression:", "Follow-up rationale:")]
        assert places[0] == 0 and places == sorted(places)
        assert "[" not in record["thinking_after"] + record["thinking_before"]
    synthesizer(
        chat_server, phantom_records, tmp_path / "b", keep_citations=True, cache_dir=tmp_path / "a/answers"
    ).run()
    cited = load_records(tmp_path / "b" / "report_thinking.jsonl")
    assert all("]." in record["thinking_after"] for record in cited)
    assert set(chat_server.requests.values()) == {1}  # the second run asked for nothing


CHILD = """
import sys
from monai_u2.chat_client import ChatClient
from monai_u2.synthesis import Synthesizer, load_sources, make_stages
url, records, output, *stages = sys.argv[1:]
client = ChatClient(url, "a-model", api_key_variable=None, timeout=5, backoff=0.01, concurrency=4)
Synthesizer(load_sources(records), make_stages(stages), client, output, shard="1/1").run()
"""


def child(server: ChatServer, records: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, server.url, str(records), str(output), *STAGES]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_killed_anywhere_it_goes_on_to_the_same_files(
    chat_server: ChatServer, phantom_records: Path, tmp_path: Path
) -> None:
    chat_server.script = scripted(fate)
    first = child(chat_server, phantom_records, tmp_path / "whole")
    log, _ = first.communicate(timeout=120)
    assert first.returncode == 0, log
    number = chat_server.requests.total()
    chat_server.requests.clear()
    known: set[str] = set()
    asked_before: dict[str, int] = {}
    for moment in sorted(random.Random(17).sample(range(5, number - 5), 4)):
        process = child(chat_server, phantom_records, tmp_path / "killed")
        while len(chat_server.requests) < moment:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert {key: chat_server.requests[key] for key in known} == asked_before
        journal = (tmp_path / "killed" / "answers" / "answers-00000.jsonl").read_bytes()
        known = {json.loads(line)["case_key"] for line in journal.split(b"\n")[:-1]}
        asked_before = {key: chat_server.requests[key] for key in known}
        assert len(known) < number and not (tmp_path / "killed" / "summary.json").exists()
    last = child(chat_server, phantom_records, tmp_path / "killed")
    log, _ = last.communicate(timeout=120)
    assert last.returncode == 0, log
    assert {key: chat_server.requests[key] for key in known} == asked_before
    assert outputs(tmp_path / "killed") == outputs(tmp_path / "whole")


def test_shards_give_the_same_files(chat_server: ChatServer, phantom_records: Path, tmp_path: Path) -> None:
    chat_server.script = scripted(fate)
    assert synthesizer(chat_server, phantom_records, tmp_path / "one").run()
    paths = [synthesizer(chat_server, phantom_records, tmp_path / "three", shard=f"{i}/3").run() for i in (3, 1, 2)]
    assert paths == [None, None, tmp_path / "three" / "summary.json"]
    one, three = outputs(tmp_path / "one"), outputs(tmp_path / "three")
    names = [name for name in one if not name.startswith("parts/")]
    assert {name: one[name] for name in names if name != "summary.json"} == {
        name: three[name] for name in names if name != "summary.json"
    }
    counts = [json.loads(files["summary.json"])["stages"] for files in (one, three)]
    for stage in STAGES:
        assert {k: v for k, v in counts[0][stage].items() if "tokens" not in k and k != "requests"} == {
            k: v for k, v in counts[1][stage].items() if "tokens" not in k and k != "requests"
        }


def test_each_stage_runs_alone(chat_server: ChatServer, phantom_records: Path, tmp_path: Path) -> None:
    chat_server.script = scripted(lambda stage, text: "wrong" if stage == "filter" and "nodule" in text else "well")
    synthesizer(chat_server, phantom_records, tmp_path / "all").run()
    records: Any = phantom_records
    for name in STAGES:
        if name == "report_thinking":
            records = [phantom_records, records]  # a report without a question has no row of its own
        synthesizer(chat_server, records, tmp_path / name, names=[name]).run()
        records = tmp_path / name / "stages" / f"{name}.jsonl"
        assert rows(records) == rows(tmp_path / "all" / "stages" / f"{name}.jsonl"), name
    assert len(rows(records)) == 50 > len({row["case_key"] for row in rows(tmp_path / "refine/stages/refine.jsonl")})


def test_an_estimate_sends_nothing(chat_server: ChatServer, phantom_records: Path, tmp_path: Path) -> None:
    chat_server.script = scripted()
    client = {
        "prompt_price": 2.0,
        "completion_price": 10.0,
        "options": {"max_tokens": 500},
        "api_key_variable": "NO_KEY",
    }
    stages = {"num_questions": 2}
    path = synthesizer(chat_server, phantom_records, tmp_path, client=client, stages=stages, dry_run=True).run()
    estimate = json.loads(path.read_text())
    assert not chat_server.requests and not (tmp_path / "settings.json").exists()
    assert [estimate["stages"][name]["requests"] for name in STAGES] == [50, 100, 100, 100, 50]
    total = estimate["total"]
    assert total["price"] == pytest.approx((2.0 * total["prompt_tokens"] + 10.0 * total["completion_tokens"]) / 1e6)
    assert total["completion_tokens_at_most"] == 400 * 500 and total["price_at_most"] > total["price"]
    client["api_key_variable"] = "CHAT_KEY"
    synthesizer(chat_server, phantom_records, tmp_path, client=client, stages=stages).run()
    path = synthesizer(chat_server, phantom_records, tmp_path, client=client, stages=stages, dry_run=True).run()
    after = json.loads(path.read_text())
    assert after["total"]["requests"] == 0 and after["stages"]["answers"]["answered_before"] == 100
    real = sum(len(json.dumps(body["messages"])) for body in chat_server.bodies) / 4
    assert 0.5 < total["prompt_tokens"] / real < 2.0


def test_a_server_that_is_down_loses_nothing(chat_server: ChatServer, phantom_records: Path, tmp_path: Path) -> None:
    chat_server.script = scripted()
    chat_server.behavior = lambda case, count: "ok" if chat_server.answered.total() < 60 else "500"
    with pytest.raises(InputError, match="is down: HTTP 500"):
        synthesizer(chat_server, phantom_records, tmp_path, client={"max_retries": 1}).run()
    assert not (tmp_path / "summary.json").exists()
    chat_server.behavior = lambda case, count: "ok"
    assert synthesizer(chat_server, phantom_records, tmp_path).run()
    assert set(chat_server.answered.values()) == {1}


def test_a_judge_may_check_the_citations(chat_server: ChatServer, phantom_records: Path, tmp_path: Path) -> None:
    chat_server.script = scripted()
    path = synthesizer(chat_server, phantom_records, tmp_path, stages={"citation_check": "both"}).run()
    stages = json.loads(path.read_text())["stages"]
    assert [*stages] == [
        "questions",
        "answers",
        "answers_citations",
        "filter",
        "refine",
        "refine_citations",
        "report_thinking",
        "report_thinking_citations",
    ]
    assert stages["answers_citations"]["kept"] == 100 and stages["report_thinking_citations"]["kept"] == 50


def test_other_settings_and_wrong_orders_are_refused(
    chat_server: ChatServer, phantom_records: Path, tmp_path: Path
) -> None:
    chat_server.script = scripted()
    synthesizer(chat_server, phantom_records, tmp_path, names=["questions"]).run()
    with pytest.raises(InputError, match="made with other stages"):
        synthesizer(chat_server, phantom_records, tmp_path, names=["questions", "answers"]).run()
    with pytest.raises(InputError, match="stage answers needs the rows 'questions'"):
        synthesizer(chat_server, phantom_records, tmp_path / "b", names=["answers"])
    with pytest.raises(InputError, match="stage refine needs rows with answer, thinking"):
        synthesizer(chat_server, phantom_records, tmp_path / "b", names=["questions", "refine"])
    with pytest.raises(InputError, match="each once"):
        make_stages(["questions", "no such stage"])
    with pytest.raises(InputError, match="NO_KEY is empty"):
        synthesizer(chat_server, phantom_records, tmp_path / "b", client={"api_key_variable": "NO_KEY"}).run()
