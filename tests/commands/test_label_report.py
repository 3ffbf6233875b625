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

"""The command against a server that answers as MONAI Label does; tests/label asks MONAI Label itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.command_line import run_command_line

REPORT = {
    "report": "FINDINGS:\nLesion ≥ 5 mm — left.",
    "question": "Describe the findings of this CT.",
    "warnings": ["outside the training distribution"],
    "model": {"name": "u2llm", "version": "0.2.0"},
}
VOLUME = bytes(range(256)) + b"\r\n--\n\r\x00"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._send(200, b'{"models": {"u2llm": {}, "spleen": {}}}', "application/json")

    def do_HEAD(self) -> None:
        self._send(200 if self._query()["image"] == ["phantom"] else 404, b"", "application/json")

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.forms.append(json.loads(parse_qs(form)["params"][0]))
        if self.server.forms[-1].get("question") == "too long":
            self._send(500, b"Internal Server Error", "text/plain")
        elif urlsplit(self.path).path == "/infer/spleen":
            self._send(200, b"{}", "application/json")
        elif self._query().get("output") == ["json"]:
            self._send(200, json.dumps(REPORT).encode(), "application/json")
        else:
            head = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\nContent-Type: %s\r\n\r\n'
            first = head % (b"params", b"", b"application/json") + json.dumps(REPORT).encode()
            second = head % (b"image", b'; filename="x.nii.gz"', b"application/gzip") + VOLUME
            self._send(200, first + b"\r\n" + second + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")

    def _query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.forms = []
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


def label_report(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return run_command_line(monkeypatch, "label-report", *arguments)


def test_the_report_is_printed(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label_report(monkeypatch, f"127.0.0.1:{server.server_port}", "phantom", "--question", "What?") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(REPORT["report"]) and "Warning: outside the training distribution" in printed
    assert "Not for clinical use" in printed
    assert server.forms == [{"question": "What?"}]


def test_files_are_written(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://127.0.0.1:{server.server_port}/"
    assert label_report(monkeypatch, address, "phantom", "--output", str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "evidence_levels.nii.gz").read_bytes() == VOLUME
    text = (tmp_path / "out" / "report.txt").read_text(encoding="utf-8")
    assert REPORT["report"] in text and text.endswith("Written by u2llm 0.2.0: not for clinical use.\n")
    assert f"Warning: {REPORT['warnings'][0]}\n" in text
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")) == REPORT
    assert server.forms == [{}]


def test_another_reports_files_are_not_mixed_with_these(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own files of another image are replaced."""
    address = f"http://127.0.0.1:{server.server_port}"
    (tmp_path / "evidence_levels.nrrd").write_bytes(b"of another image")
    assert label_report(monkeypatch, address, "phantom", "--output", str(tmp_path)) == 0
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"report.txt", "report.json", "evidence_levels.nii.gz"}
    (tmp_path / "viewer.json").write_text("{}")
    assert label_report(monkeypatch, address, "phantom", "--output", str(tmp_path)) == 2
    assert "holds viewer.json, which isn't of this command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "has no image 'nowhere'"),
        (("phantom", "--model", "liver"), "has no model 'liver', but spleen, u2llm"),
        (("phantom", "--model", "spleen"), "'spleen' writes no reports"),
        (("phantom", "--question", "too long"), "failed (HTTP 500); the server's log says why"),
        (("phantom", "--question", " "), "--question is empty"),
    ],
)
def test_what_cant_be_answered_is_one_line(
    server: ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert label_report(monkeypatch, f"127.0.0.1:{server.server_port}", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_no_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert label_report(monkeypatch, "http://127.0.0.1:9", "phantom") == 2
    error = capsys.readouterr().err
    assert "can't be reached" in error and error.count("\n") == 1
