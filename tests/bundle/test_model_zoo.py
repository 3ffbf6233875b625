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

"""What the checks of Project-MONAI/model-zoo ask of a bundle, as far as they can be run without its repository."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import verify_metadata

LARGEST_BYTES = 25e6
# what the published schema requires (meta_schema_20240725.json, which has to be downloaded), written anew
TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array"},
        "dtype": {"type": "string"},
        "value_range": {"type": "array", "items": {"type": "number"}},
    },
}
TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": TENSOR}
TEXTS = ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors", "copyright")
SCHEMA = {
    "type": "object",
    "required": ["schema", *TEXTS, "required_packages_version", "network_data_format", "name", "changelog"],
    "properties": {
        **{name: {"type": "string"} for name in TEXTS},
        "schema": {"type": "string", "pattern": r"/meta_schema_20240725\.json$"},
        "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "supported_apps": {"type": "object"},
        "changelog": {"type": "object"},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
        },
    },
}


@pytest.fixture
def metadata(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def tracked(bundle: Path) -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=bundle, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout of the repository")
    return [bundle / name for name in listed.stdout.splitlines()]


@pytest.mark.parametrize(
    "name",
    ["LICENSE", "configs/metadata.json", "configs/inference.json", "configs/logging.conf", "models/model.pt"]
    + ["docs/README.md", "docs/data_license.txt"],
)
def test_files_are_there(bundle: Path, name: str) -> None:
    assert (bundle / name).stat().st_size > 0


def test_no_file_is_too_large(bundle: Path) -> None:
    files = tracked(bundle)
    assert len(files) > 20 and max(file.stat().st_size for file in files) <= LARGEST_BYTES


@pytest.mark.parametrize("change", [None, ("authors", ["somebody"]), ("network_data_format", {"type": "text"})])
def test_metadata_are_valid(tmp_path: Path, metadata: dict[str, Any], change: tuple[str, Any] | None) -> None:
    """By MONAI's own command, which downloads no schema where there is one."""
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "metadata.json").write_text(json.dumps(metadata | dict([change] if change else [])))
    arguments = {"meta_file": str(tmp_path / "metadata.json"), "filepath": str(tmp_path / "schema.json")}
    if change is None:
        verify_metadata(**arguments)
    else:
        with pytest.raises(ValueError, match="Failed validating"):
            verify_metadata(**arguments)


def test_versions(bundle: Path, metadata: dict[str, Any]) -> None:
    assert metadata["version"] in metadata["changelog"]
    versions = [metadata[f"{name}_version"] for name in ("monai", "pytorch", "numpy")] + [metadata["version"]]
    for packages in (metadata["required_packages_version"], metadata["optional_packages_version"]):
        versions += packages.values()
    assert [version for version in versions if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []


def test_all_packages_of_monai_u2_are_named(bundle: Path, metadata: dict[str, Any]) -> None:
    setup = ConfigParser()
    setup.read(bundle.parents[1] / "setup.cfg")
    needed = {line.split(">")[0] for line in setup["options"]["install_requires"].split()}
    named = {"monai", "torch", "numpy", *metadata["required_packages_version"]}
    assert named == needed
    optional = {line.split(">")[0] for line in setup["options.extras_require"]["dicom"].split()}
    assert metadata["optional_packages_version"].keys() == optional


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("inference.json", "bundle_root device network_def inferer output_dir dataset_dir evaluator handlers"),
        ("train.json", "bundle_root device dataset_dir output_dir val_interval"),
        ("train.json", "train#trainer train#trainer#max_epochs train#dataset train#dataset#data train#handlers"),
        ("train.json", "validate#evaluator validate#handlers validate#dataset validate#dataset#data"),
    ],
)
def test_keys_have_the_names_that_applications_look_for(bundle: Path, name: str, keys: str) -> None:
    from monai.bundle import ConfigParser as BundleParser

    parser = BundleParser()
    parser.read_config(bundle / "configs" / name)
    assert [key for key in keys.split() if key not in parser] == []


def test_json_is_indented_by_four_and_has_no_personal_path(bundle: Path) -> None:
    files = [file for file in tracked(bundle) if file.suffix == ".json" and file.parent.name != "text_tokenizer"]
    assert len(files) > 20
    for file in files:
        text = file.read_text()
        texts = [json.dumps(json.loads(text), indent=4, ensure_ascii=ascii) + "\n" for ascii in (True, False)]
        assert text in texts, file.name
        assert re.search(r"(/home/|/Users/|/root/|[A-Z]:\\\\)", text) is None, file.name


def test_the_shipped_weights_are_read_without_pickle(bundle: Path, tmp_path: Path) -> None:
    import torch

    shutil.copy(bundle / "models" / "model.pt", tmp_path)
    assert torch.load(tmp_path / "model.pt", weights_only=True, map_location="cpu")


def test_the_workflow_file_runs_lint_and_tests(bundle: Path) -> None:
    jobs = yaml.safe_load((bundle.parents[1] / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12"]
    commands = {name: " ".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    assert ".ci/run" in commands["tests"] and "ruff check ." in commands["lint"]
    assert "verify_metadata" in commands["model_zoo"] and "verify_net_in_out" in commands["model_zoo"]
