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

"""Random number generators, as a part of a resumable checkpoint."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from monai_u2.processes import gather_from_processes, number_of_processes, process_index


class RNGState:
    """State of Python's, NumPy's and PyTorch's global random number generators of each process, as tensors and numbers.

    A new training is seeded when it starts. A loaded state is set when the first iteration starts, so that what is
    drawn until then, such as the seed of a loader's workers, doesn't count. Give the loader a generator of its own: it
    draws once an epoch. The transforms of a :class:`monai_u2.data.SeededDataset` have no state.

    Args:
        seed: seed of a new training; process i takes `seed + i`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed + process_index()
        self.logger = logging.getLogger(__name__)
        self._loaded: Mapping[str, Any] | None = None

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._restore)

    def _start(self, engine: Engine) -> None:
        if self._loaded is None:
            self._seed()

    def _restore(self, engine: Engine) -> None:
        if self._loaded is not None:
            set_rng_state(self._loaded)
            self._loaded = None

    def _seed(self) -> None:
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)
        torch.manual_seed(self.seed)

    def state_dict(self) -> dict[str, Any]:
        """The state of the generators of all processes now; each process has to call this."""
        return {"processes": gather_from_processes(rng_state())}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a state, to set it when the next iteration starts.

        With another number of processes, those without a state are seeded.
        """
        states = state_dict["processes"]
        if len(states) != number_of_processes():
            self.logger.warning(
                "resumed by %d processes in place of %d: what is drawn at random isn't what it would have been.",
                number_of_processes(),
                len(states),
            )
        self._seed()
        self._loaded = states[process_index()] if process_index() < len(states) else rng_state()


def rng_state() -> dict[str, Any]:
    """State of the global generators: tensors and numbers, which `torch.load` reads with `weights_only=True`."""
    version, words, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)
    state = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "bit_generator": legacy["bit_generator"],
            "words": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
            "position": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set the global generators to a state of :func:`rng_state`; that of CUDA where there is a GPU."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(
        {
            "bit_generator": numpy["bit_generator"],
            "state": {"key": numpy["words"].numpy().astype(np.uint32), "pos": numpy["position"]},
            "has_gauss": numpy["has_gauss"],
            "gauss": numpy["gauss"],
        }
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
