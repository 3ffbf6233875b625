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

"""Seconds and memory of preparing records from CSV, against reading the same tables alone.

A folder as of CT-RATE (v1, so that every table is needed) with empty volumes is made first and removed afterwards; each
way runs in a process of its own::

    python benchmarks/prepare.py --folder runs/prepare_benchmark --cases 50000
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fire

from monai_u2.data import CT_RATE_LABELS
from monai_u2.exceptions import InputError

SENTENCE = "The calibration of the thoracic aorta and of the other mediastinal vessels is natural. "
CASES_OF_PATIENT = 2


def write_folder(folder: Path, cases: int) -> None:
    """Two scans a patient with one reconstruction each, reports of 1,700 characters, 50 of them in validation."""
    held_out = min(50, cases // 2)
    for split, table, count in (("train", "train", cases - held_out), ("valid", "validation", held_out)):
        names = []
        for number in range(count):
            patient, scan = f"{split}_{number // CASES_OF_PATIENT + 1}", "ab"[number % CASES_OF_PATIENT]
            name = f"{patient}_{scan}_1.nii.gz"
            path = folder / "dataset" / split / patient / f"{patient}_{scan}" / name
            path.parent.mkdir(parents=True)
            path.touch()
            names.append(name)
        reports = ({"Findings_EN": f"Case {i}. " + SENTENCE * 17, "Impressions_EN": SENTENCE * 3} for i in range(count))
        header = {"RescaleSlope": 1, "RescaleIntercept": -1024, "XYSpacing": "[0.75, 0.75]", "ZSpacing": 1.5}
        header |= {"ImageOrientationPatient": "[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]"}
        labels = {label: i % 2 for i, label in enumerate(CT_RATE_LABELS)}
        write_table(folder / f"dataset/radiology_text_reports/{table}_reports.csv", names, reports)
        write_table(folder / f"dataset/metadata/{table}_metadata.csv", names, (header for _ in names))
        path = folder / f"dataset/multi_abnormality_labels/{split}_predicted_labels.csv"
        write_table(path, names, (labels for _ in names))
        (folder / f"dataset/metadata/no_chest_{split}.txt").touch()


def write_table(path: Path, names: list[str], rows: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = None
        for name, row in zip(names, rows):
            writer = writer or csv.DictWriter(file, ["VolumeName", *row])
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow({"VolumeName": name, **row})


def child(folder: Path, way: str) -> None:
    """Run in a process of its own; print what it took."""
    import resource

    begin = time.perf_counter()
    if way == "prepare":
        from monai_u2.data import prepare_dataset

        records = sum(prepare_dataset("ct_rate", folder, folder / "out")["records"].values())
    else:
        records = 0
        for path in sorted(folder.glob("dataset/*/*.csv")):
            with path.open(encoding="utf-8", newline="") as file:
                records += sum(1 for _ in csv.reader(file)) - 1
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - begin, "MB": megabytes, "records": records}))


def benchmark(folder: str, cases: int = 50_000, output: str | None = None, run: str = "") -> None:
    """Print seconds and peak memory of preparing, and the ratio to reading the tables alone.

    Args:
        folder: where the data set is made; removed afterwards.
        cases: number of volumes.
        output: JSON file for the figures.
        run: used by this script itself.
    """
    place = Path(folder)
    if run:
        child(place, run)
        return
    if place.exists():
        raise InputError(f"folder {folder} is there already; expected a new one, it is removed afterwards")
    figures: dict[str, Any] = {"cases": cases}
    try:
        write_folder(place, cases)
        for way in ("read", "prepare"):
            done = subprocess.run(
                [sys.executable, __file__, "--folder", folder, "--run", way], capture_output=True, text=True
            )
            if done.returncode != 0:
                raise RuntimeError(f"{way}: {done.stderr[-2000:]}")
            figures[way] = json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(place, ignore_errors=True)
    figures["ratio"] = figures["prepare"]["seconds"] / figures["read"]["seconds"]
    for way in ("read", "prepare"):
        print(f"{way}: {figures[way]['seconds']:.1f} s, {figures[way]['MB']:.0f} MB, {figures[way]['records']} rows")
    print(f"{cases} cases; prepare takes {figures['ratio']:.1f} times as long as reading the tables alone")
    if output is not None:
        Path(output).write_text(json.dumps(figures, indent=4) + "\n")


if __name__ == "__main__":
    fire.Fire(benchmark)
