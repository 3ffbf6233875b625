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


"""The viewer's page: linked to the files of :class:`monai_u2.apps.viewer.ViewerServer`, or all in one file."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from monai_u2._html import html_environment
from monai_u2.apps.viewer.viewed_report import SENTENCE_MAPS, ViewedReport
from monai_u2.data.records import write_text_atomically

WINDOWS: dict[str, tuple[float, float]] = {
    "lung": (-1350.0, 150.0),
    "soft tissue": (-160.0, 240.0),
    "bone": (-500.0, 1300.0),
}
"""HU of black and of white."""
SCRIPTS = ("niivue.umd.js", "viewer.js")
STYLE = "viewer.css"
PREVIEW = "preview.nii"
# NiiVue holds its font in the script, as an image in a data: address
POLICY = "default-src 'none'; script-src {scripts}; style-src {styles}; img-src data:; connect-src {data}; "
POLICY += "base-uri 'none'; form-action 'none'"


def static_text(name: str) -> str:
    """Text of one of the page's scripts, or of its style sheet."""
    folder = files("monai_u2.apps.viewer") / "static"
    return (folder / "niivue" / name if name == SCRIPTS[0] else folder / name).read_text(encoding="utf-8")


def served_page(report: ViewedReport, ct_name: str, with_preview: bool = False) -> str:
    """The page that takes scripts and volumes from the server.

    Args:
        report: what to show.
        ct_name: name of the CT on the server, with its suffix.
        with_preview: the server has a CT of fewer voxels, too.
    """
    return _render(report, ct_name, with_preview=with_preview)


def export_page(report: ViewedReport, ct: Path, file: Path, preview: Path | None = None) -> None:
    """Write one HTML file that holds all it needs: scripts, CT and evidence. It holds the patient's CT: treat it so.

    Args:
        report: what to show.
        ct: NIfTI file of the CT.
        file: what to write.
        preview: NIfTI file of fewer voxels to show first, see :func:`monai_u2.apps.viewer.preview_of`.
    """
    paths = {"ct": ct, "maps": report.maps, "preview": preview}
    volumes = {name: _base64(path) for name, path in paths.items() if path is not None}
    scripts, style = [static_text(name) for name in SCRIPTS], static_text(STYLE)
    policy = POLICY.format(scripts=" ".join(map(_source_hash, scripts)), styles=_source_hash(style), data="'none'")
    inlined = {"scripts": scripts, "style": style, "volumes": volumes, "policy": policy}
    write_text_atomically(file, _render(report, nifti_name(ct), inlined, preview is not None))


def _render(report: ViewedReport, ct_name: str, inlined: dict | None = None, with_preview: bool = False) -> str:
    environment = html_environment("monai_u2.apps.viewer")
    environment.policies["json.dumps_kwargs"] = {}  # keeps the order of the windows
    content = {
        "ct": ct_name,
        "preview": PREVIEW if with_preview else None,
        "maps": None if report.maps is None else SENTENCE_MAPS,
        "windows": WINDOWS,
        "sentences": [{"text": one["text"], "place": one["place"]} for one in report.sentences],
        "shape": report.content.get("geometry", {}).get("shape"),
    }
    return environment.get_template("viewer.html.j2").render(
        report=report, data=content, windows=WINDOWS, inlined=inlined, scripts=SCRIPTS, style=STYLE
    )


def nifti_name(file: Path) -> str:
    """Name of a CT on the page: its own may name a patient."""
    return "ct.nii.gz" if file.name.lower().endswith(".gz") else "ct.nii"


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode("ascii")


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
