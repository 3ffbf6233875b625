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

"""Time and memory of preprocessing a volume, against the published function, and of loading it from the cache.

Each way starts from the same int16 voxels in memory and runs in a process of its own, on one thread. Seconds are those
of the processor, so that other work on the machine counts less; memory is the peak beyond the voxels::

    python benchmarks/preprocess.py --output runs/preprocess.json
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from bundle_model import peak_memory, reset_peak_memory, write_figures
from literal_preprocessing import literal_preprocessing
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform

from monai_u2.data import CachedDataset
from monai_u2.data.cached_dataset import CACHE_DTYPES

PUBLISHED, FAST = "published, step by step", "published, `paper_preprocessing.json`"
# configurations after sft.json, of all ways but the first
WAYS: dict[str, tuple[str, ...]] = {
    FAST: ("models/paper_preprocessing.json",),
    "default, `sft.json`": (),
    "default, `llama32_1b.json`": ("models/llama32_1b.json",),
}
PAPER = {"in_plane_size": 256, "depth": 256, "slab_depth": 32}
# a wide field of view: the body is 370 mm wide, the slabs of sft.json hold 384 mm
SPACING = (0.9, 0.9, 1.0)


def make_volume(shape: Sequence[int], seed: int) -> np.ndarray:
    """An ellipse with texture and noise in air, int16 in HU, axes L, P, S."""
    x, y, z = (
        np.linspace(-1, 1, size, dtype=np.float32).reshape(np.roll((-1, 1, 1), i)) for i, size in enumerate(shape)
    )
    body = (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1
    volume = np.where(body, 40 + 200 * np.sin(20 * x) * np.cos(25 * y + 10 * z), -1000).astype(np.float32)
    volume += 20 * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return volume.clip(-1024, 3071).astype(np.int16)


class ReadVolume(MapTransform):
    """Stored voxels as the bundle's reader gives them: float32 `(1, X, Y, Z)` with an affine, and a description."""

    def __call__(self, data: Any) -> dict[str, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = as_read(np.load(d[key]))
        return d | {"info": {"warnings": []}}


def as_read(voxels: np.ndarray) -> MetaTensor:
    affine = torch.diag(torch.tensor([-SPACING[0], -SPACING[1], SPACING[2], 1.0]))
    return MetaTensor(torch.from_numpy(voxels.astype(np.float32))[None], affine=affine)


def image_steps(bundle: Path, names: Sequence[str]) -> list[Any]:
    """What `sft.json` and overrides do with an image after reading it."""
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in ("sft.json", *names)])
    parser.update({"bundle_root": str(bundle)})
    if names == WAYS[FAST]:
        parser["slab_size"] = [PAPER["slab_depth"], PAPER["in_plane_size"], PAPER["in_plane_size"]]
        parser.update({f"paper_{key}": PAPER[key] for key in ("in_plane_size", "depth")})
    return [*parser.get_parsed_content("load_transforms")[1:], *parser.get_parsed_content("image_transforms")]


def preprocessing(way: str, bundle: Path) -> Callable[[np.ndarray], torch.Tensor]:
    if way == PUBLISHED:
        return lambda voxels: literal_preprocessing(voxels, **PAPER)
    steps = Compose(image_steps(bundle, WAYS[way]))
    return lambda voxels: steps({"image": as_read(voxels), "info": {"warnings": []}})["image"].as_subclass(torch.Tensor)


def processor_seconds(work: Callable[[], Any], rounds: int) -> float:
    """The least of some rounds."""
    seconds = []
    for _ in range(rounds):
        gc.collect()
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def measure(way: str, bundle: Path, file: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Run in a process of its own: figures of one way; its slabs go to a file."""
    torch.set_num_threads(1)
    preprocess = preprocessing(way, bundle)
    preprocess(make_volume((24, 24, 16), 1))  # what is imported late isn't counted
    voxels = np.load(file)
    before = reset_peak_memory()
    slabs = preprocess(voxels)
    row: dict[str, Any] = {"peak": peak_memory() - before, "slabs": list(slabs.shape)}
    torch.save(slabs.clone(), folder / f"{[PUBLISHED, *WAYS].index(way)}.pt")
    row["seconds"] = processor_seconds(lambda: preprocess(voxels), rounds)
    if way != PUBLISHED:
        row["cache"] = {dtype: load_from_cache(way, bundle, file, slabs, dtype, rounds) for dtype in CACHE_DTYPES}
    return row


def load_from_cache(
    way: str, bundle: Path, file: Path, slabs: torch.Tensor, dtype: str, rounds: int
) -> dict[str, float]:
    """Seconds of a loading, its file's size and the largest error."""
    steps = [ReadVolume("image"), *image_steps(bundle, WAYS[way])]
    dataset = CachedDataset([{"image": str(file)}], steps, file.parent / "cache", len(steps), dtype=dtype)
    error = float((dataset[0]["image"] - slabs).abs().max())
    (entry,) = dataset.folder.path.glob("*.pt")
    return {"seconds": processor_seconds(lambda: dataset[0], rounds), "bytes": entry.stat().st_size, "error": error}


def benchmark(
    output: str | None = None,
    shape: Sequence[int] = (512, 512, 300),
    rounds: int = 2,
    bundle: str = "bundles/u2llm",
) -> None:
    """Print a table of ratios.

    Args:
        output: JSON file for the figures.
        shape: size of the volume in voxels.
        rounds: how often each way is timed; the fastest counts.
        bundle: the bundle's folder.
    """
    root = Path(bundle).resolve()
    figures: dict[str, Any] = {
        "machine": {"processor": platform.machine(), "threads": 1, "torch": torch.__version__},
        "shape": list(shape),
        "ways": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "volume.npy", make_volume(shape, 0))
        for way in (PUBLISHED, *WAYS):
            # a new process each, forked: what is imported is there
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
                row = pool.submit(measure, way, root, folder / "volume.npy", folder, rounds).result()
            figures["ways"][way] = row
        published, fast = (torch.load(folder / f"{i}.pt", weights_only=True) for i in range(2))
    figures["difference"] = float((published - fast).abs().max())
    print(to_markdown(figures))
    write_figures(output, figures)


def to_markdown(figures: dict[str, Any]) -> str:
    baseline = figures["ways"][PUBLISHED]
    lines = [
        f"{json.dumps(figures['machine'])}; volume of {'×'.join(map(str, figures['shape']))} voxels; the published "
        f"function's two ways differ by up to {figures['difference']:.1e}",
        "",
        "| preprocessing | slabs | seconds | times faster | peak, GB | of the published |\n|---|---|---|---|---|---|",
    ]
    for way, row in figures["ways"].items():
        faster, share = baseline["seconds"] / row["seconds"], row["peak"] / baseline["peak"]
        lines.append(
            f"| {way} | {'×'.join(map(str, row['slabs']))} | {row['seconds']:.2f} | {faster:.1f} "
            f"| {row['peak'] / 1e9:.2f} | {share:.2f} |"
        )
    lines += [
        "",
        "| from the cache | dtype | MB | largest error | milliseconds | times faster than preprocessing |",
        "|---|---|---|---|---|---|",
    ]
    for way, row in figures["ways"].items():
        for dtype, cached in row.get("cache", {}).items():
            lines.append(
                f"| {way} | {dtype} | {cached['bytes'] / 1e6:.1f} | {cached['error']:.1e} "
                f"| {cached['seconds'] * 1e3:.1f} | {row['seconds'] / cached['seconds']:.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    fire.Fire(benchmark)
