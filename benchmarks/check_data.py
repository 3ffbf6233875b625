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

"""Throughput of `monai-u2 data check` and of filling the cache, against reading alone.

Reading alone is unpacking and decoding the same files by nibabel. Phantoms are written first at the size of patients'
volumes, each under several names. All ways then read all of them in turns, by the same number of processes::

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
from monai.bundle import ConfigParser
from scipy import ndimage
from torch.utils.data import DataLoader

from monai_u2.data import CachedDataset, check_records, generate_phantoms, load_records, write_records
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


def time_filling(records: Path, bundle: str, workers: int) -> float:
    """Seconds to preprocess all volumes as `sft.json` does, into a cache that is empty."""
    parser = ConfigParser()
    parser.read_config(Path(bundle) / "configs" / "sft.json")
    parser["bundle_root"] = bundle
    transforms = parser.get_parsed_content("load_transforms") + parser.get_parsed_content("image_transforms")
    cache = records.with_name("cache")
    data = [{"image": record["image"]} for record in load_records(records)]
    dataset = CachedDataset(data, transforms, cache, len(transforms), dtype="float16")
    begin = time.perf_counter()
    for _ in DataLoader(dataset, batch_size=None, num_workers=workers):
        pass
    seconds = time.perf_counter() - begin
    if len(list(cache.glob("*/*.pt"))) != len(data):
        raise RuntimeError("a volume isn't in the cache")
    shutil.rmtree(cache)
    return seconds


def benchmark(
    folder: str,
    output: str | None = None,
    bundle: str = "bundles/u2llm",
    num_cases: int = 6,
    names: int = 16,
    size: Sequence[int] = (256, 256, 120),
    workers: int = 2,
    rounds: int = 3,
) -> None:
    """Print seconds and throughput of all ways, and ratios of the throughputs (above 0.8 is wanted).

    Args:
        folder: where the volumes are written; removed afterwards.
        output: JSON file for the figures.
        bundle: folder of the bundle whose preprocessing is cached.
        num_cases: number of phantoms.
        names: names of each of them.
        size: voxels of a volume.
        workers: number of processes of each way.
        rounds: how often each way reads everything, after once to start; the fastest counts.
    """
    place = Path(folder)
    if place.exists():
        raise InputError(f"folder {folder} is there already; expected a new one, it is removed afterwards")
    try:
        records = write_volumes(place, num_cases, size, names)
        time_reading(records, workers)  # starts what later processes are copied from, and fills the system's cache
        times: dict[str, list[float]] = {"reading alone": [], "check": [], "filling the cache": []}
        for _ in range(rounds):
            times["reading alone"].append(time_reading(records, workers))
            seconds, counts = time_check(records, workers)
            times["check"].append(seconds)
            times["filling the cache"].append(time_filling(records, bundle, workers))
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
        "ratios": {name: best["reading alone"] / best[name] for name in times if name != "reading alone"},
    }
    print(f"{figures['machine']}; {number} volumes of {' × '.join(map(str, size))}")
    print("| | seconds | volumes a second |\n|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {seconds:.2f} | {number / seconds:.1f} |")
    for name, ratio in figures["ratios"].items():
        print(f"{name}: {ratio:.2f} of the throughput of reading alone")
    write_figures(output, figures)


if __name__ == "__main__":
    fire.Fire(benchmark)
