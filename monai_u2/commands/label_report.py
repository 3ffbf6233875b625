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

"""``monai-u2 label-report``: the report of an image on a MONAI Label server, which viewers don't show."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_u2.commands.command import Command, check_writable
from monai_u2.data.report_text import report_text
from monai_u2.exceptions import InputError

if TYPE_CHECKING:
    import requests

__all__ = ["label_report_command"]

# seconds to connect, and to wait for what the server computes
TIMEOUT = (10, 600)
LEVELS = "evidence_levels"
EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha", "")
FILES = ("report.txt", "report.json", *(LEVELS + extension for extension in EXTENSIONS))


def label_report(
    server: str, image: str, question: str | None = None, output: str | None = None, model: str = "u2llm"
) -> Command:
    """Ask a running MONAI Label server for the report of one of its images. Not for clinical use.

    Args:
        server: address of the server, such as http://127.0.0.1:8000.
        image: ID of the image on the server: its file's name without extension.
        question: what to ask of the CT instead of the whole report.
        output: folder for report.txt, report.json and the evidence's levels, for this alone; made if it isn't there.
        model: name of the model on the server.
    """
    return Command(_label_report, **locals())


def label_report_command() -> Callable[..., Command]:
    """Return the command, for fire."""
    from fire.decorators import SetParseFns

    # without a parse function, fire would make numbers of "1.2" and lists of "[a]"
    return SetParseFns(server=str, image=str, question=str, output=str, model=str)(label_report)


def _label_report(server: str, image: str, question: str | None, output: str | None, model: str) -> None:
    folder = None if output is None else Path(output).expanduser()
    if folder is not None:
        check_writable(folder)
        _check_folder(folder)
    if question is not None and not question.strip():
        raise InputError("--question is empty; expected a question. Leave it out to get the whole report.")
    address = (server if "://" in server else f"http://{server}").rstrip("/")
    models = _models(address)
    if model not in models:
        raise InputError(
            f"{address}: has no model {model!r}, but {', '.join(sorted(models)) or 'none'}; expected one that writes "
            "reports. Start the server with --conf models u2llm, or give --model."
        )
    if _ask("HEAD", address, "/datastore/image", params={"image": image}).status_code == 404:
        raise InputError(
            f"{address}: has no image {image!r}; expected the name of a file among its studies, without the extension. "
            f"{address}/datastore/?output=all lists them."
        )
    response = _ask(
        "POST",
        address,
        f"/infer/{model}",
        params={"image": image} | ({"output": "json"} if folder is None else {}),
        data={"params": json.dumps({} if question is None else {"question": question})},
    )
    content, label = _parts(response)
    if "report" not in content:
        raise InputError(f"{address}: its model {model!r} writes no reports; give another --model.")
    lines = [content["report"], "", *(f"Warning: {text}" for text in content["warnings"])]
    if folder is not None:
        _write(folder, content, label)
        lines.append(f"Written to {folder}.")
    sys.stdout.write("\n".join([*lines, f"Not for clinical use. {_name(content)}"]) + "\n")


def _name(content: dict[str, Any]) -> str:
    return f"Written by {content['model']['name']} {content['model']['version']}."


def _models(address: str) -> list[str]:
    response = _ask("GET", address, "/info/")
    try:
        return list(response.json()["models"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{address}: isn't a MONAI Label server: its /info/ lists no models; check the address."
        ) from error


def _ask(method: str, address: str, path: str, **options: Any) -> requests.Response:
    """Send a request; the answer is a good one, or a 404 of HEAD."""
    import requests

    try:
        response = requests.request(method, address + path, timeout=TIMEOUT, **options)
    except requests.Timeout as error:
        raise InputError(f"{address}: gave no answer in time; look into its log, or try again later.") from error
    except requests.RequestException as error:
        raise InputError(
            f"{address}: can't be reached ({type(error).__name__}); expected the address of a running MONAI Label "
            "server. Start it, or check the address."
        ) from error
    if response.ok or (method == "HEAD" and response.status_code == 404):
        return response
    if response.status_code in (401, 403):
        raise InputError(f"{address}: refuses the request (HTTP {response.status_code}): it asks for a login.")
    raise InputError(
        f"{address}: {path} failed (HTTP {response.status_code}); the server's log says why, such as a question that "
        "is too long, or a CT that can't be read."
    )


def _parts(response: requests.Response) -> tuple[dict[str, Any], tuple[str, bytes] | None]:
    """The report, and the name and bytes of the label volume where the answer holds one."""
    kind = response.headers.get("Content-Type", "")
    if not kind.startswith("multipart/"):
        return response.json(), None
    message = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + response.content)
    content, label = {}, None
    for part in message.get_payload():
        if part.get_content_type() == "application/json":
            content = json.loads(part.get_payload(decode=True))
        else:
            label = (part.get_filename() or "", part.get_payload(decode=True))
    return content, label


def _check_folder(folder: Path) -> None:
    """Another report's files beside this one's would be taken for this one's."""
    others = [path.name for path in sorted(folder.iterdir()) if path.name not in FILES] if folder.is_dir() else []
    if others:
        raise InputError(
            f"{folder}: holds {others[0]}, which isn't of this command; expected a new or empty folder, so that no "
            "files of two reports lie side by side. Give another --output."
        )


def _write(folder: Path, content: dict[str, Any], label: tuple[str, bytes] | None) -> None:
    model = content["model"]
    text = report_text(content["report"], content["question"], content["warnings"], model["name"], model["version"])
    files = {"report.txt": text.encode()}
    if label is not None:
        name, volume = label
        extension = next((end for end in EXTENSIONS if name.endswith(end)), "")
        files[f"{LEVELS}{extension}"] = volume
    files["report.json"] = (json.dumps(content, indent=4, ensure_ascii=False) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as writing:
        for name, data in files.items():
            Path(writing, name).write_bytes(data)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)  # of an earlier report
        for name in files:
            os.replace(Path(writing, name), folder / name)
