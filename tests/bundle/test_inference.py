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

import itertools
import json
import os
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_u2.data import collate_reports
from monai_u2.data.phantom import draw_case, render_case
from monai_u2.engines import PrepareReportBatch
from monai_u2.evidence import EVIDENCE_FILES
from tests.python_process import run_python

BUNDLES_ROOT = Path(__file__).parents[2]
QUESTION = "Describe the findings of this CT."


@pytest.fixture(scope="module")
def parser(bundle: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.read_meta(bundle / "configs" / "metadata.json")
    parser["bundle_root"] = str(bundle)
    parser["device"] = "cpu"
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    network.eval()
    return parser


def write_phantom(path: Path, number: int) -> nib.Nifti1Image:
    hu, _, affine = render_case(draw_case(number))
    image = nib.Nifti1Image(hu, affine)
    nib.save(image, path)
    return image


def test_all_48_orientations_give_the_same_tokens_and_report(parser: ConfigParser, tmp_path: Path) -> None:
    """One phantom, its axes stored in every order and direction."""
    network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("inferer")
    preprocessing = parser.get_parsed_content("preprocessing")
    image = nib.as_closest_canonical(write_phantom(tmp_path / "original.nii", 200_000))
    cases, stored = [], set()
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = image.as_reoriented(np.array(list(zip(order, flips))))
            stored.add("".join(nib.aff2axcodes(turned.affine)))
            nib.save(turned, tmp_path / "turned.nii")
            cases.append(preprocessing({"image": str(tmp_path / "turned.nii"), "question": QUESTION}))
    assert len(stored) == 48
    batch = collate_reports([{key: case[key] for key in ("image", "input_ids", "question_ids")} for case in cases])
    image, _, _, arguments = PrepareReportBatch()(batch, "cpu")
    with torch.no_grad():
        prompt = {key: value for key, value in arguments.items() if key not in ("input_ids", "attention_mask")}
        selected = network.model.encode_image(image, prompt.pop("slab_mask")).selected
        tokens = network.model.guide_image(selected, **prompt)
        reports = inferer(image, network, **arguments)
    assert (tokens - tokens[:1]).abs().max() < 1e-4
    assert (reports == reports[:1]).all()


def test_left_and_right_are_not_mixed_up(parser: ConfigParser, tmp_path: Path) -> None:
    """A mirrored patient has the effusion on the other side, for the vision tower and for the image tokens."""
    number = next(
        number
        for number in range(200_000, 200_200)
        if draw_case(number).labels[:1] == ["pleural effusion, right"]
        and draw_case(number).findings[0].severity == "large"
    )
    image = write_phantom(tmp_path / "a.nii", number)
    axis = int(np.abs(image.affine[0, :3]).argmax())
    nib.save(nib.Nifti1Image(np.flip(np.asarray(image.dataobj), axis), image.affine), tmp_path / "b.nii")
    network, preprocessing = parser.get_parsed_content("network"), parser.get_parsed_content("preprocessing")
    labels = parser.get_parsed_content("finding_labels")
    right, left = (labels.index(f"pleural effusion, {side}") for side in ("right", "left"))
    with torch.no_grad():
        for name, here, there in (("a.nii", right, left), ("b.nii", left, right)):
            case = preprocessing({"image": str(tmp_path / name), "question": QUESTION})
            batch = collate_reports([{key: case[key] for key in ("image", "input_ids", "question_ids")}])
            slabs, _, _, arguments = PrepareReportBatch()(batch, "cpu")
            output = network(slabs, **arguments)
            for logits in (output.finding_logits[0].flatten(0, 1), output.image_token_finding_logits[0]):
                assert logits.amax(0)[here] > logits.amax(0)[there]


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return run_python(["-m", "monai_u2", "report", *arguments], BUNDLES_ROOT, environment)


def test_report_from_the_command_line(tmp_path: Path) -> None:
    write_phantom(tmp_path / "ct.nii.gz", 200_001)
    done = report(str(tmp_path / "ct.nii.gz"), "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["overview.png", "report.json", "report.txt"]
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["report"].startswith("FINDINGS:") and "IMPRESSION:" in content["report"]
    assert content["report"] in done.stdout
    assert content["question"] == QUESTION
    assert content["model"]["use"] == "not for clinical use" and len(content["model"]["sha256"]) == 64
    assert content["preprocessing"]["spacing_mm"] == [5.0, 4.0, 4.0]
    assert content["warnings"] == []


def test_too_long_a_question(tmp_path: Path) -> None:
    write_phantom(tmp_path / "ct.nii.gz", 200_001)
    done = report(
        str(tmp_path / "ct.nii.gz"), "--output", str(tmp_path / "out"), "--question", "Is there a cyst? " * 30
    )
    assert done.returncode == 2
    assert "too long" in done.stderr and "the context holds 320" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["abdomen_ras_3mm.nii.gz", "dicom_j2k"])
def test_real_ct(name: str, tmp_path: Path) -> None:
    path = BUNDLES_ROOT.parent / "shared" / "ct" / name
    if not path.exists():
        pytest.skip("the real CTs aren't beside the project")
    done = report(str(path), "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    warnings = json.loads((tmp_path / "out" / "report.json").read_text())["warnings"]
    assert any("outside the training distribution" in warning for warning in warnings)


def test_evidence_is_an_option(bundle: Path, tmp_path: Path) -> None:
    image = write_phantom(tmp_path / "ct.nii.gz", 200_003)
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.read_meta(bundle / "configs" / "metadata.json")
    overrides = {"bundle_root": str(bundle), "device": "cpu", "input_image": str(tmp_path / "ct.nii.gz")}
    for evidence in (True, False):  # the second run takes the first one's maps away
        parser.update({**overrides, "output_dir": str(tmp_path / "out"), "evidence": evidence})
        parser.parse(reset=True)
        parser.get_parsed_content("evaluator").run()
        content = json.loads((tmp_path / "out" / "report.json").read_text())
        written = {path.name for path in (tmp_path / "out").iterdir()}
        assert written == {"report.txt", "report.json", "overview.png"} | (set(EVIDENCE_FILES) if evidence else set())
        assert ("sentences" in content) == evidence
        if evidence:
            for entry in content["sentences"]:
                assert content["report"][entry["start"] : entry["end"]] == entry["text"]
                assert entry["rests_on_image"] == (entry["place"] is not None)
            # found in evaluation mode: batch statistics are those of the file
            state = torch.load(bundle / "models" / "model.pt", weights_only=True)
            network = parser.get_parsed_content("network").state_dict()
            assert all(torch.equal(network[name], value) for name, value in state.items())
            stored = nib.load(tmp_path / "out" / "evidence.nii.gz")
            assert stored.shape == image.shape
            np.testing.assert_array_equal(stored.affine, nib.load(tmp_path / "ct.nii.gz").affine)


def test_an_app_that_gives_the_image_alone(parser: ConfigParser, tmp_path: Path) -> None:
    """The steps of MONAI Label: its own keys in the case, no batch, its own network, no file written."""
    from monai.transforms import LoadImaged, SaveImaged

    image = write_phantom(tmp_path / "ct.nii.gz", 200_003)
    path = str(tmp_path / "ct.nii.gz")
    case = {"image": path, "image_path": path, "question": "Is there a pleural effusion?", "model": "u2llm"}
    for step in parser.get_parsed_content("preprocessing").transforms:
        assert not isinstance(step, LoadImaged)  # it would be replaced by one that misses no key
        case = step(case)
    assert case["image_path"] == path
    with torch.no_grad():
        case["pred"] = parser.get_parsed_content("inferer")(case["image"][None], parser.get_parsed_content("network"))[
            0
        ]
    saving = 0
    for step in parser.get_parsed_content("postprocessing").transforms:
        if isinstance(step, SaveImaged):
            saving += 1
        else:
            case = step(case)
    assert saving == 1 and sorted(file.name for file in tmp_path.iterdir()) == ["ct.nii.gz"]
    result = json.loads(json.dumps(case["result"]))
    assert result["report"].startswith("Yes") and result["question"] == "Is there a pleural effusion?"
    assert result["warnings"] == [] and result["model"]["use"] == "not for clinical use"
    assert case["pred"].shape == (1, *image.shape) and case["pred"].dtype == torch.uint8
    assert np.allclose(case["pred"].affine, image.affine, atol=1e-4)
    names = json.loads((BUNDLES_ROOT / "bundles/u2llm/configs/metadata.json").read_text())["network_data_format"]
    levels = names["outputs"]["pred"]["channel_def"]
    assert {int(value) for value in case["pred"].unique()} == set(map(int, levels)) == {0, 1, 2, 3}
    assert [levels[str(entry["value"])] for entry in result["evidence_levels"]] == [
        f"{entry['name']} evidence" for entry in result["evidence_levels"]
    ]
