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

"""Throughput of `monai-u2 data check`, against reading alone: unpacking and decoding the same files by nibabel.

Phantoms are written first at the size of patients' volumes, each under several names. Both ways then read all of them
in turns, by the same number of processes::

    python benchmarks/check_data.py --folder runs/check_data --output runs/check_data.json
"""

from __future__ import annotations

import gzip
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
from bundle_model import write_figures
from scipy import ndimage

from monai_u2.data import check_records, generate_phantoms, load_records, write_records
from monai_u2.data.image_processes import map_in_processes
from monai_u2.exceptions import InputError

NOISE_HU = 15  # the enlarged phantom's own noise is smooth, and would be packed smaller than that of a scanner


def write_volumes(folder: Path, num_cases: int, size: Sequence[int], names: int) -> Path:
    """Phantoms enlarged to `size`, each under so many names; the records of all of them."""
    generate_phantoms(folder / "phantoms", num_cases, 0, 0, questions_per_case=0, num_workers=1, progress=False)
    records = []
    for number, record in enumerate(load_records(folder / "phantoms" / "train.jsonl")):
        image = nib.as_closest_canonical(nib.load(record["image"]))
        factors = [wanted / given for wanted, given in zip(size, image.shape)]
        hu = ndimage.zoom(np.asarray(image.dataobj, dtype=np.float32), factors, order=1)
        hu += np.random.default_rng(number).normal(0, NOISE_HU, hu.shape)
        affine = image.affine @ np.diag([*(1 / factor for factor in factors), 1])
        first = folder / f"case_{number}_0.nii.gz"
        nib.save(nib.Nifti1Image(np.clip(hu, -1024, 3071).astype(np.int16), affine), first)
        for copy in range(names):
            name = f"case_{number}_{copy}.nii.gz"
            if copy:
                os.link(first, folder / name)
            records.append({"image": name, "question": record["question"], "answer": record["answer"]})
    write_records(folder / "records.jsonl", records)
    return folder / "records.jsonl"


def read_alone(path: str) -> int:
    """Unpack and decode one volume; returns its number of voxels."""
    volume = nib.Nifti1Image.from_bytes(gzip.decompress(Path(path).read_bytes()))
    return np.asarray(volume.dataobj, dtype=np.float32).size


def time_reading(records: Path, workers: int) -> float:
    """Seconds to read all volumes."""
    paths = [record["image"] for record in load_records(records)]
    begin = time.perf_counter()
    if not all(voxels for _, voxels in map_in_processes(read_alone, paths, workers)):
        raise RuntimeError("a volume has no voxels")
    return time.perf_counter() - begin


def time_check(records: Path, workers: int) -> tuple[float, Mapping[str, int]]:
    """Seconds to check all volumes, and what was found."""
    begin = time.perf_counter()
    found = check_records(records, workers=workers)
    return time.perf_counter() - begin, found["counts"]


def benchmark(
    folder: str,
    output: str | None = None,
    num_cases: int = 6,
    names: int = 16,
    size: Sequence[int] = (256, 256, 120),
    workers: int = 2,
    rounds: int = 3,
) -> None:
    """Print seconds and throughput of both ways, and the ratio of the throughputs (above 0.8 is wanted).

    Args:
        folder: where the volumes are written; removed afterwards.
        output: JSON file for the figures.
        num_cases: number of phantoms.
        names: names of each of them.
        size: voxels of a volume.
        workers: number of processes of either way.
        rounds: how often either way reads everything, after once to start; the fastest counts.
    """
    place = Path(folder)
    if place.exists():
        raise InputError(f"folder {folder} is there already; expected a new one, it is removed afterwards")
    try:
        records = write_volumes(place, num_cases, size, names)
        time_reading(records, workers)  # starts what later processes are copied from, and fills the system's cache
        times: dict[str, list[float]] = {"reading alone": [], "check": []}
        for _ in range(rounds):
            times["reading alone"].append(time_reading(records, workers))
            seconds, counts = time_check(records, workers)
            times["check"].append(seconds)
        if set(counts) - {"repeated_image", "repeated_answer"}:
            raise RuntimeError(f"the check found what isn't there: {counts}")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    number = num_cases * names
    best = {name: min(seconds) for name, seconds in times.items()}
    figures = {
        "machine": {"processor": platform.machine(), "workers": workers},
        "volumes": number,
        "size": list(size),
        "seconds": times,
        "ratio": best["reading alone"] / best["check"],
    }
    print(f"{figures['machine']}; {number} volumes of {' × '.join(map(str, size))}")
    print("| | seconds | volumes a second |\n|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {seconds:.2f} | {number / seconds:.1f} |")
    print(f"check has {figures['ratio']:.2f} of the throughput of reading alone")
    write_figures(output, figures)


if __name__ == "__main__":
    fire.Fire(benchmark)
