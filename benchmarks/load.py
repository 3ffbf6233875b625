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

"""Memory and time of loading a large model, against building it in float32 and loading a `.bin` into it.

A random checkpoint is written first; each way then runs in a process of its own, which reads every weight once::

    python benchmarks/load.py --folder runs/large --output runs/load.json
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fire
import torch
from bundle_model import peak_memory, reset_peak_memory, write_figures

from monai_u2.exceptions import InputError
from monai_u2.networks import U2LLM, U2LLMConfig

# Llama-3.2-1B's sizes, the published vision tower, a tokenizer of the same width
LARGE: dict[str, Any] = {
    "text_config": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "u2_tokenizer": {"type": "paper"},
    "image_token_id": 128256,
}


def write_checkpoint(folder: Path, config: dict[str, Any]) -> None:
    """A random model in bfloat16: as safetensors, and as the `.bin` of a state dict."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = U2LLM(U2LLMConfig(**config))
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "state.bin")


def load(folder: Path, way: str) -> U2LLM:
    """The model, in bfloat16."""
    if way == "from_pretrained":
        return U2LLM.from_pretrained(folder, dtype=torch.bfloat16)
    model = U2LLM(U2LLMConfig.from_pretrained(folder))
    model.load_state_dict(torch.load(folder / "state.bin", weights_only=True))
    return model.to(torch.bfloat16)


def child(folder: Path, way: str) -> None:
    """Run in a process of its own; print what it took."""
    torch.set_grad_enabled(False)
    before, begin = reset_peak_memory(), time.perf_counter()
    model = load(folder, way)
    pieces = (piece for parameter in model.parameters() for piece in parameter.flatten().split(1 << 20))
    total = sum(float(piece.float().abs().sum()) for piece in pieces)
    print(json.dumps({"seconds": time.perf_counter() - begin, "peak": peak_memory() - before, "sum": total}))


def benchmark(folder: str, output: str | None = None, config: dict[str, Any] | None = None, run: str = "") -> None:
    """Print peak memory, relative to the file's size, and time of each way.

    Args:
        folder: where the checkpoint is written; removed afterwards.
        output: JSON file for the figures.
        config: arguments of U2LLMConfig; 1.7 billion parameters by default.
        run: used by this script itself.
    """
    place = Path(folder)
    if run == "write":
        write_checkpoint(place, LARGE if config is None else config)
        return
    if run:
        child(place, run)
        return
    if place.exists():
        raise InputError(f"folder {folder} is there already; expected a new one, it is removed afterwards")

    def call(what: str) -> str:
        more = [] if config is None else ["--config", json.dumps(config)]
        done = subprocess.run(
            [sys.executable, __file__, "--folder", folder, "--run", what, *more], capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"{what}: {done.stderr[-2000:]}")
        return done.stdout

    try:
        call("write")
        size = sum(path.stat().st_size for path in place.glob("*.safetensors"))
        machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        figures: dict[str, Any] = {"machine": machine, "file": size, "parameters": size // 2, "ways": {}}
        print(f"{machine}; {size / 2e9:.2f} billion parameters, {size / 1e9:.2f} GB")
        print("| | peak, GB | of the file's size | seconds |\n|---|---|---|---|")
        for way in ("float32, then a .bin", "from_pretrained"):
            row = json.loads(call(way).splitlines()[-1])
            row["of the file"] = row["peak"] / size
            figures["ways"][way] = row
            print(f"| {way} | {row['peak'] / 1e9:.2f} | {row['of the file']:.2f} | {row['seconds']:.1f} |", flush=True)
        sums = [row["sum"] for row in figures["ways"].values()]
        if abs(sums[0] - sums[1]) > 1e-3 * abs(sums[0]):
            raise RuntimeError(f"the two ways loaded different weights: sums of magnitudes {sums}")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    write_figures(output, figures)


if __name__ == "__main__":
    fire.Fire(benchmark)
