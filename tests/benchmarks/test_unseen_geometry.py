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

import numpy as np
import pytest
import unseen_geometry as benchmark
from bundle_model import findings_matrix
from nibabel import aff2axcodes, load
from unseen_geometry import GEOMETRIES, ORIGINAL, compare, regrid, unseen_geometry, write_volume

from monai_u2.data.phantom import FINDING_LABELS, draw_case, render_case
from monai_u2.data.phantom.cases import AXIS_CODES


def test_geometries_are_unseen() -> None:
    grids = [draw_case(number).grid for number in range(60)]
    in_plane, slices = [grid.spacing[0] for grid in grids], [grid.shape[2] for grid in grids]
    for change in GEOMETRIES.values():
        assert change.get("axcodes") not in AXIS_CODES
        assert not min(in_plane) <= change.get("in_plane_mm", 0) <= max(in_plane)
        assert not min(slices) <= change.get("slices", 0) <= max(slices)


@pytest.mark.parametrize("name", ["5 mm in plane", "40 slices", "axes PSL"])
def test_the_same_patient_on_another_grid(name: str, tmp_path: Path) -> None:
    """The middle of each finding stays where it was, in mm."""
    case = draw_case(200_003)
    changed = regrid(case, **GEOMETRIES[name])
    assert write_volume(changed, tmp_path / "volume.nii") == [label for label in FINDING_LABELS if label in case.labels]
    stored = load(tmp_path / "volume.nii")
    extent = np.array(stored.shape) * stored.header.get_zooms()
    original = np.array(case.grid.shape) * case.grid.spacing
    assert np.all(np.abs(np.sort(extent) - np.sort(original)) <= changed.grid.spacing[0])
    if "axcodes" in GEOMETRIES[name]:
        assert "".join(aff2axcodes(stored.affine)) == GEOMETRIES[name]["axcodes"]
    else:
        assert sorted(stored.shape) != sorted(case.grid.shape)
    middles = []
    for version in (case, changed):
        _, mask, affine = render_case(version)
        middles.append({v: affine[:3] @ [*np.argwhere(mask == v).mean(axis=0), 1] for v in np.unique(mask) if v})
    assert middles[0].keys() == middles[1].keys() and middles[0]
    for value, middle in middles[0].items():
        assert np.linalg.norm(middles[1][value] - middle) < 5


def test_compare() -> None:
    findings = [draw_case(number).labels for number in range(200_000, 200_030)]
    constant = [["cardiomegaly"]] * len(findings)
    table = compare({ORIGINAL: findings, "same": findings, "constant": constant}, findings_matrix(findings))
    assert table[ORIGINAL] == {"f1": {"value": 1.0, "low": 1.0, "high": 1.0}}
    assert table["same"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert table["same"]["same findings"] == 1
    assert table["constant"]["f1"]["value"] < 0.5
    assert table["constant"]["difference"]["high"] < 0
    assert table["constant"]["difference"]["value"] == pytest.approx(table["constant"]["f1"]["value"] - 1)


def test_a_model_on_all_grids(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = (ORIGINAL, "5 mm in plane", "40 slices", "axes ILP")
    monkeypatch.setattr(benchmark, "GEOMETRIES", {name: GEOMETRIES[name] for name in names})
    unseen_geometry(str(tiny_bundle), output=str(tmp_path / "table.json"), num_cases=2)
    content = json.loads((tmp_path / "table.json").read_text())
    assert list(content["table"]) == list(content["reports"]) == list(names)
    assert all(len(reports) == 2 for reports in content["reports"].values())
    assert content["table"]["axes ILP"]["in mask"] == content["table"][ORIGINAL]["in mask"] == 1
    # another order of the axes changes nothing but rounding, even for random weights
    assert content["reports"]["axes ILP"] == content["reports"][ORIGINAL]
    assert "| axes ILP |" in capsys.readouterr().out
