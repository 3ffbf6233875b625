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

"""What the client adds to the requests that tests/judges/test_chat.py shows."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from monai_u2.chat_client import ChatAnswer, ChatClient, Unanswered
from monai_u2.exceptions import InputError
from tests.chat_server import SECRET, ChatServer

SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


def client_of(server: ChatServer, **options: Any) -> ChatClient:
    settings = {"api_key_variable": "CHAT_KEY", "timeout": 3, "max_retries": 2, "backoff": 0.01, **options}
    return ChatClient(server.url, "a-model", **settings)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_an_answer_has_its_reason_and_its_tokens(chat_server: ChatServer) -> None:
    client = client_of(chat_server, prompt_price=1.0, completion_price=2.0)
    answer = client.complete(ask("a"))
    assert answer == ChatAnswer(text="fine", finish_reason="stop", prompt_tokens=1000, completion_tokens=50)
    assert client.cost["price"] == pytest.approx(1100e-6)
    chat_server.behavior = lambda case, count: {"b": "length", "c": "refusal"}[case]
    assert client.complete(ask("b")).finish_reason == "length" and client.complete(ask("c")).text is None
    assert "response_format" not in chat_server.bodies[0]


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [("json_schema", "json_schema"), ("json_object", "json_object"), ("none", None)],
)
def test_how_json_is_asked_for(chat_server: ChatServer, response_format: str, expected: str | None) -> None:
    client_of(chat_server, response_format=response_format).complete(ask("a"), SCHEMA, "a_name")
    asked = chat_server.bodies[0].get("response_format")
    assert (asked and asked["type"]) == expected
    if expected == "json_schema":
        assert asked["json_schema"] == {"name": "a_name", "strict": True, "schema": SCHEMA}


def test_what_the_server_refuses_is_not_sent_again(chat_server: ChatServer) -> None:
    chat_server.behavior = lambda case, count: "400"
    with pytest.raises(Unanswered, match="HTTP 400: bad request for key …"):
        client_of(chat_server).complete(ask("a"))
    assert chat_server.requests["a"] == 1


def test_retries_end(chat_server: ChatServer) -> None:
    chat_server.behavior = lambda case, count: "503"
    with pytest.raises(Unanswered, match="HTTP 503, after 3 requests"):
        client_of(chat_server).complete(ask("a"))


def test_requests_are_spread_over_the_minute(chat_server: ChatServer) -> None:
    client = client_of(chat_server, requests_per_minute=1200, concurrency=4)
    answers: dict[str, ChatAnswer] = {}
    bodies = [(f"{number:04x}", client.request_body(ask(str(number)))) for number in range(8)]
    start = time.monotonic()
    client.ask_all(bodies, answers.__setitem__, pytest.fail)
    assert len(answers) == 8
    for place, arrival in enumerate(sorted(chat_server.times)):
        assert arrival - start >= place * 60 / 1200


def test_many_more_requests_than_threads(chat_server: ChatServer) -> None:
    """Bodies are made as the work goes on, and no answer is lost."""
    made, ahead, lock = [0], [0], threading.Lock()
    client = client_of(chat_server, concurrency=2)
    answers: dict[str, ChatAnswer] = {}

    def bodies() -> Any:
        for number in range(100):
            made[0] += 1
            yield f"{number:04x}", client.request_body(ask(str(number)))

    def answered(key: str, answer: ChatAnswer) -> None:
        with lock:
            answers[key] = answer
            ahead[0] = max(ahead[0], made[0] - len(answers))

    client.ask_all(bodies(), answered, pytest.fail)
    assert len(answers) == 100 and ahead[0] <= 10 and chat_server.most_busy <= 2


def test_refused_requests_are_no_sign_of_a_server_that_is_down(chat_server: ChatServer) -> None:
    chat_server.behavior = lambda case, count: "400" if int(case) < 6 else "ok"
    client = client_of(chat_server, concurrency=1)
    answers: dict[str, ChatAnswer] = {}
    failures: dict[str, str] = {}
    bodies = [(f"{number:04x}", client.request_body(ask(str(number)))) for number in range(8)]
    client.ask_all(bodies, answers.__setitem__, failures.__setitem__)
    assert len(answers) == 2 and len(failures) == 6 and SECRET not in json.dumps(failures)


def test_what_alone_fails_of_a_server_that_was_up_is_no_sign_that_it_is_down(chat_server: ChatServer) -> None:
    """As when a run is resumed of which only these are left; a server that isn't there is down all the same."""
    chat_server.behavior = lambda case, count: "500" if int(case) % 2 else "slow"
    client = client_of(chat_server, concurrency=1, max_retries=0)
    bodies = [(f"{number:04x}", client.request_body(ask(str(number)))) for number in range(5)]
    failures: dict[str, str] = {}
    client.timeout = 0.05
    client.ask_all(bodies, pytest.fail, failures.__setitem__, was_up=True)
    assert len(failures) == 5
    client.url = "http://127.0.0.1:9/v1/chat/completions"
    with pytest.raises(InputError, match="is down: no answer"):
        client.ask_all(bodies, pytest.fail, failures.__setitem__, was_up=True)


@pytest.mark.parametrize("key", ["secret\r", " secret", "secr\u00e9t", "a\nb"])
def test_a_key_that_can_not_be_sent_is_refused_unseen(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("CHAT_KEY", key)
    with pytest.raises(InputError, match="CHAT_KEY holds blanks") as caught:
        client_of(chat_server).check_api_key()
    assert "secr" not in str(caught.value)


def test_answers_on_the_way_are_given_when_the_server_goes_down(chat_server: ChatServer) -> None:
    chat_server.behavior = lambda case, count: "slow" if case == "0" else "500"
    client = client_of(chat_server, concurrency=4, max_retries=0)
    answers: dict[str, ChatAnswer] = {}
    bodies = [(f"{number:04x}", client.request_body(ask(str(number)))) for number in range(20)]
    with pytest.raises(InputError, match="is down: HTTP 500, after 1 requests; .*what was answered is kept"):
        client.ask_all(bodies, answers.__setitem__, lambda key, reason: None)
    assert [*answers] == ["0000"] and chat_server.requests.total() < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000"}, "http://localhost:8000/v1"),
        ({"url": None}, "http://localhost:8000/v1"),
        ({"model": None}, "expected the name of a model"),
        ({"response_format": "xml"}, "expected one of json_schema, json_object, none"),
        ({"requests_per_minute": 0}, "above 0"),
        ({"concurrency": 0}, "at least 1"),
        ({"prompt_price": 1.0}, "give both"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], message: str) -> None:
    settings = {"url": "http://localhost:1/v1", "model": "m", "api_key_variable": None, **options}
    with pytest.raises(InputError, match=message):
        ChatClient(**settings)
