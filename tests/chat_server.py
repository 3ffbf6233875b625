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

"""A real HTTP server with OpenAI's chat protocol for tests, that misbehaves as it is told."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "sk-very-secret"
Behavior = Callable[[Any, int], str]  # from a case and the number of requests for it so far to what the server does


class ChatServer(ThreadingHTTPServer):
    """Answers as `script` says, and behaves as `behavior` says, per case and request.

    Args:
        script: from a request's body to its case, which it is counted by, and the text of the answer.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, script: Callable[[dict[str, Any]], tuple[Any, str]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.behavior: Behavior = lambda case, count: "ok"
        self.requests: Counter[Any] = Counter()
        self.answered: Counter[Any] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.busy = self.most_busy = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *args: Any) -> None:
        """Clients that hang up are part of the test."""


@contextmanager
def serving(script: Callable[[dict[str, Any]], tuple[Any, str]]) -> Iterator[ChatServer]:
    """A server in a thread."""
    with ChatServer(script) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


class Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet, else the kernel waits 40 ms between them

    def log_message(self, *args: Any) -> None:
        """Keep the test's output clean."""

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        case, content = server.script(body)
        with server.lock:
            server.times.append(time.monotonic())
            server.bodies.append(body)
            server.headers.append({"path": self.path, **self.headers})
            count = server.requests[case]
            server.requests[case] += 1
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            behavior = server.behavior(case, count)
        try:
            self.behave(behavior, case, content)
        finally:
            with server.lock:
                server.busy -= 1

    def behave(self, behavior: str, case: Any, content: str) -> None:
        if behavior == "sleep":
            self.client_left(within=60)
            self.close_connection = True
            return
        if behavior == "slow":
            time.sleep(0.1)
        if behavior.isdigit():
            text = f"bad request for key {SECRET}"
            self.reply(text, status=int(behavior), **({"Retry-After": "0"} if behavior == "429" else {}))
        elif behavior.startswith("wait "):
            self.reply("later", status=429, **{"Retry-After": behavior.removeprefix("wait ")})
        elif behavior == "hang up":
            self.close_connection = True
            self.connection.close()
        elif behavior == "cut body":
            self.reply(self.completion(content)[:40], length=5000)
            self.close_connection = True
        elif behavior == "no json":
            self.reply("<html>welcome</html>")
        elif behavior == "other json":
            self.reply('{"choices": []}')
        else:
            reason = "stop"
            if behavior == "length":
                content, reason = content[:30], "length"
            elif behavior == "cut content":
                content = content[:30]
            elif behavior == "malformed":
                content = "It is fine."
            elif behavior == "wrong schema":
                content = '{"something": "else"}'
            elif behavior == "refusal":
                content = None
            if self.client_left():  # a machine so busy that the client's time was over
                self.close_connection = True
                return
            with self.server.lock:
                self.server.answered[case] += 1
            self.reply(self.completion(content, reason))

    def client_left(self, within: float = 0) -> bool:
        """Whether the client has hung up, or does so within some seconds."""
        readable, _, _ = select.select([self.connection], [], [], within)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def completion(self, content: str | None, reason: str = "stop") -> str:
        message = {"role": "assistant", "content": content}
        usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
        return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": usage})

    def reply(self, text: str, *, status: int = 200, length: int | None = None, **headers: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
