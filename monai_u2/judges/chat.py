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

import os
from collections.abc import Mapping
from typing import Any

from monai_u2.chat_client import ChatAnswer, ChatClient
from monai_u2.data.fingerprint import fingerprint
from monai_u2.judges.base import FindingErrors, Judge
from monai_u2.judges.cache import JudgementCache
from monai_u2.judges.chat_format import INSTRUCTIONS, RESPONSE_SCHEMA, chat_messages, parse_chat_answer

_OPTIONS = {"temperature": 0, "max_tokens": 1024}


class ChatJudge(Judge):
    """Asks a chat model on any server with OpenAI's protocol (OpenAI, vLLM, Ollama, llama.cpp, …).

    The model gets our own wording of the six kinds of errors and must answer in JSON of a fixed schema, whose lists are
    counted. What isn't that is never mended: see the statuses of :class:`FindingErrors`. Requests are sent again as
    :class:`~monai_u2.chat_client.ChatClient` says.

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
        self.cache = JudgementCache(cache_dir)
        kept = "what was judged is in cache_dir" if self.cache.folder else "set cache_dir to keep what is judged"
        self.client = ChatClient(
            url,
            model,
            api_key_variable=api_key_variable,
            concurrency=concurrency,
            timeout=timeout,
            max_retries=retries,
            backoff=backoff,
            max_wait=max_wait,
            options=_OPTIONS if options is None else options,
            prompt_price=prompt_price,
            completion_price=completion_price,
            role="judge",
            resume_hint=kept,
        )
        self.client.check_api_key()
        self.name = f"chat {model}"
        self.version = f"1+{fingerprint(INSTRUCTIONS, RESPONSE_SCHEMA, self.client.options)[:8]}"

    @property
    def cost(self) -> dict[str, int | float]:
        """What this judge has used so far.

        `requests` sent, pairs `judged` (without those of the cache), `prompt_tokens` and `completion_tokens` as the
        server counts them, answers `without_usage` that gave no such count; and the `price`, where prices are known.
        """
        return {{"answered": "judged"}.get(name, name): number for name, number in self.client.cost.items()}

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

        def answered(key: str, answer: ChatAnswer) -> None:
            results[key] = parse_chat_answer(answer.text, answer.finish_reason)
            self.cache.put(key, results[key])

        def unanswered(key: str, reason: str) -> None:
            results[key] = FindingErrors(status="failed", explanation=reason)

        if waiting:
            bodies = ((key, self._body(*pair)) for key, pair in waiting.items())
            self.client.ask_all(bodies, answered, unanswered)
        return [results[key] for key in keys]

    def _body(self, reference: str, candidate: str) -> dict[str, Any]:
        return self.client.request_body(chat_messages(reference, candidate), RESPONSE_SCHEMA, "finding_errors")
