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

"""The chat judge against a real HTTP server that speaks the protocol, and misbehaves."""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from monai_u2.exceptions import InputError
from monai_u2.judges import ChatJudge
from monai_u2.judges.chat_format import RESPONSE_SCHEMA
from tests.chat_server import SECRET, ChatServer


def case_and_judgement(body: dict[str, Any]) -> tuple[int, str]:
    """Judges case i: i matched findings and one missing."""
    case = int(re.search(r"candidate (\d+)", body["messages"][1]["content"])[1])
    lists = {name: [] for name in RESPONSE_SCHEMA["required"]}
    return case, json.dumps(lists | {"explanation": "", "matched_findings": ["f"] * case, "missing_finding": ["m"]})


@pytest.fixture
def server(chat_server: ChatServer) -> ChatServer:
    chat_server.script = case_and_judgement
    return chat_server


def judge_of(server: ChatServer, cache_dir: Path | None = None, **options: Any) -> ChatJudge:
    settings = {"api_key_variable": "CHAT_KEY", "timeout": 3, "retries": 3, "backoff": 0.01, **options}
    return ChatJudge(server.url, "a-model", cache_dir=cache_dir, **settings)


def batch(judge: ChatJudge, cases: range) -> list[Any]:
    return judge.batch([f"reference {case}" for case in cases], [f"candidate {case}" for case in cases])


def score(case: int) -> float:
    return case / (case + 1)


FAULTS = ("429", "500", "503", "sleep", "hang up", "cut body", "no json", "other json", "ok")


def test_no_case_is_lost_none_judged_twice_and_the_order_is_kept(server: ChatServer, tmp_path: Path) -> None:
    """Each case meets two faults of its own before it is judged."""
    faults = list(itertools.product(FAULTS, repeat=2))[::3]
    server.behavior = lambda case, count: faults[case][count] if count < 2 else "ok"
    judge = judge_of(server, tmp_path)
    results = batch(judge, range(len(faults)))
    assert [errors.score for errors in results] == [pytest.approx(score(case)) for case in range(len(faults))]
    assert {errors.judge for errors in results} == {"chat a-model"}
    assert server.answered == Counter(dict.fromkeys(range(len(faults)), 1))
    again = batch(judge_of(server, tmp_path), range(len(faults)))
    assert again == results
    assert server.answered == Counter(dict.fromkeys(range(len(faults)), 1))


def test_statuses_of_answers_that_are_no_judgement(server: ChatServer, tmp_path: Path) -> None:
    behaviors = ["ok", "length", "cut content", "malformed", "400", "ok"]
    server.behavior = lambda case, count: behaviors[case]
    results = batch(judge_of(server, tmp_path), range(6))
    assert [errors.status for errors in results] == ["ok", "truncated", "truncated", "unparsable", "failed", "ok"]
    assert [errors.score for errors in results] == [0.0, None, None, None, None, pytest.approx(score(5))]
    assert "HTTP 400" in results[4].explanation and SECRET not in results[4].explanation
    assert set(server.requests.values()) == {1}  # at temperature 0 they would come again
    batch(judge_of(server, tmp_path), range(6))
    assert [server.requests[case] for case in range(6)] == [1, 1, 1, 1, 2, 1]  # what failed was not judged


def test_a_judge_that_is_down_says_so_and_a_second_run_resumes(server: ChatServer, tmp_path: Path) -> None:
    server.behavior = lambda case, count: "ok" if case < 6 else "500"
    judge = judge_of(server, tmp_path, concurrency=2)
    with pytest.raises(InputError, match=r"is down: HTTP 500, after 4 requests; .*what was judged is in cache_dir"):
        batch(judge, range(40))
    assert server.answered == Counter(range(6))
    assert max(server.requests) < 20  # the rest wasn't asked in vain
    server.behavior = lambda case, count: "ok"
    results = batch(judge_of(server, tmp_path), range(12))
    assert [errors.score for errors in results] == [pytest.approx(score(case)) for case in range(12)]
    assert server.answered == Counter(range(12))


def test_a_server_that_is_not_there(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="is down: no answer .*ConnectionError.*set cache_dir"):
        judge_of(server, retries=1)("reference", "candidate 1")


def test_a_pair_without_an_answer_fails_alone(server: ChatServer, tmp_path: Path) -> None:
    server.behavior = lambda case, count: "500" if case == 3 else "ok"
    results = batch(judge_of(server, tmp_path, retries=1), range(8))
    assert [case for case, errors in enumerate(results) if errors.status == "failed"] == [3]
    assert "HTTP 500, after 2 requests" in results[3].explanation
    batch(judge_of(server, tmp_path, retries=1), range(4, 8))
    assert server.requests[3] == 2 and all(server.answered[case] == 1 for case in range(8) if case != 3)


@pytest.mark.parametrize("status", ["401", "403", "404", "302"])
def test_what_no_retry_changes_stops_at_once(server: ChatServer, status: str) -> None:
    server.behavior = lambda case, count: status
    with pytest.raises(InputError, match=f"answered HTTP {status} .*'a-model' with the API key in CHAT_KEY"):
        judge_of(server)("reference", "candidate 1")
    assert server.requests[1] == 1


def test_the_wait_that_the_server_asks_for(server: ChatServer) -> None:
    server.behavior = lambda case, count: "wait 1" if count == 0 else "ok"
    start = time.monotonic()
    assert judge_of(server)("reference", "candidate 1").score == 0.5
    assert 1.0 <= time.monotonic() - start < 3.0
    server.behavior = lambda case, count: "wait 3600"
    with pytest.raises(InputError, match="wants to be left alone for 3600 s"):
        judge_of(server)("reference", "candidate 2")
    assert server.requests[2] == 1


def test_pauses_double(server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    server.behavior = lambda case, count: "503"
    with caplog.at_level(logging.INFO, logger="monai_u2"), pytest.raises(InputError):
        judge_of(server, backoff=0.1, retries=3)("reference", "candidate 1")
    pauses = [record.args[1] for record in caplog.records]
    assert pauses[1] == pytest.approx(2 * pauses[0]) and pauses[2] == pytest.approx(4 * pauses[0])
    assert 0.075 <= pauses[0] <= 0.125


def test_not_more_requests_at_once_than_allowed(server: ChatServer) -> None:
    server.behavior = lambda case, count: "slow"
    batch(judge_of(server, concurrency=3), range(9))
    assert server.most_busy == 3


def test_equal_pairs_are_asked_once(server: ChatServer) -> None:
    results = judge_of(server).batch(["reference"] * 5, ["candidate 2", "candidate 1"] * 2 + ["candidate 2"])
    assert [errors.matched for errors in results] == [2, 1, 2, 1, 2]
    assert server.requests == Counter({1: 1, 2: 1})


def test_the_request_is_what_the_protocol_says(server: ChatServer) -> None:
    judge_of(server, options={"seed": 3, "max_completion_tokens": 500})("reference", "candidate 1")
    body, headers = server.bodies[0], server.headers[0]
    assert headers["path"] == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {SECRET}"
    assert body["model"] == "a-model" and (body["seed"], body["max_completion_tokens"]) == (3, 500)
    assert "temperature" not in body and "max_tokens" not in body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["strict"] is True
    assert body["response_format"]["json_schema"]["schema"] == RESPONSE_SCHEMA


def test_another_model_or_option_judges_anew(server: ChatServer, tmp_path: Path) -> None:
    first, second = judge_of(server, tmp_path), judge_of(server, tmp_path, options={"temperature": 1})
    assert first.version != second.version
    for judge in (first, second, first, second, ChatJudge(server.url, "b", api_key_variable=None, cache_dir=tmp_path)):
        judge("reference", "candidate 1")
    assert server.answered[1] == 3
    assert "Authorization" not in server.headers[-1]


def test_costs_are_counted_without_the_cache(server: ChatServer, tmp_path: Path) -> None:
    server.behavior = lambda case, count: "500" if count == 0 else "ok"
    judge = judge_of(server, tmp_path, prompt_price=2.0, completion_price=10.0)
    batch(judge, range(3))
    batch(judge, range(3))
    cost = judge.cost
    assert cost.pop("price") == pytest.approx(3 * (1000 * 2.0 + 50 * 10.0) / 1e6)
    expected = {"requests": 6, "judged": 3, "prompt_tokens": 3000, "completion_tokens": 150, "without_usage": 0}
    assert cost == expected
    assert "price" not in judge_of(server).cost


def test_neither_key_nor_reports_are_logged_or_cached(
    server: ChatServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.behavior = lambda case, count: "500" if count == 0 else "ok"
    with caplog.at_level(logging.DEBUG):
        judge_of(server, tmp_path)("reference of a patient", "candidate 1")
    kept = caplog.text + "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "asked again" in kept
    for secret in (SECRET, "reference of a patient", "candidate 1"):
        assert secret not in kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000"}, "http://localhost:8000/v1"),
        ({"model": None}, "expected the name of a model"),
        ({"api_key_variable": "NO_SUCH_KEY"}, "NO_SUCH_KEY is empty"),
        ({"concurrency": 0}, "at least 1"),
        ({"timeout": 0}, "above 0"),
        ({"prompt_price": 1.0}, "give both"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], message: str) -> None:
    settings = {"url": "http://localhost:1/v1", "model": "m", "api_key_variable": None, **options}
    with pytest.raises(InputError, match=message):
        ChatJudge(**settings)
