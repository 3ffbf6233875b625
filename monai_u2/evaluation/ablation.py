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

"""Train and evaluate a list of configs and seeds at equal budget, each run in a process of its own; see
:mod:`monai_u2.evaluation.ablation_table` for what comes of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_u2.data.records import write_text_atomically
from monai_u2.exceptions import InputError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

BUDGET: tuple[str, ...] = (
    "dataset_dir",
    "phantom",
    "phantoms",
    "train_records",
    "validation_records",
    "question_weights",
    "questions_per_image",
    "batch_size",
    "group_by_length",
    "max_epochs",
    "early_stopping_patience",
    "train#dataset#data",
    "train#sampler",
    "train#dataloader",
    "train#trainer#max_epochs",
)
"""Ids of the training that say on what, in which order and for how long; no config may change them."""

OWN_IDS: tuple[str, ...] = (
    "bundle_root",
    "checkpoint",
    "ckpt_dir",
    "config_file",
    "output_dir",
    "resume",
    "run_id",
    "seed",
)
"""Ids that each run gets from here."""

MODEL = "model.pt"
METRICS = "metrics.json"
SETTINGS = "ablation.json"
FINISHED = "finished.json"
KINDS: tuple[str, str] = ("training", "evaluation")
_LOG_LINES = 6
_LOG_ERRORS = 2
_NONE = object()


@dataclass(frozen=True)
class Ablation:
    """What is to be trained and evaluated.

    Args:
        configs: name -> config file over the base; absolute paths, as the next two.
        base: config files of the training.
        evaluate: config files of the evaluation.
        output: folder; a run is in `<name>/seed_<seed>/training` and `…/evaluation`.
        seeds: number of seeds, from 0 on.
        overrides: id -> value for all trainings; those that the evaluation has too go there as well.
    """

    configs: Mapping[str, Path]
    base: Sequence[Path]
    evaluate: Sequence[Path]
    output: Path
    seeds: int = 2
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def folder(self, name: str, seed: int) -> Path:
        """Folder of a run."""
        return self.output / name / f"seed_{seed}"


@dataclass(frozen=True)
class Run:
    """A config with a seed, trained and evaluated, or failed.

    Args:
        name: of the config.
        seed: the seed.
        folder: of the run.
        failure: what failed, with the end of its log; None for a run that is finished.
    """

    name: str
    seed: int
    folder: Path
    failure: str | None = None


class _StageError(Exception):
    """A training or an evaluation ended with an error."""


def named_configs(files: Iterable[Path]) -> dict[str, Path]:
    """Configs by the names of their files, without the ending.

    Raises:
        InputError: for a file that isn't there, two of one name, or no file.
    """
    named: dict[str, Path] = {}
    for file in files:
        check_file(file)
        if file.stem in named:
            raise InputError(
                f"{named[file.stem]} and {file} have one name, {file.stem}; expected one for each. Rename one of them."
            )
        named[file.stem] = file
    if not named:
        raise InputError("no configs to compare; expected one or more files, or --ablations for those of the bundle.")
    return named


def check_file(file: Path) -> None:
    """Refuse a config that isn't there, or holds no ids and values."""
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; expected a config, such as configs/ablations/dts.json. Check the path."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: can't be read ({error}); expected JSON. Correct it.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds a {type(content).__name__}; expected an object of ids and values.")


def changes_of(file: Path) -> dict[str, Any]:
    """What a config sets: id -> value, without its comment."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key != "_comment"}


def check_ablation(ablation: Ablation) -> None:
    """Refuse what couldn't be compared, before anything is trained.

    Raises:
        InputError: for an override of an id that each run gets from here, or that no config has; for a config that
            changes one of :data:`BUDGET`.
    """
    training, evaluation = merged(ablation.base), merged(ablation.evaluate)
    for key in ablation.overrides:
        if key in OWN_IDS:
            raise InputError(f"--{key}: each run gets its own; leave it out.")
        if not (_has(training, key) or _has(evaluation, key)):
            files = ", ".join(file.name for file in (*ablation.base, *ablation.evaluate))
            raise InputError(f"--{key}: no such id in {files}; expected one of theirs. Check how it is spelled.")
    own = _held(training, ablation.overrides)
    expected = _budget(ablation.base, own)
    for name, file in ablation.configs.items():
        if ids := [key for key in changes_of(file) if key in OWN_IDS]:
            raise InputError(f"{file}: sets {', '.join(ids)}, which each run gets by itself; leave it out.")
        budget = _budget([*ablation.base, file], own)
        if changed := [key for key in BUDGET if budget[key] != expected[key]]:
            raise InputError(
                f"{file}: changes {', '.join(changed)}; expected the same data and steps for all configs. Leave it out "
                f"of {name}, or give it to all of them, as --{changed[0]} VALUE."
            )


def run_ablation(ablation: Ablation, show: Callable[[str], None]) -> list[Run]:
    """Train and evaluate each config with each seed, the seeds one after the other; what is finished isn't repeated.

    A training that was broken off goes on from its last checkpoint. A run that fails doesn't stop the others.

    Args:
        ablation: what to run; see :func:`check_ablation`.
        show: takes a line for each run when it ends.

    Returns:
        The runs, seeds one after the other, configs in their order.

    Raises:
        InputError: when a folder holds a run with other settings.
    """
    stages = _all_stages(ablation)
    for prepared in stages.values():
        for stage in prepared:
            stage.check()
    runs = []
    for number, ((name, seed), prepared) in enumerate(stages.items(), start=1):
        took, failure = [], None
        try:
            for stage in prepared:
                took.append(stage.run())
        except _StageError as error:
            failure = str(error)
        show(f"[{number}/{len(stages)}] {name}, seed {seed}: {failure or ', '.join(took)}")
        runs.append(Run(name, seed, ablation.folder(name, seed), failure))
    return runs


@dataclass(frozen=True)
class _Stage:
    """A training or an evaluation.

    Args:
        kind: "training" or "evaluation".
        run_id: what `monai.bundle run` runs.
        files: configs, one over the other.
        values: ids of this run, over the configs.
        folder: of all that it writes.
        result: the file in it that a finished one has written.
    """

    kind: str
    run_id: str
    files: tuple[Path, ...]
    values: Mapping[str, Any]
    folder: Path
    result: str

    def settings(self) -> dict[str, Any]:
        """What the result rests on."""
        hashes = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in self.files}
        return {"sha256": hashes, "values": dict(self.values)}

    def check(self) -> None:
        """Refuse a folder of other settings."""
        file = self.folder / SETTINGS
        if not file.is_file():
            return
        held, wanted = json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(self.settings()))
        pairs = [(held[group], wanted[group]) for group in wanted]
        differing = [key for old, new in pairs for key in {**old, **new} if old.get(key, _NONE) != new.get(key, _NONE)]
        if differing:
            repeated = self.folder if self.kind == KINDS[1] else self.folder.parent  # a new model is evaluated anew
            raise InputError(
                f"{self.folder}: holds a run with other settings ({', '.join(differing)}); expected those of this "
                f"command. Give another --output, or delete {repeated} to repeat its {self.kind}."
            )

    def run(self) -> str:
        """Run it where it isn't finished; returns how long it took.

        Raises:
            _StageError: when it fails.
        """
        if (self.folder / FINISHED).is_file():
            return f"{self.kind} was finished"
        begin, log = time.monotonic(), self.folder / "log.txt"
        # the values go in by a file, so that no parser of arguments makes something else of them
        overrides = self.folder / "overrides.json"
        write_text_atomically(overrides, json.dumps(self.values, indent=4) + "\n")
        write_text_atomically(self.folder / SETTINGS, json.dumps(self.settings(), indent=4) + "\n")
        command = [sys.executable, "-m", "monai.bundle", "run", self.run_id]
        command += ["--config_file", repr([str(file) for file in (*self.files, overrides)])]
        resumed = any(self.folder.glob("checkpoint_step=*.pt"))
        if resumed:
            command += ["--resume", "True"]
        environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **os.environ}  # MONAI imports mlflow, which calls home
        with log.open("a", encoding="utf-8") as file:
            start = file.tell()
            code = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
        if code or not (self.folder / self.result).is_file():
            reason = f"exit code {code}" if code else f"no {self.result} written"
            raise _StageError(f"{self.kind} failed ({reason}), see {log}, which ends with\n{_end_of(log, start)}")
        seconds = time.monotonic() - begin
        write_text_atomically(self.folder / FINISHED, json.dumps({"seconds": round(seconds, 1)}) + "\n")
        return f"{self.kind} {'went on for ' if resumed else ''}{seconds:.0f} s"


def _all_stages(ablation: Ablation) -> dict[tuple[str, int], tuple[_Stage, _Stage]]:
    training, evaluation = merged(ablation.base), merged(ablation.evaluate)
    # blocks that the training alone has can't be set in the evaluation
    changes = {
        name: {key: value for key, value in changes_of(file).items() if _settable(evaluation, key)}
        for name, file in ablation.configs.items()
    }
    # controls say how far a model is blind, not which is better, and cost as much as what is compared
    wanted = {"controls": [], **ablation.overrides}
    shared = [
        {**_root(files), **_held(config, wanted)}
        for files, config in ((ablation.base, training), (ablation.evaluate, evaluation))
    ]
    stages = {}
    for seed in range(ablation.seeds):
        for name, file in ablation.configs.items():
            first, second = (ablation.folder(name, seed).absolute() / kind for kind in KINDS)
            train = {**shared[0], "seed": seed, "ckpt_dir": str(first), "output_dir": str(first)}
            score = {**changes[name], **shared[1], "checkpoint": str(first / MODEL), "output_dir": str(second)}
            stages[name, seed] = (
                _Stage(KINDS[0], "training", (*ablation.base, file), train, first, MODEL),
                _Stage(KINDS[1], "evaluating", tuple(ablation.evaluate), score, second, METRICS),
            )
    return stages


def merged(files: Sequence[Path]) -> ConfigParser:
    """Config files, one over the other.

    Raises:
        InputError: for one that isn't there, or can't be read.
    """
    from monai.bundle import ConfigParser

    for file in files:
        check_file(file)
    return ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))


def _root(files: Sequence[Path]) -> dict[str, str]:
    """The bundle that the first of the files belongs to, so that it is found from any working directory."""
    return {"bundle_root": str(files[0].parents[1])} if files[0].parent.name == "configs" else {}


def _budget(files: Sequence[Path], values: Mapping[str, Any]) -> dict[str, Any]:
    config = merged(files)
    config.update(dict(values))
    return {key: config.get(key) for key in BUDGET}


def _held(config: ConfigParser, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values whose ids the config has."""
    return {key: value for key, value in values.items() if _has(config, key)}


def _has(config: ConfigParser, key: str) -> bool:
    try:
        return key in config
    except TypeError:  # a part of null
        return False


def _settable(config: ConfigParser, key: str) -> bool:
    """Whether a config has what the id is a part of; ids at the top can always be set."""
    parent = key.lstrip("+").rpartition("#")[0]
    return not parent or _has(config, parent)


def _end_of(log: Path, start: int) -> str:
    """The last lines of a log after a position, and the errors before them: MONAI's own last one names no reason."""
    content = log.read_bytes()[start:].decode("utf-8", errors="replace")
    lines = [line for line in content.splitlines() if line.strip()]
    errors = [line for line in lines[:-_LOG_LINES] if re.match(r"[\w.]*(?:Error|Exception): ", line)]
    return "\n".join(f"    {line}" for line in [*errors[:_LOG_ERRORS], *lines[-_LOG_LINES:]])
