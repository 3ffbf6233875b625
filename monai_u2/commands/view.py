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


"""``monai-u2 view``: a report beside its CT in the browser."""

from __future__ import annotations

import sys
import tempfile
import webbrowser
from collections.abc import Callable
from pathlib import Path

from monai_u2.commands.command import Command, check_whole_number, check_writable
from monai_u2.exceptions import InputError

__all__ = ["view_command", "view_report"]


def view(
    folder: str,
    image: str | None = None,
    port: int = 0,
    no_browser: bool = False,
    export: str | None = None,
) -> Command:
    """Show a report beside its CT in the browser, with the evidence of its sentences. Ends with Ctrl-C.

    Args:
        folder: the output folder of monai-u2 report.
        image: the report's CT; by default where it lay when the report was written with --evidence.
        port: where to listen on 127.0.0.1; 0 for any that is free.
        no_browser: print the page's address, and don't open it.
        export: write one HTML file that holds everything, the CT too, and serve nothing.
    """
    return Command(view_report, **locals())


def view_command() -> Callable[..., Command]:
    """Return the command, for fire."""
    from fire.decorators import SetParseFns

    # without a parse function, fire would make numbers of "1.2" and lists of "[a]"
    return SetParseFns(folder=str, image=str, export=str)(view)


def view_report(
    folder: str, image: str | None = None, port: int = 0, no_browser: bool = False, export: str | None = None
) -> None:
    """Do what :func:`view` says."""
    check_whole_number("port", port, 0)
    from monai_u2.apps.viewer import (
        ViewedReport,
        ViewerServer,
        export_page,
        nifti_of,
        preview_of,
        remembered_image,
    )

    root = Path(folder).expanduser()
    report = ViewedReport.read(root)
    notices = "".join(f"{notice}\n" for notice in report.notices)
    try:
        ct, series_uid = remembered_image(root)
    except InputError:
        if image is None:
            raise
        series_uid = None  # what is read is still compared with the report's series
    if image is not None:
        ct = Path(image).expanduser()
    series = report.content.get("geometry", {}).get("series")
    with tempfile.TemporaryDirectory(prefix="monai-u2-view-") as made:
        nifti = nifti_of(ct, series, Path(made), series_uid)
        preview = preview_of(nifti, Path(made))
        if export is not None:
            page = Path(export).expanduser()
            if page.is_dir():
                raise InputError(f"{page}: is a folder; expected a file for --export. Give a name such as page.html.")
            check_writable(page.parent)
            page.parent.mkdir(parents=True, exist_ok=True)
            export_page(report, nifti, page, preview)
            sys.stdout.write(f"Written to {page}: it holds the CT itself.\n{notices}")
            return
        with ViewerServer(report, nifti, port, preview) as server:
            sys.stdout.write(f"{server.url}\n{notices}Shown until Ctrl-C.\n")
            sys.stdout.flush()
            if not no_browser:
                # the address has the key, and every user of this machine sees the arguments of a browser's process
                door = Path(made) / "open.html"
                door.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={server.url}">\n')
                webbrowser.open(door.as_uri())
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                sys.stdout.write("\n")
