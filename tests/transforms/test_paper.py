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
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, CropForeground, ScaleIntensityRangePercentiles
from safetensors.torch import load_file

from monai_u2.data import generate_phantoms
from monai_u2.exceptions import InputError
from monai_u2.transforms import PaperResize, ScalePercentilesAndCrop

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: dict[str, dict[str, Any]] = {
    name: case
    for name, case in json.loads((GOLDEN / "manifest.json").read_text())["cases"].items()
    if name.startswith("preprocess_")
}


@pytest.mark.parametrize("name", CASES)
def test_the_config_does_what_the_official_code_does(name: str, bundle: Path, tmp_path: Path) -> None:
    golden, options = load_file(GOLDEN / f"{name}.safetensors"), CASES[name]["ctor"]
    nib.save(nib.Nifti1Image(golden["input.volume_xyz"].numpy(), np.eye(4)), tmp_path / "ct.nii.gz")
    parser = ConfigParser()
    files = [bundle / "configs" / "inference.json", bundle / "configs" / "models" / "paper_preprocessing.json"]
    parser.read_config([str(file) for file in files])
    parser["paper_in_plane_size"], parser["paper_depth"] = options["target_image_size"], options["padding_size"]
    parser["slab_size"] = [32, options["target_image_size"], options["target_image_size"]]
    steps = [step for block in ("load_transforms", "image_transforms") for step in parser.get_parsed_content(block)]
    out = Compose(steps)({"image": str(tmp_path / "ct.nii.gz")})["image"]
    torch.testing.assert_close(torch.as_tensor(out), golden["output.y"], rtol=0, atol=1e-4)
    if "output.scaled_cropped_zxy" in golden:
        cropped = Compose(steps[:-1])({"image": str(tmp_path / "ct.nii.gz")})["image"][0].permute(2, 0, 1)
        torch.testing.assert_close(cropped, golden["output.scaled_cropped_zxy"], rtol=0, atol=1e-5)


def test_scales_and_crops_as_monai_does() -> None:
    volume = torch.full((1, 30, 32, 34), -1000.0)
    volume[:, 3:20, 5:, :30] = torch.randn(1, 17, 27, 30, generator=torch.Generator().manual_seed(0)) * 300
    scaled = ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)(volume)
    theirs = CropForeground(allow_smaller=True)(scaled)
    before = volume.clone()
    ours = ScalePercentilesAndCrop()(volume)
    assert ours.shape == (1, 17, 27, 30) and torch.equal(volume, before)
    torch.testing.assert_close(ours, theirs.as_tensor(), rtol=0, atol=1e-6)


def test_a_volume_of_one_intensity() -> None:
    volume = torch.zeros(1, 20, 20, 20)
    volume[0, 3, 3, 3] = 5
    with pytest.raises(InputError, match="percentiles 0.5 and 99.5 of the volume are both 0; expected a CT"):
        ScalePercentilesAndCrop()(volume)


def test_goes_into_the_training_too(bundle: Path, tmp_path: Path) -> None:
    """Without lesion masks, which aren't resized with the image."""
    parser = ConfigParser()
    names = ("sft.json", "models/paper_preprocessing.json")
    parser.read_config([str(bundle / "configs" / name) for name in names])
    small = {"num_train": 2, "num_validation": 1, "questions_per_case": 20, "num_workers": 0}
    parser.update({f"phantom#{key}": value for key, value in small.items()})
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(tmp_path), "batch_size": 2})
    parser.update({"slab_size": [16, 64, 64], "paper_in_plane_size": 64, "paper_depth": 64})
    for split in ("train", "validate"):
        case = parser.get_parsed_content(f"{split}#dataset")[0]
        assert case["image"].shape == (4, 16, 64, 64) and "patch_findings" not in case, split
        assert "findings" in case
    assert parser["patch_finding_weight"] == 0


@pytest.mark.parametrize("name", ["evaluate.json", "preferences.json"])
def test_goes_into_evaluation_and_preferences_too(bundle: Path, tmp_path: Path, name: str) -> None:
    generate_phantoms(tmp_path, 1, 0, 1, questions_per_case=1, num_workers=0, progress=False)
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / file) for file in (name, "models/paper_preprocessing.json")])
    records = {"records": str(tmp_path / "test.jsonl"), "train_records": str(tmp_path / "train.jsonl")}
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(tmp_path), **records})
    parser.update({"slab_size": [16, 64, 64], "paper_in_plane_size": 64, "paper_depth": 64})
    image = parser.get_parsed_content("dataset")[0]["image"]
    assert image.shape == (4, 16, 64, 64) and type(image) is torch.Tensor
    owner = "evaluator" if name == "evaluate.json" else "builder"
    expected = {"intensity_percentiles": [0.5, 99.5], "in_plane_size": 64, "depth": 64, "slab_size": [16, 64, 64]}
    recorded = parser.get_parsed_content(f"{owner}#preprocessing")
    assert {key: recorded[key] for key in recorded if key != "max_length"} == expected


@pytest.mark.parametrize(("shape", "expected"), [((98, 98, 30), 255), ((64, 64, 30), 256), ((512, 300, 30), 256)])
def test_sizes_are_truncated_as_published(shape: tuple[int, ...], expected: int) -> None:
    out = PaperResize()(torch.ones(1, *shape))
    assert out.shape == (8, 32, 256, 256)
    rows = out[0, 0].sum(dim=1) > 0
    assert int(rows.sum()) == expected


def test_what_is_no_volume() -> None:
    for shape in ((30, 30, 30), (2, 30, 30, 30), (1, 30, 0, 30)):
        with pytest.raises(InputError, match=r"expected one channel of voxels, \(1, X, Y, Z\)"):
            PaperResize(32, 32)(torch.zeros(shape))
    with pytest.raises(InputError, match="expected a volume, not a line"):
        PaperResize(32, 32)(torch.zeros(1, 1, 100, 4))
    with pytest.raises(ValueError, match="depth 40 must be divisible by slab_depth 32"):
        PaperResize(32, 40)
