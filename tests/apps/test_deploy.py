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

"""What the Deploy application does without the SDK; with it: tests/deploy."""

from __future__ import annotations

import json
import re
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from monai_u2.apps.deploy import start
from monai_u2.exceptions import InputError

ROOT = Path(__file__).parents[2]
APP = ROOT / "monai_u2" / "apps" / "deploy"


def test_the_bundle_is_the_folder_or_the_only_one_in_it(bundle: Path) -> None:
    assert start.find_model(bundle) == start.find_model(bundle.parent) == bundle


def test_no_bundle_several_and_an_incomplete_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no bundles; expected one: the folder given, or a single folder in it"):
        start.find_model(tmp_path)
    for name in "ab":
        (tmp_path / name / "configs").mkdir(parents=True)
        (tmp_path / name / "configs" / "metadata.json").touch()
    with pytest.raises(InputError, match="2 bundles; expected one"):
        start.find_model(tmp_path)
    with pytest.raises(InputError, match="no configs/inference.json in it"):
        start.find_model(tmp_path / "a")
    (tmp_path / "a" / "configs" / "inference.json").touch()
    with pytest.raises(InputError, match="no models/model.pt in it"):
        start.find_model(tmp_path / "a")


@pytest.mark.parametrize("files", [None, []])
def test_a_missing_cuda_runtime_is_named(monkeypatch: pytest.MonkeyPatch, files: list[str] | None) -> None:
    def files_of(name: str) -> list[str]:
        if files is None:
            raise metadata.PackageNotFoundError(name)
        return files

    monkeypatch.setattr(metadata, "files", files_of)
    with pytest.raises(InputError, match=r"no libcudart.so.13 of the package nvidia-cuda-runtime.*Install what"):
        start.load_cuda_runtime()


def requirements(file: Path) -> dict[str, set[str]]:
    """Name of a package -> its lines."""
    found: dict[str, set[str]] = {}
    for line in file.read_text().splitlines():
        if line and line[0] not in "#-":
            found.setdefault(re.split(r"[\[=<>;]", line)[0], set()).add(line)
    return found


def test_the_environment_is_pinned_as_the_tested_one() -> None:
    """A package of the application has no access to this repository's constraints."""
    needed, tested = requirements(APP / "requirements.txt"), requirements(ROOT / "constraints.txt")
    for name in needed.keys() & tested.keys():
        assert tested[name] <= needed[name], name
    assert all("==" in line for name, lines in needed.items() if name not in tested for line in lines)
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"] + setup["options.extras_require"]["dicom"]
    assert {line.split(">")[0] for line in lines.split()} <= needed.keys()


def test_the_application_has_the_bundles_version(bundle: Path) -> None:
    application = yaml.safe_load((APP / "app.yaml").read_text())["application"]
    assert application["version"] == json.loads((bundle / "configs" / "metadata.json").read_text())["version"]
