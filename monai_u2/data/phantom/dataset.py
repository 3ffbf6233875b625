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

"""Phantom data sets on disk: volumes, masks, truth, and the records of the three splits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from monai_u2.data.phantom.cases import draw_case
from monai_u2.data.phantom.difficulty import difficulty_settings
from monai_u2.data.phantom.findings import FINDING_LABELS, SEED, SPLIT_RANGES, split_of
from monai_u2.data.phantom.geometry import Draws
from monai_u2.data.phantom.report import REPORT_QUESTIONS, ask_questions, write_report
from monai_u2.data.phantom.storage import case_name, is_written, write_cases
from monai_u2.data.records import write_records, write_text_atomically
from monai_u2.exceptions import InputError

PHANTOM_VERSION = 3
"""Changes whenever a case's volume, report or truth changes: folders of another version are refused."""

_CHUNK = 24  # cases that a worker takes at most, so that the start of its process costs little


def generate_phantoms(
    root: str | Path,
    num_train: int = 1000,
    num_validation: int = 100,
    num_test: int = 200,
    questions_per_case: int = 3,
    *,
    difficulty: str = "default",
    num_workers: int | None = None,
    dicom: bool = False,
    progress: bool = True,
) -> dict[str, Path]:
    """Generate phantom cases and their records; what is already in the folder is kept.

    Written are ``images/case_000017.nii.gz`` (HU), ``masks/case_000017.nii.gz`` (i + 1 for finding label i),
    ``truth/case_000017.json``, with ``dicom`` also ``dicom/case_000017/*.dcm``, and for each split a JSON Lines file of
    records (see :mod:`monai_u2.data.records`): for each case one for the whole report, then ``questions_per_case``
    about regions and findings. Every file appears whole or not at all, so that a generation that was broken off goes on
    where it stopped, and several processes may generate into one folder.

    Args:
        root: folder, made where needed.
        num_train, num_validation, num_test: cases of each split, the first ones of its range of case numbers. Its JSON
            Lines file then holds exactly these, however many more the folder has; 0 leaves a split as it is.
        questions_per_case: beside the report.
        difficulty: one of :data:`~monai_u2.data.phantom.difficulty.DIFFICULTIES`, the same for the whole folder.
        num_workers: processes that render; as many as there are processors by default, 0 or 1 for this process alone.
        dicom: write each case as a DICOM series too.
        progress: show a progress bar.

    Returns:
        split -> path of its JSON Lines file, also where 0 cases were asked for and it may not be there.

    Raises:
        InputError: for a folder of another phantom version or difficulty, an unknown difficulty, a number of cases
            that a split doesn't have, or more questions than there are about a case.
    """
    root = Path(root)
    counts = {"train": num_train, "validation": num_validation, "test": num_test}
    for split, count in counts.items():
        first, end = SPLIT_RANGES[split]
        if not 0 <= count <= end - first:
            raise InputError(f"num_{split} is {count}; expected 0 to {end - first}, the cases that the split has")
    if questions_per_case < 0:
        raise InputError(f"questions_per_case is {questions_per_case}; expected 0 or more")
    difficulty_settings(difficulty)
    _claim_folder(root, difficulty)
    numbers = {split: range(SPLIT_RANGES[split][0], SPLIT_RANGES[split][0] + count) for split, count in counts.items()}
    records = {
        split: [record for number in cases for record in case_records(number, questions_per_case, difficulty)]
        for split, cases in numbers.items()
    }
    missing = [number for split in numbers for number in numbers[split] if not is_written(root, number, dicom=dicom)]
    _render_all(root, missing, num_workers, dicom, difficulty, progress)
    paths = {split: root / f"{split}.jsonl" for split in numbers}
    for split, cases in numbers.items():
        if cases:
            write_records(paths[split], records[split])
    return paths


def case_records(case_number: int, questions_per_case: int, difficulty: str = "default") -> list[dict[str, Any]]:
    """Return the records of a case, paths relative to the data set's folder: its report first, then the questions.

    Training cases ask for the report in changing words, those of validation and test in the default ones.
    """
    case = draw_case(case_number, difficulty)
    training = split_of(case_number) == "train"
    question = Draws([SEED, case_number, 4]).pick(REPORT_QUESTIONS) if training else REPORT_QUESTIONS[0]
    entries = [{"question": question, "answer": write_report(case).text, "kind": "report"}]
    entries += ask_questions(case, questions_per_case)
    name = case_name(case_number)
    return [
        {
            "image": f"images/{name}.nii.gz",
            **entry,
            "case": case_number,
            "findings": case.labels,
            "lesion_mask": f"masks/{name}.nii.gz",
            "truth": f"truth/{name}.json",
        }
        for entry in entries
    ]


def _claim_folder(root: Path, difficulty: str) -> None:
    """Write version and difficulty into a new folder; refuse one that was filled with others."""
    stamp = root / "phantom.json"
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file; expected a folder for the phantom data set")
    if not stamp.exists():
        content = {"version": PHANTOM_VERSION, "difficulty": difficulty, "labels": FINDING_LABELS}
        write_text_atomically(stamp, json.dumps(content, indent=1) + "\n")
        return
    try:
        content = json.loads(stamp.read_text(encoding="utf-8"))
        version, filled = content["version"], content.get("difficulty", "default")  # older stamps know no other
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{stamp}: is no phantom stamp; choose another folder or delete {root}") from error
    if version != PHANTOM_VERSION:
        raise InputError(
            f"{root}: holds phantoms of version {version}, this is version {PHANTOM_VERSION}; "
            "choose another folder or delete this one"
        )
    if filled != difficulty:
        raise InputError(
            f"{root}: holds phantoms of difficulty {filled!r}, asked for is {difficulty!r}; "
            "choose another folder or delete this one"
        )


def _render_all(
    root: Path, numbers: list[int], num_workers: int | None, dicom: bool, difficulty: str, progress: bool
) -> None:
    from tqdm import tqdm

    if not numbers:
        return
    workers = os.cpu_count() or 1 if num_workers is None else num_workers
    size = max(1, min(_CHUNK, len(numbers) // (4 * max(workers, 1))))
    chunks = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    with tqdm(total=len(numbers), desc="phantoms", unit="case", disable=not progress) as bar:
        if workers <= 1:
            for number in numbers:
                write_cases(root, [number], dicom=dicom, difficulty=difficulty)
                bar.update()
            return
        with ThreadPoolExecutor(workers) as pool:
            waiting = {pool.submit(_render_in_process, root, chunk, dicom, difficulty): len(chunk) for chunk in chunks}
            try:
                for done in as_completed(waiting):
                    done.result()
                    bar.update(waiting[done])
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _render_in_process(root: Path, numbers: list[int], dicom: bool, difficulty: str) -> None:
    """Write cases in a process of their own.

    A new interpreter, not a fork or a spawned copy of the caller: that one may hold threads of PyTorch, run from a
    notebook, or take seconds to import.
    """
    package = str(Path(__file__).parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "monai_u2.data.phantom.storage", str(root)]
    command += ["dicom" if dicom else "nifti", difficulty, *map(str, numbers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"phantom cases {numbers[0]} to {numbers[-1]} could not be written:\n{done.stderr.strip()}")
