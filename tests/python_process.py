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

"""`python …` as a fork of a process that has imported MONAI already.

Importing MONAI takes up to ten seconds of the processor, and the suite starts Python some hundred times. The fork
differs from a Python of its own in what happens at start: warnings of imports, the seed of hashes, variables that
libraries read when they are imported. Tests of these start a Python of their own, and of two runs that must be equal at
least one does.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import random
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PRELOADED = ["monai.bundle", "monai.handlers", "ignite.engine", "transformers", "peft", "mlflow"]
SECONDS = 600
"""A command that takes longer is killed."""
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


def run_python(
    arguments: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS`, either `-m MODULE …` or `SCRIPT …`.

    Args:
        arguments: what follows `python`.
        cwd: folder to run in, this process's by default.
        env: all variables, this process's by default.

    Returns:
        Exit status and what was printed, as of :func:`subprocess.run`.
    """
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _context.Process(target=_run, args=(words, str(cwd or os.getcwd()), dict(env or os.environ), outputs))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        printed = [path.read_text(errors="replace") if path.exists() else "" for path in outputs]
    return subprocess.CompletedProcess([sys.executable, *words], process.exitcode, *printed)


def bundle_command(run_id: str, config_file: str, values: Mapping[str, Any], *more: str) -> list[str]:
    """What follows `python` to run a config of the bundle with these values of its ids."""
    options = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    return ["-m", "monai.bundle", "run", run_id, "--config_file", config_file, *options, *more]


def start_python(arguments: Sequence[str], cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a Python of its own with one thread; what it prints comes from one pipe."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def printed_by(arguments: Sequence[str], cwd: Path, *, own: bool = False) -> str:
    """Run `python ARGUMENTS` with one thread to its end and return what it prints.

    Args:
        arguments: what follows `python`.
        cwd: folder to run in.
        own: start a Python of its own.

    Raises:
        AssertionError: when its exit status isn't 0; the message is what it prints.
    """
    if own:
        process = start_python(arguments, cwd)
        printed, _ = process.communicate(timeout=300)
        code = process.returncode
    else:
        done = run_python(arguments, cwd, {**os.environ, "OMP_NUM_THREADS": "1"})
        printed, code = done.stdout + done.stderr, done.returncode
    assert code == 0, printed
    return printed


def _run(words: list[str], cwd: str, env: dict[str, str], outputs: list[Path]) -> None:
    for stream, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    _start_anew()
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0] = words[1:], cwd
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # processes of multiprocessing end without


def _start_anew() -> None:
    """What a Python of its own would draw or read at its start."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed()
    torch.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
