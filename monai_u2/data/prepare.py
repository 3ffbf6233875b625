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

"""From the folder of a data set, as downloaded, to records."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from monai_u2.data.cases import SPLITS, DatasetCase, DroppedCase, Note
from monai_u2.data.records import write_text_atomically
from monai_u2.data.shards import parse_shard
from monai_u2.exceptions import InputError

DATASETS = ("ct_rate", "amos_mm", "abdomen_atlas", "m3d_cap")
"""Data sets that :func:`prepare_dataset` knows, each a module of :mod:`monai_u2.data`."""

logger = logging.getLogger(__name__)


def prepare_dataset(
    name: str,
    source: str | Path,
    output: str | Path,
    shard: str | None = None,
    *,
    exclude_from_training: str | Path | None = None,
    keep_overlaps: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Write records of a data set, and a list of what no record was made of.

    In ``output``: ``train.jsonl``, ``validation.jsonl`` and, where the data set has one, ``test.jsonl`` (see
    :mod:`monai_u2.data.records`; paths are absolute); ``dropped.jsonl`` (`split`, `case`, `reason`); ``prepared.json``
    (what this function returns). All appear together at the end.

    A patient's cases are in one split: those who are held out for validation or test are dropped from the others.

    Args:
        name: one of :data:`DATASETS`.
        source: the data set's folder.
        output: folder, made where needed.
        shard: "3/16" for the third of 16 shares of the patients. The files' names then end with "-3-of-16", and
            ``cat train-*-of-16.jsonl > train.jsonl`` joins them.
        exclude_from_training: text file with a name of a case or of a patient in each line (of a CSV file the first
            column), which are dropped from training, such as those that another corpus holds out.
        keep_overlaps: keep cases in training whose patient is held out; they are counted all the same.
        options: the reader's own, see ``monai_u2.data.<name>.read_cases``.

    Returns:
        `dataset`, `source`, `options`, `shard`, `cases`, `patients` and `records` (split -> number), `dropped`
        (split -> reason -> number), `overlaps` (cases whose patient is held out), `notes`.

    Raises:
        InputError: for an unknown data set, option or shard, a folder that isn't there, nothing left, and what the
            reader refuses.
    """
    if name not in DATASETS:
        raise InputError(f"data set {name!r} is unknown; expected one of {', '.join(DATASETS)}")
    read_cases = importlib.import_module(f"monai_u2.data.{name}").read_cases
    _check_options(name, read_cases, options)
    if not isinstance(keep_overlaps, bool):
        raise InputError(f"keep_overlaps is {keep_overlaps!r}; expected True or False")
    if not Path(source).is_dir():
        raise InputError(f"{source}: is no folder; expected that of {name} as downloaded")
    index, count = parse_shard(shard)
    ending = "" if shard is None else f"-{index}-of-{count}"
    excluded = set() if exclude_from_training is None else _read_names(Path(exclude_from_training))
    made = _Prepared(excluded, keep_overlaps)
    with _written_together(Path(output), ending) as files:
        for item in read_cases(source, **options):
            if isinstance(item, Note):
                made.notes.append(item.text)
                logger.info("%s: %s", name, item.text)
            elif count == 1 or _share_of(item.patient, count) == index:
                for file, line in made.lines(item):
                    files(file).write(json.dumps(line, ensure_ascii=False) + "\n")
        if not made.cases:
            reasons = (
                ", ".join(f"{reason} ({number})" for reason, number in made.reasons().items()) or "no cases at all"
            )
            if count == 1:
                raise InputError(f"{source}: no case of {name} is left: {reasons}. Check the folder and the options.")
            made.notes.append(f"no case is in this shard: {reasons}")
        if excluded:
            made.notes.append(f"{len(made.found)} of {len(excluded)} names to exclude are in training")
        for split in ("train", "validation"):
            files(split)  # also where it is empty
        files("dropped")
    summary = {
        "dataset": name,
        "source": str(Path(source).absolute()),
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
        "exclude_from_training": None if exclude_from_training is None else str(exclude_from_training),
        "keep_overlaps": keep_overlaps,
        "shard": shard,
        **made.summary(),
    }
    write_text_atomically(Path(output) / f"prepared{ending}.json", json.dumps(summary, indent=4) + "\n")
    return summary


class _Prepared:
    """Counts and decisions over the cases of a data set."""

    def __init__(self, excluded: set[str], keep_overlaps: bool) -> None:
        self.excluded = excluded
        self.found: set[str] = set()
        self.keep_overlaps = keep_overlaps
        self.notes: list[str] = []
        self.cases: Counter[str] = Counter()
        self.records: Counter[str] = Counter()
        self.dropped: dict[str, Counter[str]] = {}
        self.overlaps: list[str] = []
        self.split_of_patient: dict[str, str] = {}
        self.patients: dict[str, set[str]] = {}
        self.seen: set[tuple[str, str]] = set()

    def lines(self, item: DatasetCase | DroppedCase) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the file that each line of a case belongs into, and the line."""
        reason = item.reason if isinstance(item, DroppedCase) else self._reason(item)
        if reason is not None:
            self.dropped.setdefault(item.split, Counter())[reason] += 1
            yield "dropped", {"split": item.split, "case": item.name, "reason": reason}
            return
        self.seen.add((item.split, item.name))
        self.split_of_patient.setdefault(item.patient, item.split)
        self.patients.setdefault(item.split, set()).add(item.patient)
        self.cases[item.split] += 1
        self.records[item.split] += len(item.records)
        yield from ((item.split, {**record, "patient": item.patient}) for record in item.records)

    def _reason(self, case: DatasetCase) -> str | None:
        names = {case.name, case.name.removesuffix(".nii.gz"), case.patient}
        if (case.split, case.name) in self.seen:
            return "given twice"
        if case.split == "train" and names & self.excluded:
            self.found |= names & self.excluded
            return "on the list of what is excluded from training"
        other = self.split_of_patient.get(case.patient, case.split)
        if other == case.split:
            return None
        self.overlaps.append(case.name)
        return None if self.keep_overlaps else f"its patient is in the split {other}"

    def reasons(self) -> Counter[str]:
        """Number of dropped cases for each reason, over all splits."""
        return sum(self.dropped.values(), Counter())

    def summary(self) -> dict[str, Any]:
        """Counts, in plain JSON types."""
        splits = [split for split in reversed(SPLITS) if split in self.cases]
        return {
            "cases": {split: self.cases[split] for split in splits},
            "patients": {split: len(self.patients[split]) for split in splits},
            "records": {split: self.records[split] for split in splits},
            "dropped": {split: dict(self.dropped[split]) for split in reversed(SPLITS) if split in self.dropped},
            "overlaps": self.overlaps,
            "notes": self.notes,
        }


def _check_options(name: str, read_cases: Callable[..., Any], options: dict[str, Any]) -> None:
    """Raise an :class:`InputError` for an option that the reader doesn't have or a switch that is no bool."""
    known = {key: parameter.default for key, parameter in inspect.signature(read_cases).parameters.items()}
    known.pop("source")
    for key, value in options.items():
        if key not in known:
            raise InputError(
                f"{name} has no option {key!r}; its options are: "
                + ", ".join(f"{option} ({default!r})" for option, default in known.items())
                + "; those of all data sets: exclude_from_training (None), keep_overlaps (False)."
            )
        if isinstance(known[key], bool) and not isinstance(value, bool):
            raise InputError(f"{key} is {value!r}; expected True or False")
    question = options.get("question", "-")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"question is {question!r}; expected a text")


def _share_of(patient: str, count: int) -> int:
    """Return the shard of a patient, from 1, on every machine the same."""
    return int(hashlib.sha256(patient.encode()).hexdigest()[:12], 16) % count + 1


def _read_names(path: Path) -> set[str]:
    if not path.is_file():
        raise InputError(f"{path}: does not exist; expected a text file with one name of a case in each line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    return {name for line in lines if (name := line.split(",")[0].strip().strip('"').removesuffix(".nii.gz"))}


@contextlib.contextmanager
def _written_together(output: Path, ending: str) -> Iterator[Callable[[str], TextIO]]:
    """Give files by their names' first parts; all of them get their names at the end, or none."""
    with contextlib.suppress(FileExistsError):
        output.mkdir(parents=True, exist_ok=True)
    if not output.is_dir():
        raise InputError(f"{output}: is a file; expected a folder for the records")
    files: dict[Path, TextIO] = {}
    token = uuid.uuid4().hex

    def temporary(target: Path) -> Path:
        return target.with_name(f".{target.name}.{token}.tmp")

    def opened(name: str) -> TextIO:
        target = output / f"{name}{ending}.jsonl"
        if target not in files:
            files[target] = temporary(target).open("w", encoding="utf-8", newline="\n")
        return files[target]

    try:
        yield opened
        for file in files.values():
            file.close()
        for target in files:
            os.replace(temporary(target), target)
    finally:
        for target, file in files.items():
            file.close()
            temporary(target).unlink(missing_ok=True)
