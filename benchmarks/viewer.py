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

"""The viewer in a headless Chromium without a graphics card: how long until a report's page can be used, and how far
the crosshair is from the cited place after a click on each sentence. For a folder of `monai-u2 report --evidence`::

    python benchmarks/viewer.py runs/viewed --output runs/viewer.json
"""

from __future__ import annotations

import math
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import fire
import nibabel as nib
from bundle_model import write_figures

from monai_u2.apps.viewer import ViewedReport, ViewerServer, nifti_of, preview_of, remembered_image
from monai_u2.exceptions import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.apps.chromium import PROGRAM, Chromium

# the page's own clock starts with the navigation
NOTE_START = "document.addEventListener('DOMContentLoaded', () => viewer.ready.then(() => "
NOTE_START += "{ window.started = [performance.now() / 1000, viewer.shape()]; }))"


@contextmanager
def serving(report: ViewedReport, ct: Path, preview: Path | None) -> Iterator[str]:
    """Serve the page; yield its address."""
    with ViewerServer(report, ct, preview=preview) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.url
        finally:
            server.shutdown()


def open_and_click(url: str, places: dict[int, list[float]], profile: Path) -> dict[str, Any]:
    """Open the page in a browser of its own, and click each sentence that has a place.

    Args:
        url: address of the page.
        places: cited place of each sentence in mm, LPS, by the sentence's index.
        profile: folder for the browser.

    Returns:
        Seconds until the page could be used, shape of the volume that it showed then, and the distance of the crosshair
        to each place in mm.

    Raises:
        RuntimeError: the page's console has errors or warnings.
    """
    with Chromium(profile) as browser:
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=NOTE_START)
        browser.open(url)
        browser.run("viewer.ready")
        browser.wait_for(lambda: browser.run("window.started !== undefined"))
        seconds, shape = browser.run("started")
        distances = {}
        for index, place in places.items():
            browser.click(f"[data-sentence='{index}']")
            distances[index] = math.dist(browser.run("viewer.crosshairMm()"), place)
        if browser.problems:
            raise RuntimeError(f"the page's console says: {'; '.join(browser.problems)}")
    return {"seconds": seconds, "first_shape": shape, "distances_mm": distances}


def viewer(folder: str, output: str | None = None, rounds: int = 3) -> None:
    """Print a table.

    Args:
        folder: what `monai-u2 report --evidence` wrote.
        output: JSON file for the figures of all rounds.
        rounds: how often the page is opened, in a new browser each time.
    """
    if PROGRAM is None or rounds < 1:
        raise InputError(f"Chromium is {PROGRAM}, rounds is {rounds}; expected Chromium in PATH and at least 1 round.")
    root = Path(folder)
    report = ViewedReport.read(root)
    shown = {index for _, index in report.segments if index is not None}
    places = {i: one["place"]["peak_lps_mm"] for i, one in enumerate(report.sentences) if i in shown and one["place"]}
    if not places:
        raise InputError(f"{root}: no sentence of the report has a place; expected a report with evidence.")
    image, series_uid = remembered_image(root)
    with tempfile.TemporaryDirectory() as made:
        ct = nifti_of(image, report.content.get("geometry", {}).get("series"), Path(made), series_uid)
        shape = list(nib.load(ct).shape)
        with serving(report, ct, preview_of(ct, Path(made))) as url:
            seen = [open_and_click(url, places, Path(made, f"profile_{number}")) for number in range(rounds)]
    seconds = median(one["seconds"] for one in seen)
    worst = max(distance for one in seen for distance in one["distances_mm"].values())
    print("| | |\n|---|---|")
    print(f"| voxels of the CT | {' × '.join(map(str, shape))} |")
    print(f"| voxels shown first | {' × '.join(map(str, seen[0]['first_shape']))} |")
    print(f"| seconds until the page could be used, median of {rounds} | {seconds:.2f} |")
    print(f"| sentences with a place | {len(places)} of {len(report.sentences)} |")
    print(f"| largest distance of the crosshair to the cited place in mm | {worst:.4f} |")
    write_figures(output, {"shape": shape, "rounds": seen, "median_seconds": seconds, "largest_distance_mm": worst})


if __name__ == "__main__":
    fire.Fire(viewer)
