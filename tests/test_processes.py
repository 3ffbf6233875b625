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

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_u2.exceptions import InputError
from monai_u2.processes import (
    explain_lost_process,
    first_process_first,
    gather_from_processes,
    number_of_processes,
    process_device,
    process_index,
    start_processes,
    sum_over_processes,
)

InProcesses = Callable[..., list[Any]]


def exchanged(folder: Path) -> dict[str, Any]:
    file = folder / "file.txt"

    def write_once() -> str:
        if process_index() == 0:
            time.sleep(0.3)
            file.write_text("from the first")
        return file.read_text()

    return {
        "index": (process_index(), number_of_processes()),
        "sum": sum_over_processes(torch.tensor([1.0, process_index()])).tolist(),
        "gathered": gather_from_processes({"i": process_index()}),
        "read": first_process_first(write_once),
        "logs": logging.getLogger("x").isEnabledFor(logging.INFO) or process_index() > 0,
        "quiet": logging.root.manager.disable,
    }


def test_processes_exchange_numbers_and_wait_for_the_first(in_processes: InProcesses, tmp_path: Path) -> None:
    results = in_processes(3, exchanged, tmp_path)
    assert [result["index"] for result in results] == [(0, 3), (1, 3), (2, 3)]
    for result in results:
        assert result["sum"] == [3.0, 3.0] and result["gathered"] == [{"i": 0}, {"i": 1}, {"i": 2}]
        assert result["read"] == "from the first"
    assert [result["quiet"] for result in results] == [0, logging.INFO, logging.INFO]


def test_a_single_process_needs_no_others() -> None:
    value = torch.ones(2)
    assert sum_over_processes(value) is value and gather_from_processes("a") == ["a"]
    assert (process_index(), number_of_processes()) == (0, 1)
    assert first_process_first(lambda x: 2 * x, 4) == 8
    assert explain_lost_process(RuntimeError("Timed out")) is None


def test_processes_that_torchrun_did_not_start_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="lacks RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR.*torchrun"):
        start_processes()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_device() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 2 of this machine has no GPU, there are 2"):
        process_device()


SCRIPT = """
import sys, time, torch
from types import SimpleNamespace
from monai_u2.engines import run_training
from monai_u2.exceptions import InputError
from monai_u2.processes import process_index, start_processes, sum_over_processes
start_processes(timeout_minutes=0.1)

class Trainer:
    state = SimpleNamespace(iteration=0, max_epochs=1, epoch_length=1, epoch=0)

    def add_event_handler(self, event, handler):
        return SimpleNamespace(remove=lambda: None)

    def run(self):
        sum_over_processes(torch.ones(1))
        if process_index() == 1:
            if sys.argv[1] == "fails":
                raise InputError("record 7 can't be read")
            time.sleep(60)
        sum_over_processes(torch.ones(1))

run_training(Trainer(), None, 1, "")
"""


@pytest.mark.parametrize(("what", "message"), [("fails", "record 7 can't be read"), ("hangs", "process 0 of 2 lost")])
def test_a_lost_process_ends_the_others_in_time(tmp_path: Path, what: str, message: str) -> None:
    """One that fails is named by its own error; one that hangs after the time-out, here of six seconds."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script), what],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0 and message in done.stderr
    assert time.monotonic() - start < 50  # the one that hangs would take 60 s
