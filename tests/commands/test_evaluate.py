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

import pytest

from monai_u2 import cli
from monai_u2.data.phantom import draw_case, write_report
from tests.command_line import run_command_line

OPTIONS = ("--labels", "phantom", "--judge", "findings", "--num_samples", "50")


def written(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    texts = [write_report(draw_case(n)).text for n in range(8)]
    runs = {
        "references": [{"id": n, "report": text} for n, text in enumerate(texts)],
        "good": [{"id": n, "report": text} for n, text in enumerate([*texts[:6], "", texts[0]])],
        "template": [{"id": n, "report": texts[2]} for n in range(8)],
    }
    return {name: written(tmp_path / f"{name}.jsonl", entries) for name, entries in runs.items()}


def test_evaluate_and_compare(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good", "template"):
        arguments = ["evaluate", files[name], files["references"], "--output", tmp_path / name, *OPTIONS]
        assert run_command_line(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    assert "| micro_f1 | 0." in shown and "empty reports: 1\n" in shown and "without bertscore" in shown
    metrics = json.loads((tmp_path / "good" / "metrics.json").read_text())
    assert metrics["cases"]["empty_reports"] == ["6"]
    assert "matched" in (tmp_path / "good" / "evaluation.html").read_text()
    assert [run["name"] for run in metrics["runs"]] == ["model", "most_frequent_report", "references"]
    arguments = ["evaluate", files["good"], files["references"], "--output", tmp_path / "template", *OPTIONS]
    assert run_command_line(monkeypatch, *arguments) == cli.USER_ERROR
    assert "results were made with another predictions_sha256" in capsys.readouterr().err

    folders = tmp_path / "good", tmp_path / "template"
    assert run_command_line(monkeypatch, "compare", *folders, "--output", tmp_path / "both", *OPTIONS) == 0
    assert "| micro_f1 |" in capsys.readouterr().out
    comparison = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert comparison["metrics"]["micro_f1"]["difference"] > 0

    pair = files["good"], files["template"]
    given = ["compare", *pair, "--references", files["references"], "--output", tmp_path / "again", *OPTIONS]
    assert run_command_line(monkeypatch, *given) == 0
    again = json.loads((tmp_path / "again" / "comparison.json").read_text())
    assert again["metrics"] == comparison["metrics"]


def test_a_case_without_a_reference_is_left_out(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = [json.loads(line) for line in files["references"].read_text().splitlines()]
    written(files["references"], [{"id": 0, "report": None}, *references[1:]])
    evaluate = ["evaluate", files["good"], files["references"], "--output", tmp_path / "out", *OPTIONS]
    assert run_command_line(monkeypatch, *evaluate) == 0
    cases = json.loads((tmp_path / "out" / "metrics.json").read_text())["cases"]
    assert cases["missing_references"] == ["0"] and cases["scored"] == 7


def test_labels_from_tables(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{n},{n % 2},1\n" for n in range(8))
    (tmp_path / "labels.csv").write_text("id,cyst,stone\n" + rows)
    (tmp_path / "named.csv").write_text("id,stone,cyst\n" + "".join(f"{n},1,0\n" for n in range(8)))
    evaluate = ["evaluate", files["good"], files["references"], "--output", tmp_path / "out", "--num_samples", "9"]
    tables = ["--labels", tmp_path / "labels.csv", "--report_labels", tmp_path / "named.csv"]
    assert run_command_line(monkeypatch, *evaluate, *tables) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["findings"]["stone"]["f1"]["value"] == 1.0 and metrics["findings"]["cyst"]["named"] == 0
    assert [run["name"] for run in metrics["runs"]] == ["model", "references"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "gpt"], "--judge is 'gpt'; expected one of none, findings"),
        (["--judge", "findings"], "give --labels, too"),
        (["--labels", "nowhere.csv"], "no such file; expected none, phantom, or a CSV file"),
        (["--labels", "phantom", "--report_labels", "x.csv"], "needs --labels FILE"),
        (["--num_samples", "0"], "--num_samples is 0"),
        (["--bertscore", "no/model"], "is no folder"),
        (["--bertscore_layers", "9"], "needs --bertscore FOLDER"),
        (["--bertscore", ".", "--bertscore_layers", "0"], "--bertscore_layers is 0"),
    ],
)
def test_options_that_do_not_fit(
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    arguments = ["evaluate", files["good"], files["references"], "--output", tmp_path / "out", *options]
    assert run_command_line(monkeypatch, *arguments) == cli.USER_ERROR
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_cases_are_named(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = written(tmp_path / "fewer.jsonl", [{"id": 0, "report": "A."}, {"id": 99, "report": "B."}])
    assert (
        run_command_line(monkeypatch, "evaluate", fewer, files["references"], "--output", tmp_path / "out")
        == cli.USER_ERROR
    )
    assert "Predictions only: 1 (99). References only: 7 (1, 2, 3, 4, 5, 6, 7)" in capsys.readouterr().err


def test_compare_needs_the_same_references(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = files["good"], files["template"]
    assert run_command_line(monkeypatch, "compare", *pair, "--output", tmp_path / "out") == cli.USER_ERROR
    assert "give them with --references" in capsys.readouterr().err
    one = written(tmp_path / "one.jsonl", [{"id": 0, "report": "A.", "reference": "B."}])
    other = written(tmp_path / "other.jsonl", [{"id": 0, "report": "A.", "reference": "C."}])
    assert run_command_line(monkeypatch, "compare", one, other, "--output", tmp_path / "out") == cli.USER_ERROR
    assert "different references: 1 (0)" in capsys.readouterr().err
