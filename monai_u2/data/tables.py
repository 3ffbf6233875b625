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

"""Tables and folders of downloaded data sets: CSV and JSON read strictly, one row at a time where they are large."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from monai_u2.data.folders import files_below
from monai_u2.exceptions import InputError

_MAX_FIELD = 1 << 24  # characters; the csv module's own limit is below some reports


def read_table(path: Path, columns: Sequence[str], optional: Collection[str] = ()) -> Iterator[dict[str, str]]:
    """Read a CSV file row by row.

    Args:
        path: the file, UTF-8 with or without byte-order mark.
        columns: columns that must be there.
        optional: further columns that are read where they are there.

    Yields:
        for each row, column -> text without blanks at its ends, "" where the cell is empty.

    Raises:
        InputError: for a missing column, a row of another length, a text in another encoding and what is no CSV; the
            message names file, row, what was found and what was expected.
    """
    csv.field_size_limit(_MAX_FIELD)
    with _opened(path) as file:
        reader = csv.reader(file, strict=True)  # else an open quotation mark takes in the rest
        try:
            header = [name.strip() for name in next(reader, [])]
            places = _places(path, header, columns, optional)
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(
                        f"{path}, line {reader.line_num}: has {len(row)} fields; expected {len(header)} as in the "
                        "header. It may be cut off, or a quotation mark is missing: download it again."
                    )
                yield {name: row[place].strip() for name, place in places}
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: is no CSV ({error}); download it again.") from error
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from error


def read_json(path: Path) -> Any:
    """Read a JSON file, UTF-8 with or without byte-order mark.

    Raises:
        InputError: when it isn't there, isn't UTF-8 or isn't JSON.
    """
    with _opened(path) as file:
        try:
            return json.load(file)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from error
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}: is not JSON: {error.msg} at line {error.lineno}; it may be cut off: download it again."
            ) from error


def find_path(source: Path, candidates: Iterable[str], what: str) -> Path:
    """Return the first of several paths in a folder that is there.

    Raises:
        InputError: when none is.
    """
    candidates = list(candidates)
    for candidate in candidates:
        if (source / candidate).exists():
            return source / candidate
    raise InputError(
        f"{source}: has no {what}; expected {' or '.join(candidates)} in it. Check the folder, or download this part."
    )


def list_files(folder: Path, suffix: str) -> dict[str, str]:
    """Return the files below a folder with this suffix: name -> absolute path, in the order of the names.

    Raises:
        InputError: when two files have one name.
    """
    files: dict[str, str] = {}
    for file in files_below(folder.absolute()):
        name, path = file.name, str(file)
        if not name.endswith(suffix) or name.startswith("."):
            continue
        if files.setdefault(name, path) != path:
            raise InputError(f"{path}: there is another file of this name, {files[name]}; expected one. Remove one.")
    return dict(sorted(files.items()))


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: does not exist or is no file; check the folder, or download it.")
    return path.open(encoding="utf-8-sig", newline="")


def _not_utf8(path: Path, error: UnicodeDecodeError) -> InputError:
    with path.open("rb") as file:
        start = file.read(2)
    guess = "UTF-16" if start in (b"\xff\xfe", b"\xfe\xff") else "Windows-1252"
    return InputError(
        f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); it may be {guess}: save it as UTF-8, or "
        "download it again."
    )


def _places(
    path: Path, header: Sequence[str], columns: Sequence[str], optional: Collection[str]
) -> list[tuple[str, int]]:
    for name in columns:
        if name not in header:
            close = difflib.get_close_matches(name.casefold(), {column.casefold(): column for column in header})
            spelled = {column.casefold(): column for column in header}
            hint = f" (close to it: {', '.join(repr(spelled[match]) for match in close)})" if close else ""
            raise InputError(
                f"{path}: has no column {name!r}{hint}; its columns are: {', '.join(header) or 'none'}. Rename the "
                "column, or download the file again."
            )
    twice = sorted({name for name in header if header.count(name) > 1 and name in (*columns, *optional)})
    if twice:
        raise InputError(f"{path}: has the column {twice[0]!r} twice; expected it once. Remove one.")
    return [(name, header.index(name)) for name in (*columns, *optional) if name in header]
