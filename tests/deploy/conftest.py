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

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monai_u2.data.phantom.dicom_series import write_dicom_series

SHAPE = (72, 66, 5)  # the smallest that JPEG 2000 encodes is about 64
# a bundle that reads the CT as ours does, and leaves what it has read
READING = {
    "imports": [
        "$import json",
        "$import numpy as np",
        "$from pathlib import Path",
        "$from monai_u2.commands.inference import DOCUMENTS",
    ],
    "bundle_root": ".",
    "input_image": "",
    "series_uid": None,
    "output_dir": "",
    "load": {"_target_": "monai_u2.transforms.LoadCT", "series_uid": "@series_uid"},
    "transform": {"_target_": "Compose", "transforms": ["@load"]},
    "folder": "$Path(@output_dir)",
    "run": [
        "$setattr(@load, 'image', @transform(@input_image))",
        "$@folder.mkdir(parents=True, exist_ok=True)",
        "$np.savez(@folder / 'volume.npz', voxels=@load.image.numpy()[0], affine=@load.image.affine.numpy())",
        "$list(map(Path.touch, map(@folder.joinpath, DOCUMENTS.values())))",
        "$(@folder / 'report.json').write_text(json.dumps({'warnings': ['too short']}))",
    ],
}
Run = Callable[..., tuple[int, str, str]]


def after_mounting(script: str) -> list[str]:
    """What to put before a command so that it, and nothing else, sees what a script mounts."""
    before = ["unshare", "--map-root-user", "--mount", "sh", "-c", script + ' && exec "$0" "$@"']
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here (unshare)")
    return before


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study with one series of 5 slices: 72 columns of 0.7 mm, 66 rows of 0.9 mm, 2.5 mm apart; the first slice is
    all above 0 HU."""
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE, dtype=np.int16)
    hu[..., 0] = np.abs(hu[..., 0]) + 1
    affine = np.array([[-0.7, 0, 0, 30], [0, -0.9, 0, 20], [0, 0, 2.5, -100], [0, 0, 0, 1]])
    write_dicom_series(hu, affine, tmp_path / "study" / "ct", patient_id="SECRET-4711")
    return tmp_path / "study"


@pytest.fixture
def reading_bundle(tmp_path: Path) -> Path:
    root = tmp_path / "reading"
    for folder in ("configs", "models"):
        (root / folder).mkdir(parents=True)
    (root / "configs" / "inference.json").write_text(json.dumps(READING))
    (root / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0"}))
    (root / "models" / "model.pt").touch()
    return root


@pytest.fixture
def run(reading_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Run:
    """Run the application in this process; returns exit code, stdout and stderr."""
    import gc
    import logging
    import warnings

    from monai_u2.apps.deploy.start import main

    def run_application(study: Path, output: Path, model: Path = reading_bundle) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["u2llm", "-i", str(study), "-o", str(output), "-m", str(model)])
        code = 0
        with warnings.catch_warnings():
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code)
            finally:
                logging.disable(logging.NOTSET)
                gc.unfreeze()
        return code, *capfd.readouterr()

    return run_application


@pytest.fixture(scope="session")
def without_toolkit() -> list[str]:
    """What to put before a command so that it finds no CUDA runtime of the system."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    folders = {os.path.dirname(line.split("=> ")[1]) for line in listed.splitlines() if "libcudart" in line}
    if not folders:
        return []
    return after_mounting(" && ".join(f"mount -t tmpfs none '{folder}'" for folder in sorted(folders)))
