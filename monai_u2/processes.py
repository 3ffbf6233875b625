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

"""Several processes, as `torchrun` starts them: one for each GPU, or on CPUs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from monai_u2.exceptions import InputError

Result = TypeVar("Result")
_RELEASE_SECONDS = 0.2
_LOST = ("Timed out", "timed out", "timeout", "Connection closed by peer", "Connection reset by peer")


def start_processes(timeout_minutes: float = 30.0) -> None:
    """Let the processes that `torchrun` has started know each other: by NCCL on GPUs, by gloo on CPUs.

    Only the first process logs what isn't a warning.

    Args:
        timeout_minutes: how long a process waits for the others before it gives up.

    Raises:
        InputError: when they weren't started by `torchrun`, or are more than there are GPUs.
    """
    if dist.is_initialized():
        return
    if missing := [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR") if name not in os.environ]:
        raise InputError(
            f"the environment lacks {', '.join(missing)}; expected processes started by torchrun. Start with torchrun "
            "--nproc_per_node N -m monai.bundle run …, or leave multi_gpu_train.json out."
        )
    device = process_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=float(timeout_minutes))
    )
    if process_index():
        logging.disable(logging.INFO)


def end_processes() -> None:
    """Wait for the other processes and leave their group.

    Gloo's threads release the tensors of a collective operation after its result is there, and need Python's lock for
    it. One that comes by only when Python is already ending aborts the process (known to PyTorch's developers:
    https://github.com/pytorch/pytorch/pull/179291), and `destroy_process_group` doesn't wait for them. So each gets the
    time for it, while nothing else is left to do.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        time.sleep(_RELEASE_SECONDS)


def process_device() -> torch.device:
    """This process's GPU where there are GPUs, else the CPU.

    Raises:
        InputError: when there are more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise InputError(
            f"process {index} of this machine has no GPU, there are {torch.cuda.device_count()}; start as many "
            "processes as GPUs with --nproc_per_node."
        )
    return torch.device("cuda", index)


def process_index() -> int:
    """Number of this process, 0 for the first one and where there is no other."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def number_of_processes() -> int:
    """Number of processes, 1 where they weren't started together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all processes; each has to call this.

    Args:
        value: of the same shape in each process; on its GPU where there are GPUs.
    """
    if number_of_processes() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def gather_from_processes(value: Any) -> list[Any]:
    """What each process gives, in their order; each has to call this.

    Args:
        value: tensors on the CPU, numbers, texts, lists, dicts.
    """
    if number_of_processes() == 1:
        return [value]
    gathered: list[Any] = [None] * number_of_processes()
    dist.all_gather_object(gathered, value)
    return gathered


def first_process_first(function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """Call a function in the first process, then in the others, which find what it has written to the disk.

    Args:
        function: the function.
        args: its arguments.
        kwargs: its named arguments.
    """
    if process_index() == 0:
        result = function(*args, **kwargs)
    gather_from_processes(None)
    return result if process_index() == 0 else function(*args, **kwargs)


def explain_lost_process(error: RuntimeError) -> str | None:
    """What an error of a collective operation means where another process was lost; None for any other error."""
    if number_of_processes() == 1 or not any(words in str(error) for words in _LOST):
        return None
    return (
        f"process {process_index()} of {number_of_processes()} lost another one, which has failed or hangs; its own "
        "error, if it had one, stands above or below. Mend that and start again with --resume True. Where a process "
        "only needs longer, give a larger --process_timeout (minutes)."
    )
