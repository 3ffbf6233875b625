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

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_u2.transforms import save_report
from monai_u2.transforms.load import OUTSIDE_PLANE
from monai_u2.transforms.save_report import SaveReport, SaveReportd, draw_overview

INFO = {
    "source": "nifti",
    "series": "0123456789abcdef",
    "shape": [60, 50, 40],
    "spacing_mm": [1.0, 1.0, 2.0],
    "extent_mm": [60.0, 50.0, 80.0],
    "orientation": "RAS",
    "scope": {"extent_s_mm": 80.0},
    "warnings": ["outside the training distribution: too short"],
    "timings_s": {"read": 0.5},
    "loaded_at": 0.0,
}
FILES = {"report.txt", "report.json", "overview.png"}


def planes() -> torch.Tensor:
    canvas = torch.full((3, 90, 90), OUTSIDE_PLANE, dtype=torch.int16)
    for plane, (rows, columns) in zip(canvas, ((50, 60), (80, 60), (80, 50)), strict=True):
        plane[:rows, :columns] = -1000
        plane[10 : rows - 10, 10 : columns - 10] = 40
    return canvas


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    (tmp_path / "model.pt").write_bytes(b"weights")
    return tmp_path / "model.pt"


def saver(model_file: Path, **arguments: Any) -> SaveReportd:
    return SaveReportd(
        "report",
        output_dir=model_file.parent / "out",
        model_file=model_file,
        model_name="u2llm",
        model_version="0.1.0",
        preprocessing={"spacing_mm": [3.0, 3.0, 3.0]},
        **arguments,
    )


def case(**values: Any) -> dict[str, Any]:
    return {
        "report": "The liver is normal. ≥\n",
        "question": "Liver?",
        "info": INFO,
        "planes": planes(),
        "planes_mm": 1.0,
    } | values


def test_three_files_say_what_was_done(model_file: Path) -> None:
    folder = model_file.parent / "out"
    saver(model_file)(case())
    assert {path.name for path in folder.iterdir()} == FILES
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert content["report"] == "The liver is normal. ≥" and content["question"] == "Liver?"
    assert content["model"] == {
        "name": "u2llm",
        "version": "0.1.0",
        "file": "model.pt",
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "use": "not for clinical use",
    }
    assert content["preprocessing"] == {"spacing_mm": [3.0, 3.0, 3.0]}
    assert content["geometry"] == {key: INFO[key] for key in content["geometry"]} and "shape" in content["geometry"]
    assert content["scope"] == INFO["scope"] and content["warnings"] == INFO["warnings"]
    assert content["timings_s"]["read"] == 0.5 and content["timings_s"]["from_loading_to_report"] > 0
    text = (folder / "report.txt").read_text(encoding="utf-8")
    assert text.startswith(
        "Question: Liver?\n\nThe liver is normal. ≥\n\nWarning: outside the training distribution: too short\n"
    )
    assert "not for clinical use" in text
    assert (folder / "overview.png").read_bytes().startswith(b"\x89PNG")


def test_collated_info_and_planes_are_taken(model_file: Path) -> None:
    data = case(info=json.dumps(INFO), planes=planes().numpy(), planes_mm=torch.tensor(1.0))
    saver(model_file)(data)
    content = json.loads((model_file.parent / "out" / "report.json").read_text(encoding="utf-8"))
    assert content["warnings"] == INFO["warnings"]


def test_each_case_has_its_folder(model_file: Path) -> None:
    save = saver(model_file, case_key="case")
    for name in ("first", "second"):
        save(case(case=name, report=name, info=INFO | {"series": name}))
    for name in ("first", "second"):
        folder = model_file.parent / "out" / name
        assert {path.name for path in folder.iterdir()} == FILES
        assert json.loads((folder / "report.json").read_text())["report"] == name


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ""])
def test_a_case_cannot_leave_the_output_folder(model_file: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected a name for a folder"):
        saver(model_file, case_key="case")(case(case=name))


def test_a_second_scan_does_not_replace_the_first(model_file: Path) -> None:
    save = saver(model_file)
    save(case(report="one"))
    save(case(report="one again"))
    with pytest.raises(ValueError, match=r"a second scan would replace the first one's report.*Set case_key"):
        save(case(report="two", info=INFO | {"series": "another"}))
    assert json.loads((model_file.parent / "out" / "report.json").read_text())["report"] == "one again"


def fail(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("no space left")


def test_a_failure_leaves_nothing(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save_report, "draw_overview", fail)
    with pytest.raises(RuntimeError, match="no space left"):
        saver(model_file)(case())
    assert not (model_file.parent / "out").exists()


def test_a_failure_leaves_an_earlier_report_whole(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_file.parent / "out"
    save = saver(model_file)
    save(case(report="earlier"))
    (folder / "notes.txt").write_text("the user's own")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(save_report, "draw_overview", fail)
    with pytest.raises(RuntimeError, match="no space left"):
        save(case(report="later"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_overview_shows_planes_at_one_scale(tmp_path: Path) -> None:
    from matplotlib.image import imread

    draw_overview(planes(), 1.0, (-160.0, 240.0), "title", tmp_path / "overview.png")
    picture = imread(tmp_path / "overview.png")[..., :3]
    gray = np.isclose(picture, 0.5, atol=0.02).all(axis=-1)  # 40 HU lies in the middle of the window
    columns = gray.sum(axis=0) > 40  # no letter is as high, nor as wide
    edges = np.flatnonzero(np.diff(np.pad(columns, 1).astype(int)))
    widths = edges[1::2] - edges[::2]
    heights = [(gray[:, a:b].sum(axis=1) > 40).sum() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    scale = widths[0] / 40
    np.testing.assert_allclose(widths / scale, [40, 40, 30], rtol=0.03)
    np.testing.assert_allclose(np.array(heights) / scale, [30, 60, 60], rtol=0.03)


def test_wrong_window_is_named(model_file: Path) -> None:
    with pytest.raises(ValueError, match=r"window is \[240, -160\]; expected \(lowest HU, highest HU\)"):
        SaveReport(model_file.parent, model_file, "u2llm", "0.1.0", window=[240, -160])
