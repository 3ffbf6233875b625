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

from pathlib import Path

import numpy as np
import pytest

from monai_u2.data.phantom import FINDING_LABELS, draw_case, parse_findings, write_report
from monai_u2.exceptions import InputError
from monai_u2.judges import FindingList
from monai_u2.metrics import label_reports, read_label_table


def test_labels_of_phantom_reports_are_the_cases_own() -> None:
    cases = [draw_case(number) for number in range(60)]
    matrix = label_reports([write_report(case).text for case in cases], parse_findings, FINDING_LABELS)
    expected = [[label in case.labels for label in FINDING_LABELS] for case in cases]
    assert matrix.tolist() == expected and matrix.any()


def test_any_function_labels() -> None:
    labels = ["cyst, right", "cyst, left"]
    assert label_reports(["Right cyst.", "", "Left cyst."], FindingList(labels), labels).tolist() == [
        [True, False],
        [False, False],
        [False, True],
    ]
    with pytest.raises(InputError, match="gives 'mass'; expected one of the 2 labels"):
        label_reports(["a mass"], lambda text: ["mass"], labels)


def _table(folder: Path, *lines: str) -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join(("VolumeName,Cardiomegaly,Lung nodule", *lines)) + "\n")
    return path


def test_table_is_read_in_the_order_of_the_ids(tmp_path: Path) -> None:
    path = _table(tmp_path, "a.nii.gz,1,0", "b.nii.gz,0.0,1.0", "c.nii.gz,0,0")
    matrix, labels = read_label_table(path, ["b.nii.gz", "a.nii.gz"])
    assert labels == ["Cardiomegaly", "Lung nodule"]
    assert matrix.dtype == bool and matrix.tolist() == [[False, True], [True, False]]
    matrix, labels = read_label_table(path, ["b.nii.gz"], id_column="VolumeName", labels=["Lung nodule"])
    assert labels == ["Lung nodule"] and np.array_equal(matrix, [[True]])


def test_names_match_with_and_without_the_suffix_of_an_image(tmp_path: Path) -> None:
    """As CT-RATE's tables call volumes whose cases go by the name alone."""
    path = _table(tmp_path, "valid_1_a_1.nii.gz,1,0", "valid_1_a_2.nii.gz,0,1", "b,1,1", "v1.2,0,1")
    matrix, _ = read_label_table(path, ["valid_1_a_2", "b.DCM", "valid_1_a_1.nii.gz", "v1.2"])
    assert matrix.tolist() == [[False, True], [True, True], [True, False], [False, True]]
    with pytest.raises(InputError, match=r"differ in the suffix of an image alone: 2 \(b, b\.nii\)"):
        read_label_table(path, ["b", "b.nii"])


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (("a,1,0",), {}, r"no labels of these cases: 1 \(b\)"),
        (("a,1,0", "a,1,0", "b,0,0"), {}, "line 3: VolumeName 'a' is there twice"),
        (("a.nii.gz,1,0", "b,0,0", "a.nii,1,0"), {}, "line 4: VolumeName 'a.nii' is there twice, also as 'a.nii.gz'"),
        (("a,1,0", "b,2,0"), {}, "line 3, Cardiomegaly: is '2'; expected 0 or 1"),
        (("a,1,0", "b,1"), {}, "line 3, Lung nodule: is None"),
        (("a,1,0", "b,1,0"), {"labels": ["Mass"]}, r"has no column \['Mass'\]"),
        (("a,1,0", "b,1,0"), {"id_column": "case"}, r"has no column \['case'\]"),
    ],
)
def test_bad_tables(tmp_path: Path, lines: tuple[str, ...], options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_label_table(_table(tmp_path, *lines), ["a", "b"], **options)


def test_missing_and_empty_tables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_label_table(tmp_path / "none.csv", ["a"])
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="has no column"):
        read_label_table(tmp_path / "empty.csv", ["a"])
