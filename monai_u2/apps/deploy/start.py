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


"""The start of the application: the CUDA runtime, the paths, and what is said at the end."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import sys
import time
from importlib import metadata
from pathlib import Path

from monai_u2._mlflow import keep_mlflow_silent
from monai_u2.commands.command import check_writable
from monai_u2.exceptions import InputError, find_input_error

__all__ = ["find_model", "load_cuda_runtime", "main"]

USER_ERROR = 2
_CUDA_RUNTIME = "libcudart.so.13"


def main() -> None:
    """Run the application; its paths are those of ``-i``, ``-o``, and ``-m``, or in HOLOSCAN_INPUT_PATH,
    HOLOSCAN_OUTPUT_PATH, and HOLOSCAN_MODEL_PATH.

    Exit code 2 and one message for what the user can mend, a traceback for the rest.
    """
    start = time.monotonic()
    try:
        output = _run()
    except Exception as error:
        mistake = find_input_error(error)
        if mistake is None:
            raise
        sys.stderr.write(f"monai_u2.apps.deploy: {mistake}\n")
        sys.exit(USER_ERROR)
    warnings = json.loads((output / "report.json").read_text(encoding="utf-8"))["warnings"]
    lines = [f"Warning: {text}" for text in warnings]
    lines.append(f"Not for clinical use. Written in {time.monotonic() - start:.1f} s.")
    sys.stdout.write("\n".join(lines) + "\n")


def find_model(path: str | Path) -> Path:
    """Return the bundle at ``path``: the folder itself, or the only folder in it that has configs/metadata.json.

    Raises:
        InputError: there is none, or several; it lacks configs/inference.json or models/model.pt.
    """
    root = Path(path)
    below = sorted(folder for folder in root.glob("*") if folder.is_dir())
    found = [folder for folder in (root, *below) if (folder / "configs" / "metadata.json").is_file()]
    if len(found) != 1:
        raise InputError(
            f"{root}: {len(found) or 'no'} bundles; expected one: the folder given, or a single folder in it, with "
            "configs/metadata.json. Give its place with --model, or HOLOSCAN_MODEL_PATH."
        )
    for name in ("configs/inference.json", "models/model.pt"):
        if not (found[0] / name).is_file():
            raise InputError(f"{found[0]}: no {name} in it; expected a bundle with configs and model.")
    return found[0].resolve()


def load_cuda_runtime() -> None:
    """Load the CUDA runtime that pip has installed: the SDK is linked against it, and the system's loader looks for it
    in other places. With the SDK installed, importing MONAI imports the SDK, so this has to come first.

    Raises:
        InputError: it isn't installed.
    """
    try:
        files = metadata.files("nvidia-cuda-runtime") or []
    except metadata.PackageNotFoundError:
        files = []
    library = next((file for file in files if file.name == _CUDA_RUNTIME), None)
    if library is None:
        raise InputError(
            f"no {_CUDA_RUNTIME} of the package nvidia-cuda-runtime, which the MONAI Deploy App SDK takes also on "
            "machines without a GPU. Install what requirements/deploy.txt names."
        )
    ctypes.CDLL(str(library.locate()), mode=ctypes.RTLD_GLOBAL)


def _run() -> Path:
    os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "OFF")  # what fails is raised, too
    keep_mlflow_silent()
    load_cuda_runtime()
    # the imports make a million objects that live until the end
    gc.disable()
    from monai_u2.apps.deploy.application import Application, ReportApplication

    gc.freeze()
    gc.enable()
    logging.disable(logging.WARNING)  # the SDK logs the paths, which may name the patient
    try:
        context = Application.init_app_context()
    except OSError as error:  # it makes the folder of -o
        raise InputError(
            f"{error.filename}: --output can't be made there ({error.strerror}); expected a folder that you may write "
            "to."
        ) from error
    finally:
        logging.disable(logging.INFO)
    output = Path(context.output_path)
    check_writable(output)
    ReportApplication(Path(context.input_path), output, find_model(context.model_path)).run()
    return output
