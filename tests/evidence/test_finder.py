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


"""The shipped model's evidence of one phantom, from the file to the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import decollate_batch

from monai_u2.data import collate_reports
from monai_u2.data.phantom import draw_case, render_case
from monai_u2.engines import PrepareReportBatch
from monai_u2.evidence import EVIDENCE_FILES, LEVELS, EvidenceFinder, ReportEvidence, write_evidence
from monai_u2.evidence.finder import SMALLEST_GAIN
from monai_u2.exceptions import InputError
from monai_u2.transforms import FindEvidenced

AXES = ("RAS", "PIL")


@pytest.fixture(scope="module")
def parser(bundle: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.update({"bundle_root": str(bundle), "device": "cpu"})
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    network.eval()
    return parser


@pytest.fixture(scope="module")
def found(parser: ConfigParser, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Evidence of one phantom in two orders of its axes, and its image."""
    hu, _, affine = render_case(draw_case(200_003))
    image = nib.as_closest_canonical(nib.Nifti1Image(hu, affine))
    folder = tmp_path_factory.mktemp("phantom")
    parts = [parser.get_parsed_content(name) for name in ("network", "text_tokenizer", "preprocessing")]
    result: dict[str, Any] = {}
    for axes in AXES:
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes))
        nib.save(image.as_reoriented(turn), folder / f"{axes}.nii.gz")
        data = parts[2]({"image": str(folder / f"{axes}.nii.gz"), "question": "Describe the findings of this CT."})
        batch = collate_reports([{key: data[key] for key in ("image", "input_ids", "question_ids")}])
        slabs, _, _, arguments = PrepareReportBatch()(batch, "cpu")
        ids = parser.get_parsed_content("inferer")(slabs, parts[0], **arguments)[0]
        case = {**decollate_batch(batch)[0], "pred": ids}
        result[axes] = FindEvidenced("pred", *parts)(case)["evidence"]
        result[f"{axes} file"] = nib.load(folder / f"{axes}.nii.gz")
    direct = EvidenceFinder(*parts)(data["image"], data["input_ids"][0], ids, data["question_ids"][0])
    return result | {"direct": direct, "report": parts[1].decode(ids, skip_special_tokens=True).strip()}


def test_each_sentence_is_cited(found: dict[str, Any]) -> None:
    evidence: ReportEvidence = found[AXES[0]]
    assert json.loads(json.dumps(evidence.sentences)) == evidence.sentences
    assert len(evidence.sentences) > 8
    assert {entry["rests_on_image"] for entry in evidence.sentences} == {True, False}
    for entry in evidence.sentences:
        assert found["report"][entry["start"] : entry["end"]] == entry["text"]
        assert entry["rests_on_image"] == (entry["place"] is not None) == (entry["image_gain_nats"] >= SMALLEST_GAIN)
        if entry["place"] is None:
            continue
        shape = evidence.voxels.shape
        low, high = entry["place"]["box_voxel"]
        assert all(0 <= a <= b < n for a, b, n in zip(low, high, shape))
        assert all(a <= v <= b for a, v, b in zip(low, entry["place"]["peak_voxel"], high))
        assert 0 < entry["place"]["concentration"] <= 1 and 0 <= entry["place"]["spread"] <= 1


def test_order_of_axes_doesnt_matter(found: dict[str, Any]) -> None:
    one, two = (found[axes] for axes in AXES)
    for first, second in zip(one.sentences, two.sentences, strict=True):
        assert first["text"] == second["text"] and first["rests_on_image"] == second["rests_on_image"]
        if first["place"] is None:
            continue
        assert first["place"]["peak_lps_mm"] == pytest.approx(second["place"]["peak_lps_mm"], abs=1)
        assert first["flags"] == second["flags"]
    canonical = nib.as_closest_canonical(nib.Nifti1Image(two.voxels, two.affine)).get_fdata()
    assert np.abs(canonical - one.voxels).max() < 0.02


def test_the_way_through_a_batch_is_the_direct_one(found: dict[str, Any]) -> None:
    np.testing.assert_allclose(found["direct"].voxels, found[AXES[1]].voxels, atol=1e-5)
    peaks = [[(e["place"] or {}).get("peak_voxel") for e in found[way].sentences] for way in ("direct", AXES[1])]
    assert peaks[0] == peaks[1]


def test_an_image_without_geometry_is_refused(parser: ConfigParser) -> None:
    parts = [parser.get_parsed_content(name) for name in ("network", "text_tokenizer", "preprocessing")]
    with pytest.raises(InputError, match="the image is a Tensor without geometry"):
        EvidenceFinder(*parts)(torch.rand(1, 16, 64, 96), torch.tensor([1]), [1])


@pytest.mark.parametrize("axes", AXES)
def test_files_lie_on_the_ct(found: dict[str, Any], axes: str, tmp_path: Path) -> None:
    evidence, stored = found[axes], found[f"{axes} file"]
    write_evidence(evidence, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(EVIDENCE_FILES)
    voxels, levels, sentences = (nib.load(tmp_path / name) for name in EVIDENCE_FILES)
    for image in (voxels, levels):
        assert image.shape == stored.shape
        np.testing.assert_array_equal(image.affine, stored.affine)
    assert voxels.get_data_dtype() == np.float32 and levels.get_data_dtype() == np.uint8
    values, level = voxels.get_fdata(), np.asarray(levels.dataobj)
    assert 0 <= values.min() < 0.01 and 0.5 < values.max() <= 1.0001
    for i, entry in enumerate(LEVELS):
        assert values[level == entry["value"]].min() >= entry["from"] - 1e-6
        assert values[level == i].max() < entry["from"]
    assert sentences.shape == (*evidence.grid.shape, len(evidence.sentences))
    # the heaviest token of a sentence lies where its peak is
    for i, entry in enumerate(evidence.sentences):
        if entry["place"] is None:
            assert not np.asarray(sentences.dataobj[..., i]).any()
            continue
        heaviest = np.unravel_index(sentences.dataobj[..., i].argmax(), evidence.grid.shape)
        mm = (sentences.affine @ [*heaviest, 1])[:3] * [-1, -1, 1]
        assert np.abs(mm - entry["place"]["peak_lps_mm"]).max() <= evidence.grid.token_mm.max()
