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

"""Predictions and references as JSON Lines, also those of other systems."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from monai_u2.evaluation.cases import evaluation_cases
from monai_u2.exceptions import InputError


def read_predictions(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read predictions: a JSON Lines file, or the output folder of an evaluation, whose `predictions.jsonl` is read.

    Returns:
        objects as they stand there, with `id` and `report`.

    Raises:
        InputError: when there is no such file, or a line isn't such an object.
    """
    path = Path(path)
    return _lines(path / "predictions.jsonl" if path.is_dir() else path, ("id", "report"))


def read_references(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read references: JSON Lines of objects with `id` and the text as `reference` or `report`, or of records, whose
    answers to the question for a report they are then; or the output folder of an evaluation.

    Returns:
        objects with `id`, `report` (empty where the file has null: a case without a reference) and what else is known
        of the case.

    Raises:
        InputError: as :func:`read_predictions`, and when a reference is neither a text nor null.
    """
    path = Path(path)
    entries = _lines(path / "predictions.jsonl" if path.is_dir() else path, ())
    if all("answer" in entry and "image" in entry for entry in entries):
        return [{**case, "report": case["reference"]} for case in evaluation_cases(path)]
    references = []
    for number, entry in enumerate(entries, start=1):
        if "id" not in entry or not ("reference" in entry or "report" in entry):
            raise InputError(
                f"{path}, entry {number}: has the keys {', '.join(entry) or 'none'}; expected 'id' and 'reference' or "
                "'report', or records with 'image', 'question' and 'answer'."
            )
        text = entry.get("reference", entry.get("report"))
        if text is not None and not isinstance(text, str):
            raise InputError(
                f"{path}, id {entry['id']!r}: the reference is {text!r}; expected a text, or null where there is none."
            )
        references.append({**entry, "report": text or ""})
    return references


def _lines(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: does not exist; expected a JSON Lines file, or an evaluation's output folder.")
    entries = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}); expected JSON Lines.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: is not JSON ({error}); expected one object a line.") from error
        if not isinstance(entry, dict) or (missing := [key for key in keys if key not in entry]):
            told = f"has no {missing[0]!r}" if isinstance(entry, dict) else "is no object"
            raise InputError(f"{path}, line {number}: {told}; expected one object a line with {' and '.join(keys)}.")
        entries.append(entry)
    if not entries:
        raise InputError(f"{path}: holds nothing; expected one JSON object a line.")
    return entries
