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

"""Splitting records into training, validation and test so that no patient is in two of them."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monai_u2.data.records import PATH_KEYS, RecordLine, iterate_records, write_records
from monai_u2.exceptions import InputError

SPLITS = ("train", "validation", "test")


def split_records(
    path: str | Path,
    output: str | Path,
    *,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 17,
    by: str | None = None,
) -> dict[str, dict[str, int]]:
    """Write ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``; each record goes to one of them, unchanged but
    for its paths.

    What belongs together stays together: the records of an image, those of a ``patient``, and those with the same value
    of the key ``by``. The same records, shares and seed give the same split, in whatever order the records stand.

    Args:
        path: a JSON Lines file of records.
        output: folder, made where needed.
        validation, test: share of the groups, 0 for no such file; at least one group where it is above 0.
        seed: seed of the draw.
        by: a key that every record has.

    Returns:
        split -> ``records``, ``images`` and ``groups`` in it, for the splits that were written.

    Raises:
        InputError: as :func:`~monai_u2.data.load_records` does; for shares that leave nothing for the training, a
            record without the key ``by``, and a file of another split in the folder.
    """
    path, output = Path(path), Path(output)
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise InputError(
            f"validation is {validation} and test {test}; expected shares from 0 to 1 with a sum below 1, such as 0.1."
        )
    lines = list(iterate_records(path))
    for line in lines:
        if line.record is None:
            raise line.error
        if by is not None and by not in line.record:
            raise InputError(f"{path}, line {line.number}: has no {by!r}; expected it in every record to split by it.")
    groups = _groups(lines, path.absolute().parent, by)
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest())
    shares = {"validation": validation, "test": test}
    numbers = {split: max(1, round(share * len(order))) if share else 0 for split, share in shares.items()}
    if sum(numbers.values()) >= len(order):
        raise InputError(
            f"{path}: {len(order)} groups of records, of which {numbers['validation']} are for validation and "
            f"{numbers['test']} for test; expected at least one more for training. Lower the shares, or add cases."
        )
    names = {"test": order[: numbers["test"]]}
    names["validation"] = order[numbers["test"] : sum(numbers.values())]
    names["train"] = order[sum(numbers.values()) :]
    _check_output(path, output, [split for split in SPLITS if not names[split]])
    output.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split in SPLITS:
        if names[split]:
            chosen = sorted((line for name in names[split] for line in groups[name]), key=lambda line: line.number)
            write_records(output / f"{split}.jsonl", [_moved(line, path, output) for line in chosen])
            counts[split] = {
                "records": len(chosen),
                "images": len({line.record["image"] for line in chosen}),
                "groups": len(names[split]),
            }
    return counts


def _groups(lines: Iterable[RecordLine], folder: Path, by: str | None) -> dict[str, list[RecordLine]]:
    """Gather records that share an image, a patient or the value of ``by``, also by way of others.

    Returns:
        a name that doesn't depend on the order of the lines or on the place of the files -> records.
    """
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while parents.setdefault(name, name) != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    keys = {}
    for line in lines:
        names = [f"image {os.path.relpath(line.record['image'], folder)}"]
        names += [f"{key} {line.record[key]}" for key in ("patient", by) if line.record.get(key) not in (None, "")]
        keys[line.number] = names[0]
        for name in names:
            first, second = sorted((root(names[0]), root(name)))
            parents[second] = first  # the first in the alphabet names the group
    groups = defaultdict(list)
    for line in lines:
        groups[root(keys[line.number])].append(line)
    return groups


def _check_output(path: Path, output: Path, unwritten: Iterable[str]) -> None:
    if path.resolve().parent == output.resolve() and path.stem in SPLITS and path.suffix == ".jsonl":
        raise InputError(f"{path}: would be overwritten by the split; expected another folder for --output.")
    for split in unwritten:
        if (output / f"{split}.jsonl").exists():
            raise InputError(
                f"{output / f'{split}.jsonl'}: is there from another split, and this one writes none; expected a "
                "folder without it. Delete it, or choose another folder."
            )


def _moved(line: RecordLine, path: Path, output: Path) -> dict[str, Any]:
    """Return a record as written, its relative paths from the folder it is written to."""
    moved = dict(line.written)
    # the system takes ".." from where a link to a folder leads
    source, target = os.path.realpath(path.absolute().parent), os.path.realpath(output)
    for key in PATH_KEYS:
        if key in moved and not os.path.isabs(moved[key]):
            moved[key] = os.path.relpath(os.path.join(source, moved[key]), target)
    return moved
