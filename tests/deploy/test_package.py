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

"""What `monai-deploy package` stages, without a container engine, and that it runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monai_u2.data.phantom import draw_case, render_case
from monai_u2.data.phantom.dicom_series import write_dicom_series

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
APP = ROOT / "monai_u2" / "apps" / "deploy"
# the packager with its two calls of the container engine replaced: the second keeps what an image would be built of
PACKAGER = """
import shutil, sys
from holoscan_cli.__main__ import main
from holoscan_cli.packager import container_builder

container_builder.create_and_get_builder = lambda name: name
container_builder.build_docker_image = lambda **build: shutil.copytree(build["context_path"], "staged")
sys.argv = ["monai-deploy", *sys.argv[1:]]
main()
"""
# what the packager would download: which image to start from
SOURCES = {
    "4.2.0": {
        "holoscan": {
            "debian-version": "",
            "wheel-version": "4.2.0",
            "base-images": {"dgpu": "nvcr.io/nvidia/cuda:13.0.0-runtime-ubuntu24.04"},
            "build-images": {"dgpu": {}, "igpu": {}, "cpu": {}},
        }
    }
}


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    (folder / "packager.py").write_text(PACKAGER)
    (folder / "artifacts.json").write_text(json.dumps(SOURCES))
    unwanted = shutil.ignore_patterns("__pycache__", "data", "eval")
    shutil.copytree(ROOT / "bundles" / "u2llm", folder / "bundles" / "u2llm", ignore=unwanted)
    shutil.copytree(ROOT / "monai_u2", folder / "app" / "monai_u2", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__main__.py", "requirements.txt"):
        shutil.copy(APP / name, folder / "app")
    command = [sys.executable, "packager.py", "package", "app", "--config", APP / "app.yaml", "--models", "bundles"]
    command += ["--tag", "u2llm:0.2.0", "--platform", "x86_64", "--source", "artifacts.json", "--build-cache", "cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "Succeeded" in done.stdout, done.stderr
    return folder / "staged"


def test_manifests_and_files(staged: Path) -> None:
    app = json.loads((staged / "map" / "app.json").read_text())
    assert json.loads(app["command"]) == ["python3", "/opt/holoscan/app"]
    assert app["sdkVersion"] == "4.0.0" and app["input"]["formats"] == app["output"]["formats"] == ["file"]
    package = json.loads((staged / "map" / "pkg.json").read_text())
    assert package["models"] == {"u2llm": "/opt/holoscan/models/u2llm"} and package["resources"]["gpu"] == 0
    assert len(list(staged.rglob("model.pt"))) == 1
    required = (staged / "pip" / "requirements.txt").read_text()
    assert required.strip() == (APP / "requirements.txt").read_text().strip()


def test_the_staged_application_runs(staged: Path, tmp_path: Path, without_toolkit: list[str]) -> None:
    hu, _, affine = render_case(draw_case(200_003))
    write_dicom_series(hu, affine, tmp_path / "input")
    variables = {
        "HOLOSCAN_INPUT_PATH": str(tmp_path / "input"),
        "HOLOSCAN_OUTPUT_PATH": str(tmp_path / "output"),
        "HOLOSCAN_MODEL_PATH": str(staged / "models"),
    }
    command = [*without_toolkit, sys.executable, str(staged / "app")]
    done = subprocess.run(command, cwd="/", env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # the staged copy of the package ran, not the environment's
    assert (staged / "app" / "monai_u2" / "apps" / "deploy" / "__pycache__").is_dir()
    assert {"report.json", "report_sr.dcm", "report_pdf.dcm", "evidence_seg.dcm"} < {
        path.name for path in (tmp_path / "output").iterdir()
    }
    content = json.loads((tmp_path / "output" / "report.json").read_text(encoding="utf-8"))
    assert content["report"].startswith("FINDINGS:") and content["geometry"]["shape"] == [*hu.shape]
