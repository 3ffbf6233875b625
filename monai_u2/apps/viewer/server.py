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


"""A server for one report, on this machine only."""

from __future__ import annotations

import contextlib
import errno
import secrets
import shutil
from http import HTTPStatus
from http.client import HTTP_PORT
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from monai_u2.apps.viewer.page import POLICY, PREVIEW, SCRIPTS, STYLE, nifti_name, served_page, static_text
from monai_u2.apps.viewer.viewed_report import SENTENCE_MAPS, ViewedReport
from monai_u2.exceptions import InputError

ADDRESS = "127.0.0.1"
_NIFTI = "application/octet-stream"
_HEADERS = {
    "Content-Security-Policy": POLICY.format(scripts="'self'", styles="'self'", data="'self'")
    + "; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class ViewerServer(ThreadingHTTPServer):
    """Serve a report's page, its scripts, its CT and its evidence, and nothing else, at 127.0.0.1.

    All addresses begin with a random key, since other users of the machine can reach the port, too. Requests that
    name another host are refused, so that no other site's page can read the answers by a name that leads here.

    Args:
        report: what to show.
        ct: NIfTI file of the CT.
        port: where to listen; 0 for any that is free.
        preview: NIfTI file of fewer voxels to show first, see :func:`monai_u2.apps.viewer.preview_of`.

    Raises:
        InputError: the port is in use, or not allowed.
    """

    daemon_threads = True

    def __init__(self, report: ViewedReport, ct: Path, port: int = 0, preview: Path | None = None) -> None:
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            used = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            why = "is in use" if used else f"can't be opened ({error})"
            raise InputError(f"port {port} of {ADDRESS} {why}. Give another with --port N, or leave it out.") from error
        self.key = secrets.token_urlsafe(16)
        name = nifti_name(ct)
        self.contents: dict[str, tuple[str, bytes | Path]] = {
            "": ("text/html; charset=utf-8", served_page(report, name, preview is not None).encode()),
            STYLE: ("text/css; charset=utf-8", static_text(STYLE).encode()),
            **{script: ("text/javascript; charset=utf-8", static_text(script).encode()) for script in SCRIPTS},
            name: (_NIFTI, ct),
        }
        if report.maps is not None:
            self.contents[SENTENCE_MAPS] = (_NIFTI, report.maps)
        if preview is not None:
            self.contents[PREVIEW] = (_NIFTI, preview)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/{self.key}/"


class _Handler(BaseHTTPRequestHandler):
    server: ViewerServer
    server_version, sys_version = "monai-u2", ""

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):  # the page was closed while its CT was loading
            self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        port = self.server.server_port
        ports = (f":{port}", "") if port == HTTP_PORT else (f":{port}",)  # which browsers leave out
        hosts = [name + end for name in (ADDRESS, "localhost") for end in ports]
        if self.headers.get_all("Host", []) not in [[host] for host in hosts]:
            return self.send_error(HTTPStatus.FORBIDDEN, "another host")
        try:
            path = unquote(urlsplit(self.path).path)
        except ValueError:
            return self.send_error(HTTPStatus.BAD_REQUEST, "no address")
        if ".." in path or "\\" in path:
            return self.send_error(HTTPStatus.FORBIDDEN, "outside")
        root = f"/{self.server.key}/"
        found = self.server.contents.get(path.removeprefix(root)) if path.startswith(root) else None
        if found is None:
            return self.send_error(HTTPStatus.NOT_FOUND)
        kind, content = found
        if isinstance(content, bytes):
            self._send_headers(kind, len(content))
            if with_body:
                self.wfile.write(content)
            return None
        try:
            file = content.open("rb")
        except OSError:
            return self.send_error(HTTPStatus.NOT_FOUND, "the file is gone")
        with file:
            self._send_headers(kind, content.stat().st_size)
            if with_body:
                shutil.copyfileobj(file, self.wfile, 2**20)
        return None

    def _send_headers(self, kind: str, length: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():  # of refusals, too
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is the user's."""
