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

import csv
import json
import logging
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_u2.data.phantom import FINDING_LABELS, draw_case, parse_findings, write_report
from monai_u2.evaluation import write_html_page
from monai_u2.evaluation.ct_pictures import ct_pictures
from monai_u2.exceptions import InputError
from tests.apps.chromium import PROGRAM, Chromium

PLANTED_REFERENCE = """FINDINGS:
Lungs: There is a 20 mm nodule in the right upper lobe.
Heart and vessels: The heart is enlarged.
Spleen: The spleen is normal in size."""
PLANTED_REPORT = """FINDINGS:
Lungs: There is a 20 mm nodule in the right upper lobe.
Heart and vessels: The heart is normal in size.
Spleen: The spleen is enlarged to 140 mm. <script>alert("x")</script> & so on"""
CONTROLS = ("zeroed_images", "shuffled_images", "most_frequent_report")
COLLAPSE = {
    "cases": 7,
    "distinct": 0.75,
    "most_frequent": 0.25,
    "empty": 1,
    "words_mean": 41.25,
    "words_std": 8.5,
    "words_quantiles": [0, 1, 30, 40, 50, 60, 62],
    "findings_per_normal_case": None,
}
VOID = {"meta", "img", "br", "link", "input", "path", "use", "rect", "circle", "line", "polyline", "ellipse"}


class Page(HTMLParser):
    """The elements of a page, each with its attributes, the classes around it, and the text in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append({"tag": tag, "attrs": dict(attrs), "text": ""})
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append({"tag": tag, "attrs": dict(attrs), "text": ""})

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data.replace("\u00a0", " ")

    def find(self, tag: str, **attrs: str) -> list[dict[str, Any]]:
        return [
            element
            for element in self.elements
            if element["tag"] == tag and all(element["attrs"].get(key) == value for key, value in attrs.items())
        ]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def metrics(value: float) -> dict[str, dict[str, float]]:
    names = ("rougeL", "corpus_bleu4", "micro_f1", "green")
    return {name: {"value": value, "low": value - 0.1, "high": value + 0.1} for name in names}


def difference(value: float, p_value: float) -> dict[str, dict[str, float]]:
    numbers = {"difference": value, "low": value - 0.1, "high": value + 0.1, "p_value": p_value, "p_holm": p_value}
    return dict.fromkeys(metrics(0.5), numbers)


def write_folder(tmp_path: Path) -> Path:
    """An evaluation of 7 cases, the planted one the worst; one without a judgement, one whose image is gone."""
    image = tmp_path / "secret_name.nii.gz"
    volume = np.random.default_rng(0).normal(40, 20, (16, 16, 16)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, np.diag([4.0, 4.0, 4.0, 1.0])), image)
    texts = [write_report(draw_case(number)).text for number in range(6)]
    lines = [
        {
            "id": f"case-{number}",
            "report": text,
            "reference": text,
            "patient": f"Muster^Jane{number}",
            "kind": "report",
            "question": "What does this CT show?",
            "image": str(image),
            "new_tokens": 40,
        }
        for number, text in enumerate(texts)
    ]
    lines[5] |= {"report": ""}
    planted = {"id": "<planted>", "report": PLANTED_REPORT, "reference": PLANTED_REFERENCE}
    lines.append(lines[0] | planted | {"image": str(tmp_path / "gone_secret.nii.gz")})
    write_lines(tmp_path / "predictions.jsonl", lines)
    for control in CONTROLS[:2]:
        write_lines(tmp_path / f"predictions_{control}.jsonl", [line | {"report": texts[0]} for line in lines])
    with (tmp_path / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        names = ("id", "patient", "rougeL", "green", "findings_named", "findings_there")
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        greens = ("1.0", "0.9", "0.8", "0.7", "", "0.3", "0.2")
        for line, green in zip(lines, greens):
            found = (";".join(parse_findings(line[key])) for key in ("report", "reference"))
            writer.writerow(dict(zip(names, (line["id"], line["patient"], "0.5", green, *found))))
    differences = (difference(0.3, 0.0004), difference(0.01, 0.6), difference(-0.2, 0.01))
    runs = [{"name": "model", "metrics": metrics(0.7), "collapse": COLLAPSE, "difference": None}]
    for control, change in zip(CONTROLS, differences):
        runs.append({"name": control, "metrics": metrics(0.4), "collapse": COLLAPSE, "difference": change})
    runs[1]["failed_judgements"] = ["case-2"]
    runs.append({"name": "references", "collapse": COLLAPSE})
    f1 = {"value": 0.5, "low": 0.25, "high": 0.75}
    findings = {label: {"f1": f1, "positives": 4, "named": 3, "matched": 2} for label in FINDING_LABELS[:3]}
    findings["rare $x_1$ & <odd>"] = {"f1": f1, "positives": 1, "named": 1, "matched": 1}
    findings["nowhere"] = {"f1": dict.fromkeys(f1), "positives": 0, "named": 0, "matched": 0}
    summary = {
        "settings": {
            "model_sha256": "a" * 64,
            "records_sha256": None,
            "seed": 3,
            "num_samples": 1000,
            "confidence": 0.95,
            "judge": "findings 1+ab",
            "preprocessing": {"spacing": [5.0, 4.0, 4.0]},
            "generation": {"max_new_tokens": 240},
            "versions": {"monai": "1.6.1"},
        },
        "cases": {
            "scored": 7,
            "patients": 7,
            "empty_reports": ["case-5"],
            "missing_references": ["case-77"],
            "other_scripts": [],
            "failed_judgements": ["case-4"],
            "unparsable_answers": ["case-66"],
            "left_out_metrics": {"bertscore": "no <model> was given"},
        },
        "runs": runs,
        "findings": findings,
    }
    (tmp_path / "metrics.json").write_text(json.dumps(summary), encoding="utf-8")
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of such a folder, as it is."""
    return write_html_page(write_folder(tmp_path_factory.mktemp("evaluation")), parse_findings=parse_findings)


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written.read_text(encoding="utf-8"))


def article(page: Page, case: str) -> str:
    return next(element["text"] for element in page.find("article") if element["text"].lstrip().startswith(case))


def test_nothing_is_asked_of_another_host(written: Path, page: Page) -> None:
    policy = page.find("meta", **{"http-equiv": "Content-Security-Policy"})[0]["attrs"]["content"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    for element in page.elements:
        for name, value in element["attrs"].items():
            if name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
                assert value.startswith(("#", "data:image/png;base64,")), value
            assert not name.startswith("on")
    text = written.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|<iframe", re.sub(r'src="data:[^"]*"', "", text))
    assert all(reference.startswith("#") for reference in re.findall(r"url\(([^)]*)\)", text))


@pytest.mark.browser
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
def test_a_browser_shows_it_in_silence(written: Path, tmp_path: Path) -> None:
    with Chromium(tmp_path / "profile") as browser:
        browser.open(written.as_uri())
        assert browser.run("document.querySelectorAll('article').length") == 6
        assert browser.run("document.images.length") == 30
        browser.wait_for(lambda: browser.run("[...document.images].every(image => image.naturalWidth > 0)"))
        assert browser.problems == []
        outside = [url for url in browser.requests if url != written.as_uri() and not url.startswith("data:")]
        assert outside == []


def test_ids_are_unique_and_links_lead_to_them(page: Page) -> None:
    ids = [element["attrs"]["id"] for element in page.elements if "id" in element["attrs"]]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        for name in ("href", "aria-labelledby", "aria-describedby"):
            target = element["attrs"].get(name, "#data:").removeprefix("#")
            assert target.startswith("data:") or target in ids


def test_every_case_is_there_by_id_and_no_patient_or_path(written: Path, page: Page) -> None:
    rows = page.find("section", id="cases")[0]["text"]
    assert all(f"case-{number}" in rows for number in range(6)) and "<planted>" in rows
    text = written.read_text(encoding="utf-8")
    assert "Muster" not in text and "secret" not in text and str(written.parent) not in text


def test_best_middle_and_worst_are_by_the_judge(page: Page) -> None:
    shown = [element["text"].split()[0] for element in page.find("article")]
    assert shown == ["case-0", "case-1", "case-2", "case-3", "<planted>", "case-5"]  # case-4 has no judgement


def test_rouge_ranks_without_a_judge_and_ids_break_ties(folder: Path) -> None:
    text = (folder / "metrics.csv").read_text(encoding="utf-8").replace("green", "unheard_of", 1)
    (folder / "metrics.csv").write_text(text, encoding="utf-8")
    page = Page(write_html_page(folder, images=False, num_cases=1).read_text(encoding="utf-8"))
    assert [element["text"].split()[0] for element in page.find("article")] == ["<planted>", "case-2", "case-5"]


def test_planted_findings_are_marked(page: Page) -> None:
    planted = article(page, "<planted>")
    reference, report = planted.split("Model\n")[0], planted.split("Model\n")[1].split("Matched (")[0]
    assert "✓ matched: lung nodule, right upper lobe" in reference and "○ missed: cardiomegaly" in reference
    assert "✓ matched: lung nodule, right upper lobe" in report and "✗ false: splenomegaly" in report
    assert "✗" not in reference and "○" not in report
    assert "✓ Matched (1): lung nodule, right upper lobe" in planted
    assert "○ Missed (1): cardiomegaly" in planted and "✗ False (1): splenomegaly" in planted
    sentences = [element["text"] for element in page.find("span", **{"class": "sentence false"})]
    assert sum(text.startswith("Spleen: The spleen is enlarged to 140 mm.") for text in sentences) == 1


def test_texts_stay_texts(page: Page) -> None:
    assert '<script>alert("x")</script> & so on' in article(page, "<planted>")
    assert not page.find("script") and not page.find("odd") and not page.find("model")
    assert "no <model> was given" in page.find("section", id="left-out")[0]["text"]
    plot = page.find("section", id="plots")[0]["text"]
    assert plot.count("rare $x_1$ & <odd>") == 2  # in the plot and in its table


def test_missing_image_is_said(page: Page) -> None:
    assert "The image of this case is missing" in article(page, "<planted>")
    assert "The image of this case is missing" not in article(page, "case-0")
    assert len(page.find("img")) == 5 * 6  # 5 of the 6 cases shown, two windows of three planes


def test_unreadable_image_is_said_without_its_name(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "secret_name.nii.gz").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        text = write_html_page(folder).read_text(encoding="utf-8")
    assert text.count("The image of this case can&#39;t be read") == 5
    assert "secret" not in text and "secret" not in caplog.text and "can't be read" in caplog.text


def test_pictures_follow_the_corrected_header(folder: Path) -> None:
    image = folder / "secret_name.nii.gz"
    as_read = ct_pictures(image)["soft tissue"]
    # X and Y to the right and to posterior, where the file says left and anterior in LPS
    turned = ct_pictures(image, {"image_orientation": [1, 0, 0, 0, 1, 0], "rescale_intercept": -5000})["soft tissue"]
    spaced = ct_pictures(image, {"spacing": [4, 4, 8]})["soft tissue"]
    assert [picture.data_uri for picture in turned] != [picture.data_uri for picture in as_read]
    assert spaced[1].height / spaced[1].width > as_read[1].height / as_read[1].width


def test_images_can_be_left_out(folder: Path) -> None:
    page = Page(write_html_page(folder, images=False).read_text(encoding="utf-8"))
    assert not page.find("img") and "Images are left out" in article(page, "case-0")


def test_table_has_values_differences_and_verdicts(page: Page) -> None:
    table = page.find("section", id="metrics")[0]["text"]
    assert "0.700 0.600 to 0.800" in table and "+0.300 +0.200 to +0.400, p < 0.001 ▲ model higher" in table
    assert "p = 0.600 ≈ no difference shown" in table and "−0.200 −0.300 to −0.100, p = 0.010 ▼ model lower" in table
    assert table.index("What is said") < table.index("GREEN") < table.index("How it is worded") < table.index("ROUGE-L")


def test_left_out_cases_and_settings_are_named(page: Page) -> None:
    left_out = page.find("section", id="left-out")[0]["text"]
    assert "case-5" in left_out and "case-77" in left_out and "case-4" in left_out and "BERTScore" in left_out
    assert "case-66" in left_out
    settings = page.find("section", id="settings")[0]["text"]
    assert "preprocessing.spacing" in settings and "[5.0, 4.0, 4.0]" in settings and "versions.monai" in settings


def test_controls_of_a_shown_case_are_there(page: Page) -> None:
    text = article(page, "<planted>")
    assert "Zeroed images" in text and "Shuffled images" in text and "Most frequent report" not in text


def test_the_same_files_give_the_same_bytes(folder: Path, written: Path) -> None:
    assert write_html_page(folder, parse_findings=parse_findings).read_bytes() == written.read_bytes()
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_without_a_parser_findings_are_listed_as_counted(folder: Path) -> None:
    text = article(Page(write_html_page(folder, images=False).read_text(encoding="utf-8")), "<planted>")
    assert "✗ False (1): splenomegaly" in text and "✗ false:" not in text


def test_labels_are_searched_without_a_parser(folder: Path) -> None:
    path = write_html_page(folder, images=False, labels=["spleen is enlarged"])
    assert "spleen is enlarged" in article(Page(path.read_text(encoding="utf-8")), "<planted>")


def _remove(folder: Path) -> None:
    (folder / "metrics.csv").unlink()


def _break_json(folder: Path) -> None:
    (folder / "metrics.json").write_text("{", encoding="utf-8")


def _lose_key(folder: Path) -> None:
    (folder / "metrics.json").write_text('{"runs": []}', encoding="utf-8")


def _lose_line(folder: Path) -> None:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "predictions.jsonl").write_text("\n".join(lines[1:]), encoding="utf-8")


def _lose_report(folder: Path) -> None:
    (folder / "predictions.jsonl").write_text('{"id": "1"}\n', encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_remove, "metrics.csv: does not exist"),
        (_break_json, "metrics.json: is no JSON"),
        (_lose_key, "lacks .'settings', 'cases', 'findings'."),
        (_lose_line, r"predictions.jsonl hasn't: 1 .case-0."),
        (_lose_report, "predictions.jsonl, line 1: expected JSON with id, report and reference"),
    ],
)
def test_spoiled_folders_are_refused(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=message):
        write_html_page(folder)


def test_no_case_to_show_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="num_cases is 0; expected 1 or more"):
        write_html_page(folder, num_cases=0)


def test_failed_judgements_of_controls_are_named(page: Page) -> None:
    rows = [" ".join(row["text"].split()) for row in page.find("tr")]
    assert any(row.startswith("Judgement failed, Zeroed images1Kept out of this") and "case-2" in row for row in rows)
    assert not any(row.startswith("Judgement failed, Shuffled images") for row in rows)
