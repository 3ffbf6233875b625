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

"""A client of any server that speaks OpenAI's chat protocol: retries, limits, concurrency, cost."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from monai_u2.exceptions import InputError

logger = logging.getLogger(__name__)

RESPONSE_FORMATS = ("json_schema", "json_object", "none")
"""How a server is asked for JSON: by the schema, for any JSON object, or by the prompt alone."""

Messages = list[dict[str, str]]

_TRY_AGAIN = (408, 425, 429, *range(500, 600))
_REFUSED_REQUEST = (400, 413, 422)
_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
_UNREACHED = "no answer (ConnectionError)"
_UNANSWERED_IN_A_ROW = 3  # requests without an answer that make a server one that is down
_WAITING_AT_ONCE = 4  # requests for each thread that are made ahead


@dataclass(frozen=True, kw_only=True)
class ChatAnswer:
    """What a server answered.

    Args:
        text: the model's text, None where it refused.
        finish_reason: why the model stopped, "length" where it was cut off.
        prompt_tokens: number of tokens as the server counts them, None where it doesn't say.
        completion_tokens: likewise.
    """

    text: str | None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Unanswered(Exception):
    """A request got no usable answer: the server refused it, or failed in spite of all retries."""


class _NoAnswer(Unanswered):
    """The server failed in spite of all retries; `reached` where there was one that failed."""

    def __init__(self, text: str, reached: bool) -> None:
        super().__init__(text)
        self.reached = reached


class ChatClient:
    """Sends requests to any server with OpenAI's protocol (OpenAI, vLLM, Ollama, llama.cpp, `transformers serve`, …).

    A request that meets HTTP 408, 425, 429 or 5xx, a time-out, a broken connection or an answer that is no chat
    completion is sent again after a pause that doubles each time, or the one that the server asks for.

    **The messages leave this machine** for the server at `url`. Neither they nor the API key are ever logged.

    Args:
        url: the server's base address, such as `http://localhost:8000/v1`.
        model: name of the model.
        api_key_variable: environment variable that holds the API key; None for a server without one.
        response_format: one of :data:`RESPONSE_FORMATS`; what the server understands. A schema is only enforced by
            the first.
        concurrency: requests under way at once.
        requests_per_minute: most requests that are started in a minute, evenly spread; None for no limit.
        timeout: seconds to wait for the server to connect, and between two pieces of its answer.
        max_retries: how often a request is sent again.
        backoff: seconds of the first pause.
        max_wait: longest pause in seconds; a server that asks for a longer one counts as down.
        options: further fields of the request, such as temperature, seed and largest number of tokens.
        prompt_price: price of a million prompt tokens, in any currency.
        completion_price: price of a million completion tokens.
        role: what messages call the server.
        resume_hint: what a message about a server that is down says about the answers that are there.

    Raises:
        InputError: for an address that isn't http(s), no model, an unknown format, or numbers out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_variable: str | None = "OPENAI_API_KEY",
        response_format: str = "json_schema",
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        timeout: float = 120.0,
        max_retries: int = 5,
        backoff: float = 1.0,
        max_wait: float = 120.0,
        options: Mapping[str, Any] | None = None,
        prompt_price: float | None = None,
        completion_price: float | None = None,
        role: str = "chat server",
        resume_hint: str = "what was answered is kept",
    ) -> None:
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InputError(f"url of the {role} is {url!r}; expected an address such as http://localhost:8000/v1.")
        if not model:
            raise InputError(f"model of the {role} is {model!r}; expected the name of a model that {url} serves.")
        if response_format not in RESPONSE_FORMATS:
            raise InputError(
                f"response_format of the {role} is {response_format!r}; expected one of {', '.join(RESPONSE_FORMATS)}."
            )
        if concurrency < 1 or timeout <= 0 or max_retries < 0 or backoff < 0:
            raise InputError(
                f"concurrency {concurrency}, timeout {timeout}, retries {max_retries} and backoff {backoff} of the "
                f"{role}: expected at least 1, above 0, 0 or more, and 0 or more."
            )
        if requests_per_minute is not None and requests_per_minute <= 0:
            raise InputError(f"requests_per_minute of the {role} is {requests_per_minute}; expected above 0, or null.")
        if (prompt_price is None) != (completion_price is None):
            raise InputError(f"the {role} has one of prompt_price and completion_price; give both, or neither.")
        self.url = url.rstrip("/") + "/chat/completions"
        self.model = model
        self.api_key_variable = api_key_variable
        self.response_format = response_format
        self.concurrency = concurrency
        self.requests_per_minute = requests_per_minute
        self.timeout = timeout
        self.max_retries = max_retries
        self.backoff = backoff
        self.max_wait = max_wait
        self.options = dict(options or {})
        self.prices = None if prompt_price is None or completion_price is None else (prompt_price, completion_price)
        self.role = role
        self.resume_hint = resume_hint
        self._local = threading.local()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._next_start = 0.0
        self._counts = dict.fromkeys(("requests", "answered", "prompt_tokens", "completion_tokens", "without_usage"), 0)

    def check_api_key(self) -> None:
        """Raise an :class:`InputError` where the environment has no API key and one is needed."""
        if self.api_key_variable is not None and not os.environ.get(self.api_key_variable):
            raise InputError(
                f"the environment variable {self.api_key_variable} is empty; expected the API key of the {self.role} "
                "in it. Set it, or set api_key_variable to null for a server without a key."
            )
        key = os.environ.get(self.api_key_variable or "", "")
        if not (key.isascii() and (key.isprintable() and key == key.strip())):
            raise InputError(
                f"the environment variable {self.api_key_variable} holds blanks at an end, line ends or characters "
                "that no API key has; expected the key alone. Set it again."
            )

    @property
    def cost(self) -> dict[str, int | float]:
        """What this client has used so far.

        `requests` sent, those that were `answered`, `prompt_tokens` and `completion_tokens` as the server counts them,
        answers `without_usage` that gave no such count; and the `price`, where prices are known.
        """
        with self._lock:
            counts: dict[str, int | float] = dict(self._counts)
        price = self.price(counts["prompt_tokens"], counts["completion_tokens"])
        return counts if price is None else {**counts, "price": price}

    def price(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """Return the price of so many tokens, None where prices aren't known."""
        if self.prices is None:
            return None
        return (prompt_tokens * self.prices[0] + completion_tokens * self.prices[1]) / 1e6

    def request_body(
        self, messages: Messages, schema: Mapping[str, Any] | None = None, name: str = "answer"
    ) -> dict[str, Any]:
        """Return the body of a request: all that an answer depends on.

        Args:
            messages: dicts of `role` and `content`.
            schema: JSON schema of the answer, None for free text.
            name: name of the schema.
        """
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        if schema is not None and self.response_format == "json_schema":
            named = {"name": name, "strict": True, "schema": dict(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif schema is not None and self.response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        return {**body, **self.options}

    def complete(self, messages: Messages, schema: Mapping[str, Any] | None = None, name: str = "answer") -> ChatAnswer:
        """Ask once, see :meth:`request_body` for the arguments.

        Raises:
            Unanswered: when the server refuses the request, or no usable answer comes in spite of all retries.
            InputError: when the key, the address or the model is wrong, or the server wants a longer pause than
                `max_wait`.
        """
        self._stop.clear()
        return self._ask(self.request_body(messages, schema, name), 0.5)

    def ask_all(
        self,
        bodies: Iterable[tuple[str, Mapping[str, Any]]],
        answered: Callable[[str, ChatAnswer], None],
        unanswered: Callable[[str, str], None],
        was_up: bool = False,
    ) -> None:
        """Send many requests, several at once.

        Args:
            bodies: a key, hexadecimal digits, and the body of each request; taken as the work goes on.
            answered: called with key and answer as soon as it is there, in any thread.
            unanswered: called with key and reason, in this thread.
            was_up: whether the server has answered others of these requests before. Then what it fails at now may be
                the requests' own fault, and only a server that can't be reached counts as down.

        Raises:
            InputError: when the server is down: three requests in a row, or all of them, got no answer; and as
                :meth:`complete`. Requests that are under way are waited for, and their answers given.
        """
        self._stop.clear()
        in_a_row, number, failed, last = 0, 0, 0, ""

        def ask(key: str, body: Mapping[str, Any]) -> None:
            # threads that were stopped together don't come back together
            answered(key, self._ask(body, int(key[:4], 16) / 0xFFFF))

        def take(done: set[Future[None]]) -> None:
            nonlocal in_a_row, failed, last
            for future in done:
                key = futures.pop(future)
                try:
                    future.result()
                    in_a_row = 0
                except Unanswered as error:
                    last = str(error)
                    refused = not isinstance(error, _NoAnswer) or (was_up and error.reached)
                    in_a_row, failed = (0, failed) if refused else (in_a_row + 1, failed + 1)
                    if in_a_row == _UNANSWERED_IN_A_ROW:
                        raise self._down(last) from error
                    unanswered(key, last)

        futures: dict[Future[None], str] = {}
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                for key, body in bodies:
                    number += 1
                    futures[pool.submit(ask, key, body)] = key
                    while len(futures) >= _WAITING_AT_ONCE * self.concurrency:
                        take(wait(futures, return_when=FIRST_COMPLETED).done)
                while futures:
                    take(wait(futures, return_when=FIRST_COMPLETED).done)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if number and failed == number:
            raise self._down(last)

    def hidden(self, text: str) -> str:
        """Return a text without the API key."""
        key = os.environ.get(self.api_key_variable or "", "")
        return text.replace(key, "…") if key else text

    def _ask(self, body: Mapping[str, Any], spread: float) -> ChatAnswer:
        """Send a request until there is an answer; `spread` from 0 to 1 spreads the pauses of several requests."""
        for attempt in range(self.max_retries + 1):
            answer, problem, pause = self._send(body)
            if answer is not None:
                return answer
            seconds = min(self.backoff * 2**attempt * (0.75 + spread / 2), self.max_wait) if pause is None else pause
            if seconds > self.max_wait:
                raise self._down(
                    f"{problem}, and it wants to be left alone for {seconds:g} s (max_wait is {self.max_wait:g})"
                )
            if attempt < self.max_retries:
                message = self.role + ": %s; asked again in %.1f s (%d of %d)"
                logger.info(message, problem, seconds, attempt + 1, self.max_retries)
                if self._stop.wait(seconds):
                    break
        raise _NoAnswer(f"{problem}, after {attempt + 1} requests", problem != _UNREACHED)

    def _send(self, body: Mapping[str, Any]) -> tuple[ChatAnswer | None, str, float | None]:
        """Send a request once; return the answer, or what is wrong and the pause that the server asks for."""
        self._wait_for_turn()
        with self._lock:
            self._counts["requests"] += 1
        try:
            response = self._session().post(self.url, json=body, timeout=self.timeout, allow_redirects=False)
        except _BROKEN as error:
            reached = isinstance(error, requests.ReadTimeout) or not isinstance(error, requests.ConnectionError)
            return None, f"no answer ({type(error).__name__})" if reached else _UNREACHED, None
        if response.status_code in _TRY_AGAIN:
            return None, f"HTTP {response.status_code}", _retry_after(response.headers.get("Retry-After"))
        if response.status_code in _REFUSED_REQUEST:
            raise Unanswered(f"HTTP {response.status_code}: {self.hidden(response.text[:300])}")
        if response.status_code != 200:
            key = "no API key" if self.api_key_variable is None else f"the API key in {self.api_key_variable}"
            raise InputError(
                f"the {self.role} at {self.url} answered HTTP {response.status_code} to a request for {self.model!r} "
                f"with {key}; expected 200. Correct address, model or key."
            )
        try:
            content = response.json()
            choice = content["choices"][0]
            text, reason = choice["message"].get("content"), choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError):
            return None, "an answer that is no chat completion", None
        if not (text is None or isinstance(text, str)):
            return None, "an answer that is no chat completion", None
        return ChatAnswer(text=text, finish_reason=reason, **self._count(content.get("usage"))), "", None

    def _wait_for_turn(self) -> None:
        if self.requests_per_minute is None:
            return
        with self._lock:
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + 60.0 / self.requests_per_minute
        self._stop.wait(start - time.monotonic())

    def _session(self) -> requests.Session:
        """Return this thread's session: one isn't safe for several."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            # an explicit function also keeps requests from sending what a .netrc file holds
            self._local.session.auth = self._authorize
        return self._local.session

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.api_key_variable is not None:
            request.headers["Authorization"] = f"Bearer {os.environ[self.api_key_variable]}"
        return request

    def _count(self, usage: Any) -> dict[str, int]:
        """Count an answer and its tokens; return these where the server says them."""
        names = ("prompt_tokens", "completion_tokens")
        known = isinstance(usage, dict) and all(isinstance(usage.get(name), int) for name in names)
        tokens = {name: usage[name] for name in names} if known else {}
        with self._lock:
            self._counts["answered"] += 1
            self._counts["without_usage"] += not known
            for name, number in tokens.items():
                self._counts[name] += number
        return tokens

    def _down(self, problem: str) -> InputError:
        return InputError(
            f"the {self.role} at {self.url} is down: {problem}; expected a chat server with the model "
            f"{self.model!r}. Start it or wait, and run again: {self.resume_hint}."
        )


def _retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header (a number, or a date), None where there is none that can be read."""
    if header is None:
        return None
    try:
        return Retry().parse_retry_after(header)
    except InvalidHeader:
        return None
