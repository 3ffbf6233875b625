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

"""Records: the JSON Lines that every stage reads and writes, one object a line.

``image`` (str)
    path of the volume, relative to the JSON Lines file's folder or absolute.
``question`` (str), ``answer`` (str)
    what is asked about the volume and what is to be answered. ``answer`` may be missing only where nothing is trained
    on.

Optional keys, kept as they are when they have the right type:

``kind`` (str)
    what sort of question it is, :data:`QUESTION_KINDS` or any other name; "report" where it is missing.
``case`` (int)
    number of the case in its data set.
``findings`` (list of str)
    labels of the findings in the volume, ``[]`` for a normal one.
``lesion_mask`` (str), ``truth`` (str)
    paths like ``image``: a uint8 volume of the same geometry, 0 for background; a JSON file with what is known of the
    case.

What a data set's tables say in place of the file's header (:class:`monai_u2.transforms.CorrectHeaderd` and
:class:`monai_u2.transforms.LoadCTd` apply it, once):

``spacing`` (three numbers)
    voxel size along the file's first, second and third axis in mm.
``image_orientation`` (six numbers)
    direction of the file's first axis, then of its second, as DICOM's ImageOrientationPatient gives them (unit vectors
    to left, posterior, superior); the third axis is their cross product.
``rescale_slope``, ``rescale_intercept`` (number)
    HU = slope × stored value + intercept.
``volume_index`` (int)
    which volume of a 4-D file is meant; a 3-D file has the volume 0 alone.

Any other key is kept as it is. Records of one image follow each other or don't: :func:`group_by_image` gathers them.
"""

from __future__ import annotations

import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_u2.exceptions import InputError

QUESTION_KINDS = ("report", "region", "presence", "side", "location", "size")
"""Kinds of questions: the whole report, one region of it, is there X, is there X in this place, where is X, how
large is X."""

PATH_KEYS = ("image", "lesion_mask", "truth")
_TYPES: dict[str, tuple[type, str]] = {
    "image": (str, "a string"),
    "question": (str, "a string"),
    "answer": (str, "a string"),
    "kind": (str, "a string"),
    "case": (int, "an integer"),
    "findings": (list, "a list of strings"),
    "lesion_mask": (str, "a string"),
    "truth": (str, "a string"),
}
HEADER_KEYS = ("spacing", "image_orientation", "rescale_slope", "rescale_intercept", "volume_index")
"""Keys of what takes the place of the file's header."""

_IMAGE_SUFFIX = re.compile(r"\.(nii\.gz|nii|nrrd|nhdr|mha|mhd|dcm)$", re.IGNORECASE)
_CONVERSATION_KEYS = ("question", "answer", "kind")
_IMAGE_KEYS = ("case", "findings", "lesion_mask", "truth", *HEADER_KEYS)


@dataclass(frozen=True)
class RecordLine:
    """A line of a JSON Lines file.

    Attributes:
        number: number of the line, from 1.
        written: the JSON value as it stands in the file; None where the line is no JSON.
        record: the checked record with absolute paths; None where there is something wrong with it.
        error: what is wrong; None where nothing is.
    """

    number: int
    written: Any
    record: dict[str, Any] | None = None
    error: InputError | None = None


def without_image_suffix(name: str) -> str:
    """The name of an image's file without its suffix, `a` of `a.nii.gz`; any other name as it is."""
    return _IMAGE_SUFFIX.sub("", name)


def load_records(path: str | Path, *, require_answer: bool = True) -> list[dict[str, Any]]:
    """Load and check records; paths in them become absolute (whether the files exist is not looked at).

    Args:
        path: a JSON Lines file, UTF-8; blank lines are skipped.
        require_answer: refuse records without ``answer``. An answer that is there must not be empty in any case.

    Raises:
        InputError: for a missing, unreadable or empty file and for a record that isn't as the module describes; the
            message
            names file, line, value and what was expected.
    """
    records = []
    for line in iterate_records(path, require_answer=require_answer):
        if line.record is None:
            raise line.error
        records.append(line.record)
    return records


def iterate_records(path: str | Path, *, require_answer: bool = True) -> Iterator[RecordLine]:
    """Yield every line that isn't blank with its record, or with what is wrong with it.

    Args:
        path: a JSON Lines file, UTF-8.
        require_answer: take records without ``answer`` for wrong.

    Raises:
        InputError: for a missing file, one that isn't UTF-8, and one without records.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path}: {what}; expected a JSON Lines file with one record a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); expected JSON Lines"
        ) from error
    if not any(line.strip() for line in lines):
        raise InputError(f"{path}: holds no records; expected one JSON object a line")
    folder = path.absolute().parent
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where, written = f"{path}, line {number}", None
        try:
            written = _parsed(line, where)
            yield RecordLine(number, written, _checked(written, where, require_answer, folder))
        except InputError as error:
            yield RecordLine(number, written, error=error)


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as JSON Lines. The file appears whole or not at all; its folder is made where needed."""
    text = "".join(json.dumps(dict(record), ensure_ascii=False) + "\n" for record in records)
    write_text_atomically(Path(path), text)


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text under a temporary name beside ``path``, then move it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def group_by_image(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Gather the records of each image, in the order in which the images first appear.

    Returns:
        one dict for each image: ``image``, ``conversations`` (dicts of ``question`` and, where the record has them,
        ``answer`` and ``kind``, in order), and the image's other keys as its first record gives them.

    Raises:
        InputError: records of one image disagree on its ``case``, ``findings``, ``lesion_mask``, ``truth`` or on what
            takes the place of the file's header.
    """
    groups: dict[str, dict[str, Any]] = {}
    for record in records:
        group = groups.setdefault(record["image"], {"image": record["image"], "conversations": []})
        group["conversations"].append({key: record[key] for key in _CONVERSATION_KEYS if key in record})
        for key, value in record.items():
            if key in _CONVERSATION_KEYS:
                continue
            first = group.setdefault(key, value)
            if key in _IMAGE_KEYS and value != first:
                raise InputError(
                    f"{record['image']}: its records disagree on {key!r} ({first!r} and {value!r}); expected the same "
                    "in all records of an image. Correct the records."
                )
    return list(groups.values())


def question_kind(conversation: Mapping[str, Any]) -> str:
    """Return the kind of a record or conversation: its ``kind``, "report" where it has none."""
    return conversation.get("kind", QUESTION_KINDS[0])


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: is not JSON: {error.msg} at column {error.colno}; expected one object a line"
        ) from error


def _checked(record: Any, where: str, require_answer: bool, folder: Path) -> dict[str, Any]:
    """Return a record with absolute paths, or raise an :class:`InputError` that says what is wrong with it."""
    if not isinstance(record, dict):
        raise InputError(f"{where}: is {_name_of(record)}; expected an object with 'image', 'question' and 'answer'")
    if "answer" not in record and "thinking_after" in record and isinstance(record.get("report"), str):
        record = {**record, "answer": record["report"]}  # the published shape of reasoning over a whole report
    required = ("image", "question", "answer") if require_answer else ("image", "question")
    for key in required:
        if key not in record:
            raise InputError(
                f"{where}: has no {key!r} (its keys: {', '.join(record) or 'none'}); add it or drop the line"
            )
    for key, (kind, name) in _TYPES.items():
        if key in record and (not isinstance(record[key], kind) or isinstance(record[key], bool)):
            raise InputError(f"{where}: {key!r} is {_name_of(record[key])}; expected {name}")
    if not all(isinstance(label, str) for label in record.get("findings", [])):
        raise InputError(f"{where}: 'findings' is {_name_of(record['findings'])}; expected a list of strings")
    _check_header(record, where)
    for key in ("image", "question", "answer"):
        if key in record and not record[key].strip():
            raise InputError(f"{where}: {key!r} is empty; fill it in or drop the line")
    return {key: str(folder / value) if key in PATH_KEYS else value for key, value in record.items()}


def _check_header(record: Mapping[str, Any], where: str) -> None:
    """Raise an :class:`InputError` where a record's header keys aren't what the module describes."""
    rules = (
        ("spacing", "three numbers above 0 (mm)", lambda value: _are_numbers(value, 3) and min(value) > 0),
        ("image_orientation", "two unit vectors at right angles, six numbers", is_image_orientation),
        ("rescale_slope", "a number other than 0", lambda value: _are_numbers([value], 1) and value != 0),
        ("rescale_intercept", "a number", lambda value: _are_numbers([value], 1)),
        ("volume_index", "an integer, 0 or more", lambda value: type(value) is int and value >= 0),
    )
    for key, expected, holds in rules:
        if key in record and not holds(record[key]):
            raise InputError(f"{where}: {key!r} is {_name_of(record[key])}; expected {expected}")


def _are_numbers(values: Any, count: int) -> bool:
    """Tell whether this is a list of so many finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        and all(math.isfinite(value) for value in values)
    )


def is_image_orientation(value: Any) -> bool:
    """Tell whether a value is a list of two unit vectors at right angles."""
    if not _are_numbers(value, 6):
        return False
    first, second = value[:3], value[3:]
    products = [sum(a * b for a, b in zip(u, v)) for u, v in ((first, first), (second, second), (first, second))]
    return all(abs(product - expected) < 1e-2 for product, expected in zip(products, (1, 1, 0)))


def _name_of(value: Any) -> str:
    """Return the JSON name of a value's type, with the value of what holds no text."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    name = names.get(type(value), "a number")
    numbers = value if isinstance(value, list) else [value]
    shown = json.dumps(value) if all(isinstance(number, (int, float)) for number in numbers) else ""
    return f"{name} ({shown})" if 0 < len(shown) <= 40 else name
