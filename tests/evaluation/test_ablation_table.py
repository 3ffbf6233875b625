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
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from monai_u2.evaluation import compare_configs
from monai_u2.evaluation.ablation import Ablation, Run
from monai_u2.evaluation.ablation_table import csv_table, markdown_table, mean_over, read_scores, table_of, write_table
from monai_u2.exceptions import InputError
from monai_u2.metrics import (
    bootstrap_intervals,
    collapse_diagnostics,
    compare_runs,
    crg_score,
    f1_statistic,
    macro_f1,
    mean_statistic,
    micro_f1,
)

LABELS = ["nodule, left", "nodule, right", "cyst"]
CASES = 40
THERE = np.random.default_rng(0).random((CASES, 3)) < 0.4


def named(seed: int, errors: float) -> np.ndarray:
    """What a run names: what is there, with so many errors."""
    return THERE ^ (np.random.default_rng([1, seed]).random((CASES, 3)) < errors)


def write_run(
    folder: Path, found: np.ndarray, *, steps: int = 30, cases: int = CASES, data: str = "a", question: bool = False
) -> Path:
    """What training and evaluation write, of a run that names these findings; two cases a patient."""
    texts = [[";".join(label for label, there in zip(LABELS, row) if there) for row in part] for part in (found, THERE)]
    rows = []
    for case in range(cases):
        row = {"id": f"case {case}", "patient": f"patient {case // 2}", "rougeL": (found[case] == THERE[case]).mean()}
        rows.append(row | {"findings_named": texts[0][case], "findings_there": texts[1][case]})
    rows[0]["rougeL"] = ""  # a case without a score
    training, evaluation = folder / "training", folder / "evaluation"
    for part in (training, evaluation):
        part.mkdir(parents=True)
    (training / f"checkpoint_step={steps}.pt").touch()
    (training / f"checkpoint_step={steps - 10}.pt").touch()
    (training / "model.pt").write_bytes(b"weights")
    (training / "run.json").write_text(json.dumps({"sha256": {"train_records": data}}))
    collapse = collapse_diagnostics(texts[0])
    model = {
        "name": "model",
        "metrics": {name: {"value": None, "low": 0, "high": 1} for name in ("rougeL", "micro_f1", "corpus_bleu1")},
        "collapse": {"distinct": collapse.distinct, "words_quantiles": [1.0, 2.0], "findings_per_normal_case": None},
    }
    settings = {"model_sha256": hashlib.sha256(b"weights").hexdigest()}
    runs = [{**model, "name": "zeroed_images"}, model]
    content = {"settings": settings, "runs": runs, "findings": dict.fromkeys(LABELS, {})}
    (evaluation / "metrics.json").write_text(json.dumps(content))
    with (evaluation / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    predictions = [
        {"id": row["id"], "report": text, "reference": reference, "kind": "report"}
        for row, text, reference in zip(rows, *texts)
    ]
    if question:
        predictions[-1]["kind"] = "side"
    (evaluation / "predictions.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in predictions))
    return folder


def scores_of(folder: Path, **errors: float) -> dict:
    """Two seeds of each config."""
    return {
        name: {seed: read_scores(write_run(folder / name / f"seed_{seed}", named(seed, e))) for seed in (0, 1)}
        for name, e in errors.items()
    }


def test_numbers_are_read_from_what_a_run_wrote(tmp_path: Path) -> None:
    scores = read_scores(write_run(tmp_path, named(0, 0.2)))
    assert scores.steps == 30 and scores.records == {"train_records": "a"}
    assert len(scores.references) == CASES and len(set(scores.patients)) == CASES // 2
    pair = named(0, 0.2), THERE
    assert scores.statistics["micro_f1"].value == pytest.approx(micro_f1(*pair))
    assert scores.statistics["macro_f1"].value == pytest.approx(macro_f1(*pair))
    assert scores.statistics["crg"].value == pytest.approx(crg_score(*pair))
    assert scores.statistics["rougeL"].value == pytest.approx((pair[0] == THERE)[1:].mean())
    assert "corpus_bleu1" not in scores.statistics and "distinct" not in scores.statistics
    assert 0 < scores.values["distinct"] <= 1 and np.isnan(scores.values["findings_per_normal_case"])


def test_an_evaluation_of_an_earlier_model_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, named(0, 0.2))
    (folder / "training" / "model.pt").write_bytes(b"trained again")
    with pytest.raises(InputError, match="evaluation: is of another model than that in"):
        read_scores(folder)


def test_line_separators_in_a_report_are_no_ends_of_lines(tmp_path: Path) -> None:
    folder = write_run(tmp_path, named(0, 0.2))
    file = folder / "evaluation" / "predictions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["report"] = "Normal.\u2028No effusion.\x85"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    assert len(read_scores(folder).references) == CASES


def test_a_first_config_without_runs_is_no_reference(tmp_path: Path) -> None:
    scores = {"failed": {}, **scores_of(tmp_path, good=0.1, bad=0.3)}
    with pytest.raises(InputError, match="reference failed has no finished run"):
        compare_configs(scores, metrics=["micro_f1"])
    assert compare_configs(scores, metrics=["micro_f1"], reference="good")["settings"]["reference"] == "good"


def test_findings_are_of_the_cases_that_ask_for_a_report(tmp_path: Path) -> None:
    scores = read_scores(write_run(tmp_path, named(0, 0.2), question=True))
    pair = named(0, 0.2)[:-1], THERE[:-1]
    assert scores.statistics["micro_f1"].value == pytest.approx(micro_f1(*pair))
    assert scores.statistics["crg"].value == pytest.approx(crg_score(*pair))


def test_a_resample_draws_a_patient_of_all_seeds_together(tmp_path: Path) -> None:
    """The mean over seeds of a mean over cases is that of the cases' means over seeds, also in each resample."""
    scores = scores_of(tmp_path, few=0.1)
    table = compare_configs(scores, metrics=["rougeL"], num_samples=500, seed=3)
    row = table["configs"][0]["metrics"]["rougeL"]
    right = np.mean([(named(seed, 0.1) == THERE).mean(axis=1) for seed in (0, 1)], axis=0)
    right[0] = np.nan
    patients = [case // 2 for case in range(CASES)]
    expected = bootstrap_intervals({"m": mean_statistic(right)}, patients, num_samples=500, seed=3)["m"]
    assert [row[key] for key in ("value", "low", "high")] == pytest.approx(
        [expected.value, expected.low, expected.high]
    )
    values = [scores["few"][seed].statistics["rougeL"].value for seed in (0, 1)]
    assert (row["lowest"], row["highest"]) == (min(values), max(values)) and row["lowest"] < row["highest"]


def test_the_mean_of_f1s_is_not_the_f1_of_all(tmp_path: Path) -> None:
    statistics = [f1_statistic(named(seed, error), THERE) for seed, error in ((0, 0.05), (1, 0.5))]
    both = mean_over(statistics)
    assert both.value == pytest.approx(np.mean([one.value for one in statistics]))
    stacked = micro_f1(np.concatenate([named(0, 0.05), named(1, 0.5)]), np.concatenate([THERE, THERE]))
    assert abs(both.value - stacked) > 1e-3


def test_differences_to_the_reference_are_corrected_for_the_number_of_configs(tmp_path: Path) -> None:
    scores = scores_of(tmp_path, none=0.0, few=0.03, many=0.4)
    table = compare_configs(scores, metrics=["micro_f1"], reference="few", num_samples=400, seed=1)
    rows = {config["name"]: config["metrics"]["micro_f1"]["difference"] for config in table["configs"]}
    assert rows["few"] is None and rows["many"]["difference"] < 0 < rows["none"]["difference"]
    sides = [
        {"m": mean_over([scores[name][seed].statistics["micro_f1"] for seed in (0, 1)])} for name in ("many", "few")
    ]
    expected = compare_runs(*sides, scores["few"][0].patients, num_samples=400, seed=1)["m"]
    keys = ("difference", "low", "high", "p_value")
    assert [rows["many"][key] for key in keys] == [getattr(expected, key) for key in keys]
    smaller, larger = sorted((rows["many"], rows["none"]), key=lambda row: row["p_value"])
    assert smaller["p_holm"] == pytest.approx(2 * smaller["p_value"])
    assert larger["p_holm"] == pytest.approx(max(larger["p_value"], 2 * smaller["p_value"]))


def test_shares_of_all_cases_have_no_interval(tmp_path: Path) -> None:
    table = compare_configs(scores_of(tmp_path, few=0.1, many=0.4), metrics=["distinct"], num_samples=50)
    rows = [config["metrics"]["distinct"] for config in table["configs"]]
    assert rows[0]["low"] is None and rows[1]["difference"] is None
    assert rows[0]["value"] == pytest.approx(np.mean(list(rows[0]["seeds"].values())))


def test_seeds_that_one_config_lacks_stay_out_of_its_difference(tmp_path: Path) -> None:
    scores = scores_of(tmp_path, few=0.1, many=0.4)
    del scores["many"][1]
    scores["lost"] = {}
    table = compare_configs(scores, metrics=["micro_f1"], num_samples=50)
    first, second = table["configs"]
    assert (first["seeds"], second["seeds"]) == ([0, 1], [0])
    row = second["metrics"]["micro_f1"]["difference"]
    assert row["seeds"] == [0]
    expected = micro_f1(named(0, 0.4), THERE) - micro_f1(named(0, 0.1), THERE)
    assert row["difference"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"cases": 30}, "many, seed 0: was evaluated on other cases than few, seed 0"),
        ({"steps": 50}, r"trained for other steps \(50, not 30\)"),
        ({"data": "b"}, "trained on other records"),
    ],
)
def test_runs_of_unequal_budget_are_refused(tmp_path: Path, other: dict, message: str) -> None:
    folders = [write_run(tmp_path / "a", named(0, 0.1)), write_run(tmp_path / "b", named(0, 0.4), **other)]
    scores = {name: {0: read_scores(folder)} for name, folder in zip(("few", "many"), folders)}
    with pytest.raises(InputError, match=message):
        compare_configs(scores)


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    scores = scores_of(tmp_path, few=0.1)
    with pytest.raises(InputError, match="metrics: blue isn't among what was evaluated; expected some of rougeL"):
        compare_configs(scores, metrics=["blue"])
    with pytest.raises(InputError, match="reference x has no finished run; expected one of few"):
        compare_configs(scores, metrics=["rougeL"], reference="x")
    with pytest.raises(InputError, match="no run is finished"):
        compare_configs({"few": {}})


def test_the_table_says_what_was_compared(tmp_path: Path) -> None:
    configs = {name: tmp_path / f"{name}.json" for name in ("few", "many", "lost")}
    for name, file in configs.items():
        file.write_text(json.dumps({"_comment": "x", "network#errors": name}))
    runs = [
        Run(name, seed, write_run(tmp_path / "runs" / name / f"seed_{seed}", named(seed, errors)))
        for name, errors in (("few", 0.05), ("many", 0.4))
        for seed in (0, 1)
    ]
    runs.append(Run("lost", 0, tmp_path, "training failed"))
    task = Ablation(configs, [Path("/b/sft.json")], [Path("/b/evaluate.json")], tmp_path, 2, {"max_epochs": 3})
    table = table_of(task, runs, ["micro_f1", "distinct", "findings_per_normal_case"])
    assert table["settings"]["changes"]["many"] == {"network#errors": "many"}
    assert table["settings"]["failed"] == {"lost, seed 0": "training failed"}
    assert table["settings"]["overrides"] == {"max_epochs": 3} and table["settings"]["base"] == ["sft.json"]
    text = markdown_table(table)
    row = table["configs"][1]["metrics"]["micro_f1"]
    cell = f"{row['value']:.3f} ({row['low']:.3f}–{row['high']:.3f}), {row['lowest']:.3f} to {row['highest']:.3f}"
    assert f"| many | 2 | {cell} | " in text
    difference = row["difference"]
    assert f"{difference['difference']:+.3f} ({difference['low']:+.3f} to" in text
    assert '| many | `network#errors` "many" |' in text
    assert "30 training steps each, evaluated on 40 cases of 20 patients" in text
    rows = list(csv.DictReader(io.StringIO(csv_table(table))))
    assert [(r["config"], r["metric"]) for r in rows[:2]] == [("few", "micro_f1"), ("few", "distinct")]
    assert float(rows[3]["p_holm"]) == difference["p_holm"] and rows[0]["difference"] == ""
    write_table(table, tmp_path / "out")
    held = json.loads((tmp_path / "out" / "table.json").read_text())
    assert held["configs"][0]["metrics"]["findings_per_normal_case"]["value"] is None
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"table.md", "table.json", "table.csv"}
