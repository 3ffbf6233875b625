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

"""The stock monaibundle app with the bundle as it is. Runs in the environment of requirements/label.txt::

python -m pytest -n 0 -m label tests/label
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_u2.data.phantom import draw_case, render_case

if TYPE_CHECKING:
    from fastapi.testclient import TestClient
    from httpx import Response

pytestmark = pytest.mark.label
QUESTION = "Describe the findings of this CT."
EFFUSION = "Is there a pleural effusion?"
ROOT = Path(__file__).parents[2]


def ask(client: TestClient, image: str, output: str | None = None, **params: Any) -> Response:
    query = {"image": image} | ({} if output is None else {"output": output})
    return client.post("/infer/u2llm", params=query, data={"params": json.dumps(params)})


def parts_of(response: Response, path: Path) -> dict[str, Any]:
    """Write the volume of an answer to a path; return the rest."""
    head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    params, volume = message_from_bytes(head + response.content).get_payload()
    assert volume.get_filename().endswith("".join(path.suffixes))
    path.write_bytes(volume.get_payload(decode=True))
    return json.loads(params.get_payload(decode=True))


@pytest.fixture(scope="module")
def asked(client: TestClient, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], nib.Nifti1Image]:
    """Report and evidence of a phantom."""
    path = tmp_path_factory.mktemp("asked") / "label.nii.gz"
    response = ask(client, "phantom_a")
    assert response.status_code == 200
    return parts_of(response, path), nib.load(path)


def test_the_app_shows_model_labels_and_question(client: TestClient) -> None:
    model = client.get("/info/").json()["models"]["u2llm"]
    assert model["labels"] == {"weak evidence": 1, "moderate evidence": 2, "strong evidence": 3}
    assert model["config"]["question"] == QUESTION
    assert "u2llm" in client.get("/info/").json()["trainers"]


def test_report_and_evidence_are_the_plain_workflows(
    asked: tuple[dict[str, Any], nib.Nifti1Image], bundle: Path, label_folder: Path, tmp_path: Path
) -> None:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    given = {"bundle_root": str(bundle), "device": "cpu", "evidence": True, "output_dir": str(tmp_path)}
    parser.update({**given, "input_image": str(label_folder / "studies" / "phantom_a.nii.gz")})
    parser.get_parsed_content("evaluator").run()
    written, levels = json.loads((tmp_path / "report.json").read_text()), nib.load(tmp_path / "evidence_levels.nii.gz")
    params, label = asked
    assert {key: params[key] for key in ("report", "question", "warnings")} == {
        key: written[key] for key in ("report", "question", "warnings")
    }
    assert [sentence["text"] for sentence in params["sentences"]] == [entry["text"] for entry in written["sentences"]]
    assert params["model"] == {"name": "u2llm", "version": written["model"]["version"], "use": "not for clinical use"}
    assert np.array_equal(np.asarray(label.dataobj), np.asarray(levels.dataobj))
    assert np.allclose(label.affine, levels.affine, atol=1e-4)


def test_evidence_lies_over_the_lesions_in_the_images_geometry(
    asked: tuple[dict[str, Any], nib.Nifti1Image], label_folder: Path
) -> None:
    _, label = asked
    image = nib.load(label_folder / "studies" / "phantom_a.nii.gz")
    levels = np.asarray(label.dataobj)
    assert label.shape == image.shape and np.allclose(label.affine, image.affine, atol=1e-4)
    assert levels.dtype == np.uint8 and set(np.unique(levels)) == {0, 1, 2, 3}
    lesions = render_case(draw_case(200_003))[1] > 0
    assert levels[lesions].max() >= 2
    assert (levels[lesions] > 0).mean() > 3 * (levels > 0).mean()


def test_a_requests_question_takes_the_defaults_place(
    client: TestClient, asked: tuple[dict[str, Any], nib.Nifti1Image]
) -> None:
    answer = ask(client, "phantom_a", "json", question=EFFUSION).json()
    assert answer["question"] == EFFUSION and 0 < len(answer["report"]) < 100
    assert ask(client, "phantom_a", "json").json()["report"] == asked[0]["report"]


def test_a_question_is_no_code(client: TestClient) -> None:
    assert ask(client, "phantom_a", "json", question="$1 / 0").json()["question"] == "$1 / 0"


def test_levels_as_slicer_asks_for_them(
    client: TestClient, asked: tuple[dict[str, Any], nib.Nifti1Image], tmp_path: Path
) -> None:
    response = ask(client, "phantom_a", result_extension=".nrrd", result_dtype="uint8")
    parts_of(response, tmp_path / "label.nrrd")
    levels = itk.array_from_image(itk.imread(str(tmp_path / "label.nrrd")))
    assert np.array_equal(levels.transpose(), np.asarray(asked[1].dataobj))


def test_an_uploaded_image(
    client: TestClient, asked: tuple[dict[str, Any], nib.Nifti1Image], label_folder: Path
) -> None:
    with open(label_folder / "studies" / "phantom_a.nii.gz", "rb") as file:
        response = client.post("/infer/u2llm", params={"output": "json"}, files={"file": ("ct.nii.gz", file)})
    assert response.json()["report"] == asked[0]["report"]


def test_all_images_in_one_go(client: TestClient, asked: tuple[dict[str, Any], nib.Nifti1Image]) -> None:
    params = {"device": "cpu", "multi_gpu": False, "save_label": True, "label_tag": "original", "max_workers": 1}
    response = client.post("/batch/infer/u2llm", params={"images": "all", "run_sync": True}, json=params)
    reports = {image: result["params"]["report"] for image, result in response.json().items()}
    assert reports.keys() == {"phantom_a", "phantom_b"} and reports["phantom_a"] == asked[0]["report"]
    kept = client.get("/datastore/label/info", params={"label": "phantom_b", "tag": "original"}).json()
    assert kept["params"]["report"] == reports["phantom_b"] != reports["phantom_a"]


def test_two_requests_at_once(client: TestClient, asked: tuple[dict[str, Any], nib.Nifti1Image]) -> None:
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(ask, client, "phantom_a", "json", question=text) for text in (QUESTION, EFFUSION)]
        whole, short = (future.result().json() for future in futures)
    assert (whole["question"], short["question"]) == (QUESTION, EFFUSION)
    assert whole["report"] == asked[0]["report"] and short["report"] != whole["report"]


@pytest.mark.parametrize(
    ("image", "params"),
    [
        ("nowhere", {}),
        ("", {}),
        ("phantom_a", {"question": "Is there a cyst? " * 60}),
        ("phantom_a", {"question": " "}),
        ("phantom_a", {"question": "%nowhere"}),
    ],
    ids=["unknown image", "no image", "prompt too long", "empty question", "macro of the configuration"],
)
def test_what_cant_be_answered_is_refused(
    client: TestClient, asked: tuple[dict[str, Any], nib.Nifti1Image], image: str, params: dict[str, str]
) -> None:
    refused = ask(client, image, **params)
    assert refused.status_code == 500 and "FINDINGS" not in refused.text
    assert ask(client, "phantom_a", "json").json()["report"] == asked[0]["report"]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def test_reports_train_the_model_that_is_used_at_once(
    client: TestClient, asked: tuple[dict[str, Any], nib.Nifti1Image], label_folder: Path
) -> None:
    """One report, then two: without a validation case first, and a second training after the first."""
    from monailabel.interfaces.utils.app import app_instance

    root = label_folder / "monaibundle" / "model" / "u2llm"
    model = root / "models" / "model.pt"
    for image, text in (("phantom_a", "FINDINGS:\nLungs: The lungs are clear."), ("phantom_b", "Normal — ≥ 5 µm.")):
        before = weights(model)
        saved = client.put(
            "/datastore/label",
            params={"image": image, "tag": "final"},
            files={"label": (f"{image}.txt", text.encode())},
        )
        assert saved.status_code == 200
        labeled = client.get("/datastore/", params={"output": "train"}).json()
        assert any(Path(case["label"]).read_text(encoding="utf-8") == text for case in labeled)
        params = {"max_epochs": 1, "device": "cpu", "multi_gpu": False}
        done = client.post("/train/u2llm", params={"run_sync": True}, json=params)
        assert done.status_code == 200
        after = weights(model)
        assert after.keys() == before.keys()
        assert any(not torch.equal(after[name], before[name]) for name in after)
        trained = [name for name in after if "running_" not in name and "num_batches" not in name]
        assert max(float((after[name] - before[name]).abs().max()) for name in trained) < 1e-3  # it went on from there
    assert not (root / "data" / "phantom" / "images").exists()  # of which sft.json alone would be trained
    assert ask(client, "phantom_a", "json").status_code == 200
    used = app_instance()._infers["u2llm"]._networks["cpu"][0].state_dict()
    assert all(torch.equal(used[name], value) for name, value in after.items())


def test_a_label_that_is_no_report_is_refused(client: TestClient, label_folder: Path) -> None:
    model = label_folder / "monaibundle" / "model" / "u2llm" / "models" / "model.pt"
    before = model.read_bytes()
    client.put("/datastore/label", params={"image": "phantom_a"}, files={"label": ("phantom_a.nii.gz", b"no report")})
    params = {"max_epochs": 1, "device": "cpu", "multi_gpu": False}
    assert client.post("/train/u2llm", params={"run_sync": True}, json=params).status_code == 500
    assert model.read_bytes() == before


def test_the_real_server(tmp_path: Path) -> None:
    options = ["--folder", str(tmp_path / "label"), "--runs", "1", "--output", str(tmp_path / "f.json")]
    command = [sys.executable, str(ROOT / "benchmarks" / "label_server.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["label_seconds"] > 0 and figures["plain_seconds"] > 0
    for line in ("/info/", "report", "evidence", "final label", "model changed", "new model"):
        assert line in done.stdout, line
