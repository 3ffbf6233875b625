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


from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import viewer as benchmark

from monai_u2.apps.viewer import remember_image
from monai_u2.apps.viewer.page import static_text
from monai_u2.exceptions import InputError
from tests.apps.chromium import PROGRAM

pytestmark = [pytest.mark.browser, pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")]
SHAPE = (40, 36, 30)


def write_report(folder: Path, *places: tuple[float, float, float] | None) -> None:
    """A report of a CT of 2 mm with a sentence for each place in mm, LPS."""
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.diag([2.0, 2, 2, 1])), folder / "ct.nii.gz")
    texts, sentences, position = [], [], 0
    for number, mm in enumerate(places):
        texts.append(f"Finding {'ABC'[number]}.")
        place = None
        if mm is not None:
            voxel = [round(-mm[0] / 2), round(-mm[1] / 2), round(mm[2] / 2)]
            slices = {"axis": 2, "first": voxel[2], "last": voxel[2]}
            place = {"peak_lps_mm": mm, "peak_voxel": voxel, "slices": slices, "concentration": 1.0, "confidence": 1.0}
        span = {"text": texts[-1], "start": position, "end": position + len(texts[-1]), "section": None}
        sentences.append({**span, "place": place, "flags": [], "rests_on_image": mm is not None})
        position += len(texts[-1]) + 1
    content = {"report": " ".join(texts), "question": "Describe.", "warnings": [], "sentences": sentences}
    content |= {"model": {"name": "u2llm", "version": "1"}, "geometry": {"shape": SHAPE}}
    (folder / "report.json").write_text(json.dumps(content))
    remember_image(folder, folder / "ct.nii.gz")


def test_each_sentence_with_a_place_is_clicked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(tmp_path, (-20, -30, 40), None, (-60, -10, 20))
    benchmark.viewer(str(tmp_path), output=str(tmp_path / "figures" / "viewer.json"), rounds=1)
    content = json.loads((tmp_path / "figures" / "viewer.json").read_text())
    (seen,) = content["rounds"]
    assert seen["seconds"] > 0 and seen["first_shape"] == content["shape"] == list(SHAPE)
    assert list(seen["distances_mm"]) == ["0", "2"] and content["largest_distance_mm"] < 0.01
    assert "| sentences with a place | 2 of 3 |" in capsys.readouterr().out


def test_clicks_that_do_nothing_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = static_text("viewer.js").replace('button.addEventListener("click"', 'button.addEventListener("none"')
    monkeypatch.setattr(
        "monai_u2.apps.viewer.server.static_text", lambda name: script if name == "viewer.js" else static_text(name)
    )
    write_report(tmp_path, (-20, -30, 0))
    benchmark.viewer(str(tmp_path), output=str(tmp_path / "viewer.json"), rounds=1)
    # the crosshair stays in the middle of the CT
    expected = np.linalg.norm([-39 + 20, -35 + 30, 29])
    assert json.loads((tmp_path / "viewer.json").read_text())["largest_distance_mm"] == pytest.approx(expected, abs=2)


def test_a_report_without_places_is_refused(tmp_path: Path) -> None:
    write_report(tmp_path, None)
    with pytest.raises(InputError, match="no sentence of the report has a place"):
        benchmark.viewer(str(tmp_path))
