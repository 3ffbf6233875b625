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

"""Checkpoints from which a training goes on as if it had never stopped."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_u2.exceptions import InputError
from monai_u2.handlers.checkpoint_files import TEMPORARY, check_checkpoint, read_checkpoint, write_checkpoint
from monai_u2.networks.parallel import full_state, load_full_state
from monai_u2.processes import gather_from_processes, process_index


class TrainingCheckpoints:
    """Write everything that a training needs to go on: after each epoch, and every so many steps within it.

    Files are called `{prefix}_step={steps done}.pt`; they appear whole or not at all, and the last ones are kept.
    With several processes the first one writes, and what it writes doesn't depend on their number.

    Args:
        folder: folder of the files; made where needed.
        state: name -> object with `state_dict` and `load_state_dict`, among them the engine as `trainer`; None for
            what this training doesn't have.
        interval: steps after which one is written within an epoch; None for none.
        keep: number of files to keep.
        prefix: start of the files' names.
        replace: delete the files of an earlier training when a new one starts, in place of refusing it.

    Raises:
        InputError: when `interval` isn't at least 1.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        state: Mapping[str, Any],
        interval: int | None = None,
        keep: int = 2,
        prefix: str = "checkpoint",
        replace: bool = False,
    ) -> None:
        if interval is not None and (not isinstance(interval, int) or interval < 1):
            raise InputError(
                f"checkpoint_interval is {interval!r}; expected a whole number of steps, 1 or more, or null."
            )
        self.folder = Path(folder)
        self.state = {name: part for name, part in state.items() if part is not None}
        self.interval = interval
        self.keep = keep
        self.prefix = prefix
        self.replace = replace
        self.logger = logging.getLogger(__name__)

    def start(self, engine: Engine, resume: bool = False, allow_previous: bool = False) -> None:
        """Attach to a trainer, and resume or make sure that nothing of an earlier training gets lost.

        Attach last what may change at the end of a step or an epoch: the files hold what is after it.

        Args:
            engine: the trainer.
            resume: load the newest file.
            allow_previous: where the newest file is damaged, set it aside and load the one before.

        Raises:
            InputError: when there is nothing to resume, or it is damaged or of another training; when a new training
                would write beside the files of an earlier one.
        """
        path = gather_from_processes(self._prepare(resume, allow_previous) if process_index() == 0 else None)[0]
        if path is not None:
            self._load(engine, path)
        if self.interval is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self._within_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def _prepare(self, resume: bool, allow_previous: bool) -> Path | None:
        """Clear away what a kill left, and return the file to resume from."""
        for unfinished in self.folder.glob(TEMPORARY.format(f"{self.prefix}_step=*.pt")):
            unfinished.unlink(missing_ok=True)
        files = self.files()
        if resume:
            return self._newest(files, allow_previous)
        if self.replace:
            for file in files:
                file.unlink()
        elif files:
            raise InputError(
                f"{files[-1]}: is of an earlier training; expected a folder without {self.prefix}_step=*.pt for a new "
                "one. Go on with the earlier one by --resume True, give another --ckpt_dir, or delete it."
            )
        return None

    def files(self) -> list[Path]:
        """The files in the folder, by the number of steps."""
        found = {}
        for path in self.folder.glob(f"{self.prefix}_step=*.pt"):
            match = re.fullmatch(rf"{re.escape(self.prefix)}_step=(\d+)\.pt", path.name)
            if match:
                found[int(match[1])] = path
        return [found[step] for step in sorted(found)]

    def _within_epoch(self, engine: Engine) -> None:
        if engine.state.iteration % engine.state.epoch_length:  # else the epoch's end follows, with its validation
            self.save(engine)

    def save(self, engine: Engine) -> None:
        """Write a file and delete the oldest ones; each process has to call this.

        Args:
            engine: the trainer.

        Raises:
            InputError: when it can't be written.
        """
        path = self.folder / f"{self.prefix}_step={engine.state.iteration}.pt"
        content = {name: full_state(part) for name, part in self.state.items()}
        if process_index():
            return
        write_checkpoint(path, content)
        for old in self.files()[: -self.keep]:
            old.unlink()
        self.logger.info("saved %s", path)

    def _newest(self, files: list[Path], allow_previous: bool) -> Path:
        if not files:
            raise InputError(
                f"{self.folder}: nothing to resume from, no {self.prefix}_step=*.pt is there; give the ckpt_dir of the "
                "training that was broken off, or train without --resume."
            )
        path = files.pop()
        try:
            check_checkpoint(path)
        except InputError as error:
            if not files:
                raise InputError(f"{error} No other is there: delete it and train again without --resume.") from error
            if not allow_previous:
                raise InputError(
                    f"{error} {files[-1].name} is the one before: go on from it by --allow_previous_checkpoint True."
                ) from error
            aside = path.with_name(f"{path.name}.damaged")
            os.replace(path, aside)
            self.logger.warning("%s It is kept as %s; going on from %s.", error, aside.name, files[-1].name)
            path = files.pop()
        return path

    def _load(self, engine: Engine, path: Path) -> None:
        content = read_checkpoint(path)
        if content.keys() != self.state.keys():
            raise InputError(
                f"{path}: holds {', '.join(content)}; expected {', '.join(self.state)}. Give the options that it was "
                "trained with."
            )
        asked, length = engine.state.max_epochs, engine.state.epoch_length
        held = content["trainer"]
        if held["epoch_length"] != length or held["iteration"] > asked * length:
            raise InputError(
                f"{path}: is of {held['iteration']} steps, {held['epoch_length']} in each epoch; this training has "
                f"{asked} epochs of {length}. Give the data and batch_size that it had, and at least as many epochs."
            )
        for name, part in self.state.items():
            try:
                load_full_state(part, content[name])
            except InputError:
                raise
            except (RuntimeError, KeyError, IndexError, ValueError) as error:
                lines = str(error).splitlines()[:3]
                raise InputError(
                    f"{path}: its {name} doesn't fit ({' '.join(line.strip() for line in lines)}); give the options "
                    "that it was trained with."
                ) from error
        engine.state.max_epochs = asked
        self.logger.info("resumed from %s", path)
