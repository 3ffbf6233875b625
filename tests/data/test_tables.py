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

import pytest

from monai_u2.data.tables import find_path, list_files, read_json, read_table
from monai_u2.exceptions import InputError


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_chosen_columns_in_any_order(tmp_path: Path) -> None:
    """With a byte-order mark, blanks, line breaks inside of a cell, an empty line, and Windows' ends of lines."""
    path = write(tmp_path, '\ufeffb , a,c\r\n1,"two\nlines, ",3\r\n\r\n,x,\r\n')
    rows = [*read_table(path, ("a", "b"), optional=("d", "c"))]
    assert rows == [{"a": "two\nlines,", "b": "1", "c": "3"}, {"a": "x", "b": "", "c": ""}]


def test_long_cells_are_read(tmp_path: Path) -> None:
    """Longer than the csv module takes by default."""
    (row,) = read_table(write(tmp_path, "a\n" + "x" * 200_000 + "\n"), ("a",))
    assert len(row["a"]) == 200_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Findings,b\n1,2\n", r"no column 'findings' \(close to it: 'Findings'\); its columns are: Findings, b"),
        ("", "no column 'findings'; its columns are: none"),
        ("findings;b\n", "its columns are: findings;b"),
        ("findings,b\n1\n", "line 2: has 1 fields; expected 2 as in the header"),
        ("findings,findings\n", "has the column 'findings' twice"),
        ('findings\n"a\n', "line 2: is no CSV"),
        ("findings\n\xe9\n".encode("cp1252"), "is not UTF-8 text .* it may be Windows-1252"),
        ("findings\n".encode("utf-16"), "it may be UTF-16"),
    ],
)
def test_what_is_no_such_table_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        [*read_table(path, ("findings",))]
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="does not exist"):
        [*read_table(tmp_path / "none.csv", ("findings",))]


def test_json_is_named_where_it_is_none(tmp_path: Path) -> None:
    assert read_json(write(tmp_path, '\ufeff{"a": 1}')) == {"a": 1}
    with pytest.raises(InputError, match="is not JSON: .* at line 1; it may be cut off"):
        read_json(write(tmp_path, '{"a": '))
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_json(write(tmp_path, '"é"'.encode("cp1252")))


def test_files_and_paths(tmp_path: Path) -> None:
    for name in ("b/2.nii.gz", "a/1.nii.gz", "a/._1.nii.gz", "a/1.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_files(tmp_path, ".nii.gz") == {
        "1.nii.gz": str(tmp_path / "a/1.nii.gz"),
        "2.nii.gz": str(tmp_path / "b/2.nii.gz"),
    }
    (tmp_path / "b/1.nii.gz").touch()
    with pytest.raises(InputError, match="there is another file of this name"):
        list_files(tmp_path, ".nii.gz")
    assert find_path(tmp_path, ["c", "b"], "folder") == tmp_path / "b"
    with pytest.raises(InputError, match="has no folder of images; expected c or d in it"):
        find_path(tmp_path, ["c", "d"], "folder of images")


def test_files_behind_linked_folders_are_listed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.nii.gz").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "linked" / "loop").symlink_to(tmp_path / "data")
    expected = {"a.nii.gz": str(tmp_path / "data" / "linked" / "a.nii.gz")}
    assert list_files(tmp_path / "data", ".nii.gz") == expected
