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

"""What a training was run on and with."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler

import monai_u2
from monai_u2.data.label_cases import RecordedCases
from monai_u2.data.records import write_text_atomically
from monai_u2.processes import number_of_processes, process_index

PACKAGES = ("torch", "monai", "pytorch-ignite", "transformers", "peft", "numpy")


class RunRecord:
    """Write `run.json` when a training starts: the hashes of its records and the environment. Where MLflow tracks the
    training, they become tags of its run, and the executed configuration an artifact, also of a run that is broken off.

    As a part of a resumable checkpoint, it warns when the records aren't those that the training started with. Images
    aren't hashed.

    Args:
        output_dir: folder of `run.json`.
        data: name -> file of records, or cases: the hash is that of their file
            (:class:`monai_u2.data.RecordedCases`), else of their JSON text and the reports that are their labels.
        handlers: the trainer's handlers, among which an `MLFlowHandler` may be.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        data: Mapping[str, str | os.PathLike[str] | Sequence[Mapping[str, Any]]],
        handlers: Sequence[Any],
    ) -> None:
        self.path = Path(output_dir) / "run.json"
        self.hashes = {name: hashlib.sha256(_bytes_of(source)).hexdigest() for name, source in data.items()}
        self.tracked = [handler for handler in handlers if isinstance(handler, MLFlowHandler)]
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer, to which its handlers are attached.
        """
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        if process_index():
            return
        record = {"sha256": self.hashes, "environment": environment()}
        write_text_atomically(self.path, json.dumps(record, indent=4) + "\n")
        for handler in self.tracked:
            handler.artifacts = tuple(_config_file(artifact) for artifact in handler.artifacts if artifact)
            for artifact in handler.artifacts:
                if Path(artifact).is_file():
                    handler.client.log_artifact(handler.cur_run.info.run_id, artifact)
                else:
                    self.logger.warning("%s isn't there, so that the MLflow run lacks it.", artifact)
            for group, entries in record.items():
                for name, value in entries.items():
                    handler.client.set_tag(handler.cur_run.info.run_id, f"{group}.{name}", str(value))

    def state_dict(self) -> dict[str, str]:
        """The hashes of the records."""
        return dict(self.hashes)

    def load_state_dict(self, state_dict: Mapping[str, str]) -> None:
        """Compare the records with those of the training that is resumed."""
        for name, value in self.hashes.items():
            if state_dict.get(name) != value:
                self.logger.warning(
                    "%s aren't those that the training began with (SHA-256 %s…, then %s…).",
                    name,
                    value[:12],
                    str(state_dict.get(name))[:12],
                )


def _bytes_of(source: str | os.PathLike[str] | Sequence[Mapping[str, Any]]) -> bytes:
    if isinstance(source, RecordedCases):
        source = source.file
    if isinstance(source, (str, os.PathLike)):
        return Path(source).read_bytes()
    reports = [Path(case["label"]).read_bytes() for case in source if Path(case.get("label", "")).is_file()]
    return b"".join([json.dumps(source).encode(), *reports])


def _config_file(artifact: str | os.PathLike[str]) -> str:
    """MONAI 1.6.1 puts an `output_dir` that is plain text and the file's name together as text of an expression."""
    joined = re.fullmatch(r"(.*) \+ '(/config_\d+_\d+\.json)'", str(artifact))
    return joined[1] + joined[2] if joined else str(artifact)


def environment() -> dict[str, str | int]:
    """Versions and machine of this process."""
    packages = {name: version(name) for name in PACKAGES}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "monai_u2": monai_u2.__version__,
        "python": platform.python_version(),
        **packages,
        "cuda": str(torch.version.cuda),
        "device": device,
        "system": platform.platform(),
        "processes": number_of_processes(),
        "threads": torch.get_num_threads(),
    }
