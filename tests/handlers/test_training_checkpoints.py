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

"""A small training with all that a checkpoint has to hold is killed and resumed: each step's loss is that of the
training without a break.

It has augmentation, dropout, batch statistics, momentum, a schedule and draws from each global generator. All with one
thread: sums are divided among threads, so that the last bit depends on their number.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose, RandGaussianNoised, RandShiftIntensityd

from monai_u2.data import ResumableBatchSampler, SeededDataset
from monai_u2.engines import run_training
from monai_u2.exceptions import InputError
from monai_u2.handlers import RNGState, SamplerEpoch, TrainingCheckpoints, checkpoint_files
from monai_u2.networks import distribute
from monai_u2.processes import end_processes, number_of_processes, process_index, start_processes, sum_over_processes

STEPS = 5  # of an epoch; 11 cases, 2 a batch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class LossLog:
    """Each step's loss to the last bit, in a file that a kill leaves as it is."""

    def __init__(self, path: Path, pause: float) -> None:
        self.path = path
        self.pause = pause

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        loss = sum_over_processes(engine.state.output["loss"].detach())
        if process_index() == 0:
            with self.path.open("a") as file:
                file.write(f"{engine.state.iteration} {loss.item().hex()}\n")
        time.sleep(self.pause)


def noisy_loss(pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return (pred - label).square().mean() * (1 + random.random() + np.random.rand())


def train(
    folder: Path,
    epochs: int = 8,
    resume: bool = False,
    allow_previous: bool = False,
    num_workers: int = 0,
    pause: float = 0.0,
    batch_size: int = 2,
    interval: int | None = 2,
    schedule: bool = True,
) -> torch.nn.Module:
    torch.manual_seed(0)
    cases = [{"image": torch.full((1, 4), i / 11), "label": torch.tensor([[i / 5]])} for i in range(11)]
    augmentation = [RandShiftIntensityd("image", offsets=0.5, prob=0.5), RandGaussianNoised("image", prob=0.7)]
    dataset = SeededDataset(Dataset(cases, Compose(augmentation)), seed=1)
    sampler = ResumableBatchSampler(11, batch_size, seed=1)
    generator = torch.Generator().manual_seed(1)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, generator=generator)
    layers = [torch.nn.Linear(4, 8), torch.nn.Flatten(), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5)]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(8, 1), torch.nn.Unflatten(1, (1, 1)))
    if number_of_processes() > 1:
        network = distribute(network, "replicate", torch.device("cpu"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    lr_scheduler = WarmupCosineSchedule(optimizer, warmup_steps=3, t_total=epochs * len(sampler))
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=noisy_loss,
        train_handlers=[
            SamplerEpoch(sampler),
            LrScheduleHandler(lr_scheduler, print_lr=False, epoch_level=False),
            LossLog(folder / "losses.txt", pause),
        ],
        decollate=False,
    )
    random_state = RNGState(seed=1)
    state = {"network": network, "optimizer": optimizer, "trainer": trainer, "sampler": sampler}
    state |= {"random_state": random_state, "lr_scheduler": lr_scheduler if schedule else None}
    random_state.attach(trainer)
    TrainingCheckpoints(folder, state, interval).start(trainer, resume, allow_previous)
    run_training(trainer, Engine(lambda engine, batch: None), 1, folder)
    return network


def losses(folder: Path) -> list[tuple[int, str]]:
    rows = [line.split() for line in (folder / "losses.txt").read_text().splitlines()]
    return [(int(step), loss) for step, loss in rows]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "losses.txt")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, str], dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    network = train(folder)
    expected = dict(losses(folder))
    assert list(expected) == list(range(1, 8 * STEPS + 1)) and len(set(expected.values())) == len(expected)
    assert names(folder) == ["checkpoint_step=38.pt", "checkpoint_step=40.pt"]
    return expected, network.state_dict()


def start(**options: Any) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=train, kwargs=options)
    process.start()
    return process


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_at_ten_random_moments(
    uninterrupted: tuple[dict[int, str], dict[str, torch.Tensor]], tmp_path: Path, num_workers: int
) -> None:
    expected, state = uninterrupted
    (tmp_path / "losses.txt").touch()
    draw = random.Random(num_workers)
    for _ in range(10):
        process = start(folder=tmp_path, resume=bool(names(tmp_path)), num_workers=num_workers, pause=0.01)
        lines = len(losses(tmp_path)) + draw.randint(1, 6)
        until = time.monotonic() + 60
        while len((tmp_path / "losses.txt").read_text().splitlines()) < lines and process.is_alive():
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(draw.random() * 0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    network = train(tmp_path, resume=True, num_workers=num_workers)
    rows = losses(tmp_path)
    assert {step for step, _ in rows} == set(expected) and len(rows) > len(expected)
    assert [row for row in rows if row[1] != expected[row[0]]] == []
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def one_of_two(rank: int, port: int, options: dict[str, Any]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    start_processes(timeout_minutes=1)
    train(epochs=20, batch_size=4, interval=3, **options)
    end_processes()


def start_two(**options: Any) -> list[multiprocessing.Process]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        multiprocessing.get_context("fork").Process(target=one_of_two, args=(rank, port, options)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[multiprocessing.Process]) -> list[int | None]:
    for process in processes:
        process.join(timeout=60)
        process.kill()  # one that hangs
    return [process.exitcode for process in processes]


def test_two_processes_killed_at_ten_random_moments(tmp_path: Path) -> None:
    """One of them is killed; the other ends by itself."""
    (tmp_path / "whole").mkdir()
    assert finish(start_two(folder=tmp_path / "whole")) == [0, 0]
    expected = dict(losses(tmp_path / "whole"))
    assert list(expected) == list(range(1, 41)) and len(set(expected.values())) == 40

    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "losses.txt").touch()
    draw = random.Random(0)
    for _ in range(10):
        processes = start_two(folder=folder, resume=bool(names(folder)), pause=0.01)
        lines = len(losses(folder)) + draw.randint(2, 6)
        until = time.monotonic() + 60
        while len((folder / "losses.txt").read_text().splitlines()) < lines and processes[0].is_alive():
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(draw.random() * 0.02)
        killed = draw.randint(0, 1)
        os.kill(processes[killed].pid, signal.SIGKILL)
        codes = finish(processes)
        assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 1
    assert finish(start_two(folder=folder, resume=True)) == [0, 0]
    rows = losses(folder)
    assert {step for step, _ in rows} == set(expected) and len(rows) > len(expected)
    assert [row for row in rows if row[1] != expected[row[0]]] == []


def kill_in_the_middle_of_writing(options: dict[str, Any], number: int) -> None:
    """The process kills itself when half of the bytes of its `number`-th checkpoint are written."""
    save, written = torch.save, []

    def half(content: Any, file: Any) -> None:
        save(content, file)
        written.append(file.tell())
        if len(written) == number:
            file.truncate(file.tell() // 2)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint_files.torch.save = half
    train(**options)


def test_killed_while_a_checkpoint_is_written(
    uninterrupted: tuple[dict[int, str], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    expected, state = uninterrupted
    process = multiprocessing.get_context("fork").Process(
        target=kill_in_the_middle_of_writing, args=({"folder": tmp_path}, 4)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    # steps 2, 4, 5 (the end of an epoch) and 6
    assert names(tmp_path) == [".checkpoint_step=6.pt.tmp", "checkpoint_step=4.pt", "checkpoint_step=5.pt"]
    network = train(tmp_path, resume=True)
    assert names(tmp_path) == ["checkpoint_step=38.pt", "checkpoint_step=40.pt"]
    rows = losses(tmp_path)
    assert [step for step, _ in rows] == [1, 2, 3, 4, 5, 6, *range(6, 41)]
    assert [row for row in rows if row[1] != expected[row[0]]] == []
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_a_damaged_checkpoint_is_named_and_the_one_before_used_only_if_allowed(tmp_path: Path) -> None:
    train(tmp_path, epochs=2)
    damaged = tmp_path / "checkpoint_step=10.pt"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(
        InputError, match=r"step=10.pt: is damaged .* checkpoint_step=8.pt .*--allow_previous_checkpoint"
    ):
        train(tmp_path, epochs=2, resume=True)
    before = losses(tmp_path)
    train(tmp_path, epochs=2, resume=True, allow_previous=True)
    assert losses(tmp_path) == [*before, *before[8:]]
    assert names(tmp_path) == ["checkpoint_step=10.pt", "checkpoint_step=10.pt.damaged", "checkpoint_step=8.pt"]

    (tmp_path / "checkpoint_step=8.pt").unlink()
    damaged.write_bytes(b"")
    with pytest.raises(InputError, match="No other is there: delete it"):
        train(tmp_path, epochs=2, resume=True, allow_previous=True)


def test_more_epochs_go_on_from_the_last_one(tmp_path: Path) -> None:
    train(tmp_path, epochs=1, interval=None)
    assert names(tmp_path) == ["checkpoint_step=5.pt"]
    train(tmp_path, epochs=2, resume=True, interval=None)
    assert [step for step, _ in losses(tmp_path)] == list(range(1, 11))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume from"):
        train(tmp_path, resume=True)
    with pytest.raises(InputError, match="checkpoint_interval is 0"):
        train(tmp_path, interval=0)
    train(tmp_path, epochs=2)
    with pytest.raises(InputError, match="step=10.pt: is of an earlier training.*--resume True"):
        train(tmp_path)
    with pytest.raises(InputError, match="is of 10 steps, 5 in each epoch; this training has 1 epochs of 5"):
        train(tmp_path, epochs=1, resume=True)
    with pytest.raises(InputError, match="this training has 2 epochs of 3"):
        train(tmp_path, epochs=2, resume=True, batch_size=3)
    with pytest.raises(InputError, match="holds .*lr_scheduler.*; expected network"):
        train(tmp_path, epochs=2, resume=True, schedule=False)
