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

"""A judge behind any server that speaks OpenAI's chat protocol."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from monai_u2.exceptions import InputError
from monai_u2.judges.base import FindingErrors, Judge
from monai_u2.judges.cache import JudgementCache, fingerprint
from monai_u2.judges.chat_format import INSTRUCTIONS, RESPONSE_SCHEMA, chat_messages, parse_chat_answer

logger = logging.getLogger(__name__)

_OPTIONS = {"temperature": 0, "max_tokens": 1024}
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_REFUSED_PAIR = (400, 413, 422)
_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
_UNANSWERED_IN_A_ROW = 3  # pairs without an answer that make a judge one that is down


class _Unanswered(Exception):
    """No usable answer came for a pair, in spite of all retries."""


class ChatJudge(Judge):
    """Asks a chat model on any server with OpenAI's protocol (OpenAI, vLLM, Ollama, llama.cpp, …).

    The model gets our own wording of the six kinds of errors and must answer in JSON of a fixed schema, whose lists are
    counted. What isn't that is never mended: see the statuses of :class:`FindingErrors`. A request that meets HTTP 429
    or 5xx, a time-out, a broken connection or an answer that is no chat completion is sent again after a pause that
    doubles each time, or the one that the server asks for.

    **The reports leave this machine** for the server at `url`. Neither they nor the API key are ever logged.

    Args:
        url: the server's base address, such as `http://localhost:8000/v1`.
        model: name of the model.
        api_key_variable: environment variable that holds the API key; None for a server without one.
        cache_dir: folder of judgements; what is in it is never asked again. None for no cache.
        concurrency: requests under way at once.
        timeout: seconds to wait for the server to connect, and between two pieces of its answer.
        retries: how often a request is sent again.
        backoff: seconds of the first pause.
        max_wait: longest pause in seconds; a server that asks for a longer one counts as down.
        options: further fields of the request, in place of temperature 0 and at most 1024 tokens.
        prompt_price: price of a million prompt tokens, in any currency.
        completion_price: price of a million completion tokens.

    Raises:
        InputError: for an address that isn't http(s), no model, a variable without a key, or numbers out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_variable: str | None = "OPENAI_API_KEY",
        cache_dir: str | os.PathLike[str] | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 5,
        backoff: float = 1.0,
        max_wait: float = 120.0,
        options: Mapping[str, Any] | None = None,
        prompt_price: float | None = None,
        completion_price: float | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"url of the judge is {url!r}; expected an address such as http://localhost:8000/v1.")
        if not model:
            raise InputError(f"model of the judge is {model!r}; expected the name of a model that {url} serves.")
        if concurrency < 1 or timeout <= 0 or retries < 0 or backoff < 0:
            raise InputError(
                f"concurrency {concurrency}, timeout {timeout}, retries {retries} and backoff {backoff} of the judge: "
                "expected at least 1, above 0, 0 or more, and 0 or more."
            )
        if (prompt_price is None) != (completion_price is None):
            raise InputError("the judge has one of prompt_price and completion_price; give both, or neither.")
        if api_key_variable is not None and not os.environ.get(api_key_variable):
            raise InputError(
                f"the environment variable {api_key_variable} is empty; expected the judge's API key in it. Set it, or "
                "set api_key_variable to null for a server without a key."
            )
        self.url = url.rstrip("/") + "/chat/completions"
        self.model = model
        self.api_key_variable = api_key_variable
        self.cache = JudgementCache(cache_dir)
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.max_wait = max_wait
        self.options = dict(_OPTIONS if options is None else options)
        self.prices = None if prompt_price is None or completion_price is None else (prompt_price, completion_price)
        self.name = f"chat {model}"
        self.version = f"1+{fingerprint(INSTRUCTIONS, RESPONSE_SCHEMA, self.options)[:8]}"
        self._local = threading.local()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._counts = dict.fromkeys(("requests", "judged", "prompt_tokens", "completion_tokens", "without_usage"), 0)

    @property
    def cost(self) -> dict[str, int | float]:
        """What this judge has used so far.

        `requests` sent, pairs `judged` (without those of the cache), `prompt_tokens` and `completion_tokens` as the
        server counts them, answers `without_usage` that gave no such count; and the `price`, where prices are known.
        """
        with self._lock:
            counts: dict[str, int | float] = dict(self._counts)
        if self.prices is not None:
            tokens = (counts["prompt_tokens"], counts["completion_tokens"])
            counts["price"] = sum(number * price / 1e6 for number, price in zip(tokens, self.prices))
        return counts

    def _judge(self, pairs: list[tuple[str, str]]) -> list[FindingErrors]:
        keys = [fingerprint(self.name, self.version, *pair) for pair in pairs]
        results: dict[str, FindingErrors] = {}
        waiting: dict[str, tuple[str, str]] = {}
        for key, pair in zip(keys, pairs):
            known = None if key in waiting else self.cache.get(key)
            if known is None:
                waiting[key] = pair
            else:
                results[key] = known
        if waiting:
            results |= self._ask_all(waiting)
        return [results[key] for key in keys]

    def _ask_all(self, waiting: dict[str, tuple[str, str]]) -> dict[str, FindingErrors]:
        """Ask for all pairs at once; judgements go to the cache as they come."""
        results: dict[str, FindingErrors] = {}
        in_a_row, unanswered = 0, 0
        self._stop.clear()
        with ThreadPoolExecutor(min(self.concurrency, len(waiting))) as pool:
            futures = {pool.submit(self._ask, key, *pair): key for key, pair in waiting.items()}
            try:
                for future in as_completed(futures):
                    try:
                        results[futures[future]] = future.result()
                        in_a_row = 0
                    except _Unanswered as error:
                        in_a_row, unanswered = in_a_row + 1, unanswered + 1
                        if in_a_row == _UNANSWERED_IN_A_ROW or unanswered == len(waiting):
                            raise self._down(str(error)) from error
                        results[futures[future]] = FindingErrors(status="failed", explanation=str(error))
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return results

    def _ask(self, key: str, reference: str, candidate: str) -> FindingErrors:
        """Ask for one pair until there is an answer."""
        schema = {"name": "finding_errors", "strict": True, "schema": RESPONSE_SCHEMA}
        body = {
            "model": self.model,
            "messages": chat_messages(reference, candidate),
            "response_format": {"type": "json_schema", "json_schema": schema},
            **self.options,
        }
        for attempt in range(self.retries + 1):
            errors, problem, pause = self._send(body)
            if errors is not None:
                with self._lock:
                    self._counts["judged"] += 1
                self.cache.put(key, errors)
                return errors
            # threads that were stopped together don't come back together
            spread = 0.75 + int(key[:4], 16) / 0xFFFF / 2
            wait = min(self.backoff * 2**attempt * spread, self.max_wait) if pause is None else pause
            if wait > self.max_wait:
                raise self._down(
                    f"{problem}, and it wants to be left alone for {wait:g} s (max_wait is {self.max_wait:g})"
                )
            if attempt < self.retries:
                logger.info("judge: %s; asked again in %.1f s (%d of %d)", problem, wait, attempt + 1, self.retries)
                if self._stop.wait(wait):
                    break
        raise _Unanswered(f"{problem}, after {attempt + 1} requests")

    def _send(self, body: dict[str, Any]) -> tuple[FindingErrors | None, str, float | None]:
        """Send a request once; return the judgement, or what is wrong and the pause that the server asks for.

        Raises:
            InputError: for an answer that no retry changes.
        """
        with self._lock:
            self._counts["requests"] += 1
        try:
            response = self._session().post(self.url, json=body, timeout=self.timeout, allow_redirects=False)
        except _BROKEN as error:
            return None, f"no answer ({type(error).__name__})", None
        if response.status_code in _TRY_AGAIN:
            return None, f"HTTP {response.status_code}", _retry_after(response.headers.get("Retry-After"))
        if response.status_code in _REFUSED_PAIR:
            told = f"HTTP {response.status_code}: {self._hidden(response.text[:300])}"
            return FindingErrors(status="failed", explanation=told), "", None
        if response.status_code != 200:
            key = "no API key" if self.api_key_variable is None else f"the API key in {self.api_key_variable}"
            raise InputError(
                f"the judge at {self.url} answered HTTP {response.status_code} to a request for {self.model!r} with "
                f"{key}; expected 200. Correct address, model or key."
            )
        try:
            answer = response.json()
            choice = answer["choices"][0]
            content, reason = choice["message"].get("content"), choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError):
            return None, "an answer that is no chat completion", None
        if not (content is None or isinstance(content, str)):
            return None, "an answer that is no chat completion", None
        self._count_tokens(answer.get("usage"))
        return parse_chat_answer(content, reason), "", None

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

    def _hidden(self, text: str) -> str:
        key = os.environ.get(self.api_key_variable or "", "")
        return text.replace(key, "…") if key else text

    def _count_tokens(self, usage: Any) -> None:
        names = ("prompt_tokens", "completion_tokens")
        with self._lock:
            if isinstance(usage, dict) and all(isinstance(usage.get(name), int) for name in names):
                for name in names:
                    self._counts[name] += usage[name]
            else:
                self._counts["without_usage"] += 1

    def _down(self, problem: str) -> InputError:
        kept = "what was judged is in cache_dir" if self.cache.folder else "set cache_dir to keep what is judged"
        return InputError(
            f"the judge at {self.url} is down: {problem}; expected a chat server with "
            f"the model {self.model!r}. Start it or wait, and run again: {kept}."
        )


def _retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header (a number, or a date), None where there is none that can be read."""
    if header is None:
        return None
    try:
        return Retry().parse_retry_after(header)
    except InvalidHeader:
        return None
