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

"""Running the bundle's inference: what ``monai-u2 report`` and the Deploy application share."""

from __future__ import annotations

import gc
import json
import logging
import os
import textwrap
import traceback
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from monai_u2._mlflow import keep_mlflow_silent
from monai_u2.exceptions import InputError

__all__ = ["DOCUMENTS", "run_inference", "write_report"]

# id of the bundle's config that asks for a document -> the document's file
DOCUMENTS = {"dicom_sr": "report_sr.dcm", "pdf": "report.pdf", "dicom_seg": "evidence_seg.dcm"}


def write_report(
    root: Path,
    image: Path,
    folder: Path,
    *,
    documents: Collection[str] = (),
    evidence: bool = False,
    verbose: bool = False,
    **values: str | None,
) -> dict[str, Any]:
    """Write the report of one CT and what is asked for beside it.

    Args:
        root: the bundle.
        image: the CT.
        folder: where to; made if it isn't there.
        documents: some of :data:`DOCUMENTS`.
        evidence: whether to write where in the CT each sentence comes from.
        verbose: whether to show the log of MONAI and of the bundle.
        values: of the ids of the bundle's config; None leaves what it says.

    Returns:
        The content of ``report.json``.

    Raises:
        InputError: what the bundle refuses; its weights can't be loaded; it can't write a document that is asked for.
        RuntimeError: the bundle wrote no report.
    """
    written = folder / "report.json"
    before = _stamp(written)
    values |= {"bundle_root": str(root), "input_image": os.path.abspath(image), "output_dir": str(folder.resolve())}
    # a bundle without these ids works, too, where none of them is asked for
    switches = dict.fromkeys([*documents, "evidence"] if evidence else documents, True)
    run_inference(root, verbose, {key: value for key, value in values.items() if value is not None}, switches)
    if _stamp(written) in (None, before):
        raise RuntimeError(f"the bundle {root} ran, but wrote no {written}")
    for name in documents:
        if not (folder / DOCUMENTS[name]).is_file():
            raise InputError(
                f"{root / 'configs' / 'inference.json'}: wrote no {DOCUMENTS[name]}; expected a config that takes "
                f"{name}. Leave out --{name}, or give another --bundle."
            )
    return json.loads(written.read_text(encoding="utf-8"))


def run_inference(root: Path, verbose: bool, overrides: dict[str, str], switches: dict[str, bool]) -> None:
    """Run the bundle's inference workflow; exceptions are those of its config, but for a network's weights.

    Args:
        root: the bundle.
        verbose: whether to show its log; otherwise Python's logging and warnings are silenced from here on.
        overrides: texts for ids of its config, taken as they are.
        switches: switches of its config.
    """
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    else:
        # what the user must know is in the report's warnings or raised
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
    keep_mlflow_silent()
    # the imports make a million objects that live until the end: collecting among them, then and at exit, takes 3 s
    gc.disable()
    try:
        _check_device(overrides.get("device", "cpu"))
        from monai.bundle import ConfigWorkflow
    finally:
        gc.freeze()
        gc.enable()
    workflow = ConfigWorkflow(
        config_file=str(root / "configs" / "inference.json"),
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        **{key: _literal(value) for key, value in overrides.items()},
        **switches,
    )
    workflow.initialize()
    try:
        workflow.run()
    except Exception as error:
        reason = _why_checkpoint_failed(error)
        if reason is None:
            raise
        raise InputError(
            f"{root / 'models' / 'model.pt'}: can't be loaded ({reason}); expected the weights of the network in "
            f"configs/inference.json. Copy the bundle again, or train it (see the bundle's README)."
        ) from error
    workflow.finalize()
    gc.freeze()


def _why_checkpoint_failed(error: BaseException) -> str | None:
    """Return what stopped MONAI's CheckpointLoader; None for an error that doesn't come out of it."""
    seen: BaseException | None = error
    while seen is not None:
        modules = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(seen.__traceback__)}
        if "monai.handlers.checkpoint_loader" in modules:
            if "loading state_dict" in str(seen):
                return textwrap.shorten(" ".join(str(seen).splitlines()[:2]), 300, placeholder=" …")
            return "not a checkpoint of PyTorch, or cut off"  # torch would advise to load it without its safety check
        seen = seen.__cause__ or seen.__context__
    return None


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an unknown name, or one that this machine hasn't got
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device}: {reason}. Give cpu, or a device that this machine has.") from error


def _literal(text: str) -> str:
    """Write a text so that MONAI's config parser takes it as it is: in plain ones it gives $, @, %, and # a meaning."""
    return f"$bytes.fromhex('{text.encode().hex()}').decode()"


def _stamp(file: Path) -> tuple[int, int] | None:
    """Tell two states of a file apart; None where it isn't there."""
    if not file.is_file():
        return None
    state = file.stat()
    return state.st_ino, state.st_mtime_ns
