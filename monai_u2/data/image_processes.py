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

"""Several processes that read images, one image each at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from monai_u2._mlflow import keep_mlflow_silent
from monai_u2.exceptions import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[int, Result]]:
    """Yield the index of each item and what the function makes of it, in the order in which they are done.

    Args:
        function: of a module, so that it can be sent to another process.
        items: what it is called with.
        workers: processes; 0 or 1 for this process alone.

    Raises:
        InputError: when a process was killed, as for want of memory.
    """
    if workers <= 1:
        yield from ((index, function(item)) for index, item in enumerate(items))
        return
    with ProcessPoolExecutor(workers, mp_context=_context(), initializer=_prepare_worker) as pool:
        waiting = {pool.submit(function, item): index for index, item in enumerate(items)}
        try:
            for done in as_completed(waiting):
                yield waiting.pop(done), done.result()
        except BrokenProcessPool as error:
            raise InputError(
                f"one of {workers} processes that read images was killed, maybe for want of memory; expected all to "
                "stay alive. Give fewer with --workers."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _prepare_worker() -> None:
    """Let a process use one thread: there are as many processes as are wanted."""
    import torch

    torch.set_num_threads(1)


def _context() -> Any:
    """Processes that neither share the caller's threads nor import MONAI each for itself, where the system can."""
    import multiprocessing

    keep_mlflow_silent()
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["monai_u2.transforms.load"])
    return context
