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

"""The stock monaibundle app of MONAI Label with a copy of the bundle, in this process."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import pytest

from monai_u2.data.phantom import draw_case, render_case

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

CASES = {"phantom_a": 200_003, "phantom_b": 200_001}


@pytest.fixture(scope="session")
def label_folder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`monaibundle` with `model/u2llm`, and `studies` with two phantoms."""
    folder = tmp_path_factory.mktemp("label")
    apps = [sys.executable, "-m", "monailabel.main", "apps", "--download", "--name", "monaibundle", "--output"]
    subprocess.run([*apps, str(folder)], check=True, capture_output=True)
    ignored = shutil.ignore_patterns("data", "eval")
    shutil.copytree(bundle, folder / "monaibundle" / "model" / "u2llm", symlinks=True, ignore=ignored)
    (folder / "studies").mkdir()
    for name, number in CASES.items():
        hu, _, affine = render_case(draw_case(number))
        nib.save(nib.Nifti1Image(hu, affine), folder / "studies" / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def client(label_folder: Path) -> Iterator[TestClient]:
    """Of a server with the stock app."""
    from monailabel.config import settings

    disabled = logging.root.manager.disable
    settings.MONAI_LABEL_APP_DIR = str(label_folder / "monaibundle")
    settings.MONAI_LABEL_STUDIES = str(label_folder / "studies")
    settings.MONAI_LABEL_APP_CONF = {"models": "u2llm", "sam2": "false", "zoo_source": "ngc"}
    settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD = False
    settings.MONAI_LABEL_SESSIONS = False
    variables = {"MONAI_LABEL_APP_DIR", "MONAI_LABEL_STUDIES", "PYTHONPATH"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(label_folder / "monaibundle"), before["PYTHONPATH"] or ""])
    from fastapi.testclient import TestClient
    from monailabel.app import app

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    logging.disable(disabled)
