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

"""The page to look at: one HTML file with all that an evaluation's folder holds."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_u2._html import html_environment
from monai_u2.data.records import HEADER_KEYS, write_text_atomically
from monai_u2.evaluation.marked_report import MarkedSentence, mark_report
from monai_u2.evaluation.page_plots import draw_findings, draw_lengths, draw_scores
from monai_u2.evaluation.results import LEADING_METRICS
from monai_u2.exceptions import InputError
from monai_u2.judges.finding_list import FindingList
from monai_u2.metrics.cases import listed_ids
from monai_u2.metrics.collapse import LENGTH_QUANTILES
from monai_u2.metrics.labels import Labeller

PAGE_NAME = "evaluation.html"
RANKING_METRICS: tuple[str, ...] = ("green", "rougeL")
"""By which cases are ranked: the first one that any case has."""

_TEMPLATE = "evaluation.html.j2"
_KEYS = ("settings", "cases", "runs", "findings")
_TEXT_COLUMNS = ("id", "patient", "findings_named", "findings_there")
# what measures words; every other metric measures what is said
_WORD_METRICS = ("rouge", "bleu", "corpus_bleu", "meteor", "bertscore")
_DRAWN_METRICS = ("green", "rougeL", "bleu4", "meteor", "meteor_nosyn", "bertscore")
_TITLES = {
    "green": "GREEN",
    "micro_f1": "Finding F1, micro",
    "macro_f1": "Finding F1, macro",
    "crg": "CRG",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    **{f"bleu{order}": f"BLEU-{order}" for order in range(1, 5)},
    **{f"corpus_bleu{order}": f"BLEU-{order}, corpus" for order in range(1, 5)},
    "bleu1_paper": "BLEU-1, as published scripts",
    "meteor": "METEOR",
    "meteor_nosyn": "METEOR without synonyms",
    "bertscore": "BERTScore",
    "model": "Model",
    "references": "References",
    "zeroed_images": "Zeroed images",
    "shuffled_images": "Shuffled images",
    "swapped_questions": "Swapped questions",
    "most_frequent_report": "Most frequent report",
}
_CONTROLS = {
    "zeroed_images": "the model gets an empty image",
    "shuffled_images": "the model gets another patient's image",
    "swapped_questions": "the answer to another question about the same image",
    "most_frequent_report": "one text for all cases",
}
logger = logging.getLogger(__name__)


def write_html_page(
    output_dir: str | Path,
    *,
    parse_findings: Labeller | None = None,
    labels: Sequence[str] | None = None,
    images: bool = True,
    num_cases: int = 2,
) -> Path:
    """Write `evaluation.html` from an evaluation's `metrics.json`, `metrics.csv` and `predictions*.jsonl`.

    The page needs nothing beside itself: no other file, no other host, no script. It shows cases by their ids, never a
    patient or a path. The same files give the same bytes.

    Args:
        output_dir: the evaluation's folder.
        parse_findings: from a text to the labels that it states, such as
            :func:`monai_u2.data.phantom.parse_findings`; the sentences of the shown cases are marked by it.
        labels: without a parser, the labels to search for, see :class:`~monai_u2.judges.FindingList`. Without both,
            findings are listed below the reports as the metrics counted them, and no sentence is marked.
        images: draw three planes of the shown cases; False reads no image.
        num_cases: number of the best, of the middle, and of the worst cases shown, by the judge's score, else by
            ROUGE-L; ties by id.

    Returns:
        The page's path.

    Raises:
        InputError: when a file is missing or isn't what an evaluation writes, or ``num_cases`` is below 1.
    """
    if num_cases < 1:
        raise InputError(f"num_cases is {num_cases}; expected 1 or more.")
    folder = Path(output_dir)
    if parse_findings is None and labels:
        parse_findings = FindingList(labels)
    evaluation = _Evaluation.read(folder)
    environment = html_environment("monai_u2.evaluation")
    environment.filters |= {"number": _number, "signed": _signed, "p_value": _p_value, "percent": _percent}
    environment.filters["title"] = lambda name: _TITLES.get(name, name.replace("_", " "))
    page = environment.get_template(_TEMPLATE).render(_content(evaluation, parse_findings, images, num_cases))
    path = folder / PAGE_NAME
    write_text_atomically(path, page)
    return path


@dataclass(frozen=True)
class _Evaluation:
    """What the files of an evaluation's folder hold; `rows` are those of `metrics.csv`, `predictions` run -> id ->
    line."""

    summary: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    predictions: dict[str, dict[str, dict[str, Any]]]

    @classmethod
    def read(cls, folder: Path) -> _Evaluation:
        try:
            summary = json.loads(_text(folder / "metrics.json"))
        except json.JSONDecodeError as error:
            raise InputError(f"{folder / 'metrics.json'}: is no JSON ({error}); evaluate again.") from error
        if missing := [key for key in _KEYS if key not in summary]:
            raise InputError(f"{folder / 'metrics.json'}: lacks {missing}; expected {list(_KEYS)}. Evaluate again.")
        rows = {
            row["id"]: _scores(row) for row in csv.DictReader(io.StringIO(_text(folder / "metrics.csv"), newline=""))
        }
        predictions = {"model": _lines(folder / "predictions.jsonl")}
        for run in summary["runs"]:
            path = folder / f"predictions_{run['name']}.jsonl"
            if path.is_file():
                predictions[run["name"]] = _lines(path)
        if lost := [case for case in rows if case not in predictions["model"]]:
            raise InputError(
                f"{folder}: cases of metrics.csv that predictions.jsonl hasn't: {listed_ids(lost)}. Evaluate again."
            )
        return cls(summary, rows, predictions)

    def kind(self, case: str) -> str:
        return str(self.predictions["model"][case].get("kind") or "report")

    def shown(self) -> list[str]:
        """The cases that ask for a report; all where none does."""
        return [case for case in self.rows if self.kind(case) == "report"] or list(self.rows)

    def ranked(self) -> tuple[str, list[str]]:
        """The metric that ranks, and the cases that have it, from the best to the worst."""
        for metric in RANKING_METRICS:
            scores = {case: self.rows[case].get(metric) for case in self.shown()}
            scores = {case: score for case, score in scores.items() if score is not None}
            if scores:
                return metric, sorted(scores, key=lambda case: (-scores[case], case))
        return RANKING_METRICS[-1], []


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: does not exist; expected the folder of an evaluation. Evaluate first.")
    return path.read_text(encoding="utf-8")


def _lines(path: Path) -> dict[str, dict[str, Any]]:
    lines = {}
    for number, text in enumerate(_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            lines[str(line["id"])] = {**line, "report": str(line["report"]), "reference": str(line["reference"])}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: expected JSON with id, report and reference ({error!r}). Evaluate again."
            ) from error
    return lines


def _scores(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of `metrics.csv`: labels as lists, scores as numbers, None where a case has none."""
    values: dict[str, Any] = {}
    for name, text in row.items():
        if name.startswith("findings_"):
            values[name] = [label for label in text.split(";") if label]
        elif name not in _TEXT_COLUMNS:
            number = float(text or "nan")
            values[name] = None if math.isnan(number) else number
    return values


def _content(evaluation: _Evaluation, parse_findings: Labeller | None, images: bool, num_cases: int) -> dict[str, Any]:
    summary, model = evaluation.summary, evaluation.predictions["model"]
    runs = {
        run["name"]: {"metrics": {}, "difference": None, "failed_judgements": [], **run} for run in summary["runs"]
    }  # references have none of them
    metric, ranked = evaluation.ranked()
    cases = {case: _case(evaluation, case, parse_findings) for case in evaluation.rows}
    groups = _choose(ranked, num_cases)
    for chosen in groups.values():
        for case in chosen:
            cases[case] |= _pictures(model[case], images) | _other_reports(evaluation, case, cases, parse_findings)
    names = list(runs["model"]["metrics"])
    lead = next((name for name in LEADING_METRICS if name in names), names[0] if names else None)
    questions = Counter(str(model[case].get("question") or "") for case in evaluation.rows)
    return {
        "settings": summary["settings"],
        "flat_settings": _flat(summary["settings"]),
        "counts": summary["cases"],
        "runs": runs,
        "scored_runs": [name for name, run in runs.items() if run["metrics"]],
        "controls": {name: _CONTROLS.get(name, "") for name, run in runs.items() if run["difference"]},
        "metric_groups": {
            "What is said": [name for name in names if not name.startswith(_WORD_METRICS)],
            "How it is worded": [name for name in names if name.startswith(_WORD_METRICS)],
        },
        "lead": lead,
        "alpha": 1 - summary["settings"]["confidence"],
        "quantiles": LENGTH_QUANTILES,
        "kinds": Counter(evaluation.kind(case) for case in evaluation.rows),
        "drawn": "the cases that ask for a report" if len(evaluation.shown()) < len(evaluation.rows) else "all cases",
        "questions": questions.most_common(),
        "findings": summary["findings"],
        "plots": _plots(evaluation),
        "ranking_metric": metric,
        "ranked": ranked,
        "groups": groups,
        "cases": cases,
        "marked": parse_findings is not None,
    }


def _plots(evaluation: _Evaluation) -> dict[str, Any]:
    """The plots, safe as they are: their texts are escaped by what draws them."""
    from markupsafe import Markup

    rows = [evaluation.rows[case] for case in evaluation.shown()]
    scores = {_TITLES[name]: [row[name] for row in rows if row.get(name) is not None] for name in _DRAWN_METRICS}
    scores = {name: values for name, values in scores.items() if values}
    findings = {
        label: finding
        for label, finding in evaluation.summary["findings"].items()
        if finding["f1"]["value"] is not None
    }
    lines = [evaluation.predictions["model"][case] for case in evaluation.shown()]
    lengths = [[len(line[key].split()) for line in lines] for key in ("report", "reference")]
    return {
        "scores": Markup(draw_scores(scores)) if scores else None,
        "findings": Markup(draw_findings(findings)) if findings else None,
        "lengths": Markup(draw_lengths(*lengths)) if lines else None,
    }


def _choose(ranked: Sequence[str], number: int) -> dict[str, list[str]]:
    """The best, middle and worst cases, none of them twice; with few cases the middle is left out first."""
    best = list(ranked[:number])
    worst = [case for case in ranked[::-1][:number] if case not in best]
    middle = (len(ranked) - 1) / 2
    near = sorted(range(len(ranked)), key=lambda rank: (abs(rank - middle), rank))[:number]
    median = [ranked[rank] for rank in sorted(near) if ranked[rank] not in (*best, *worst)]
    return {"best": best, "median": median, "worst": worst}


def _case(evaluation: _Evaluation, case: str, parse_findings: Labeller | None) -> dict[str, Any]:
    """Scores and findings of a case; `there` and `named` are None where nothing reads findings."""
    row, line = evaluation.rows[case], evaluation.predictions["model"][case]
    there = named = None
    if evaluation.kind(case) == "report":
        there, named = row.get("findings_there"), row.get("findings_named")
        if (there is None or named is None) and parse_findings is not None:
            there, named = (sorted(set(parse_findings(line[key]))) for key in ("reference", "report"))
    content = {
        "scores": {name: value for name, value in row.items() if not name.startswith("findings_")},
        "words": len(line["report"].split()),
        "there": there,
        "named": named,
    }
    if there is not None and named is not None:
        content["matched"] = [label for label in there if label in named]
        content["missed"] = [label for label in there if label not in named]
        content["false"] = [label for label in named if label not in there]
    return content


def _other_reports(
    evaluation: _Evaluation, case: str, cases: Mapping[str, Mapping[str, Any]], parse_findings: Labeller | None
) -> dict[str, Any]:
    """What stands beside a shown case's pictures: question, reference, the model's report, the controls' reports."""
    line, there, named = evaluation.predictions["model"][case], cases[case]["there"] or (), cases[case]["named"] or ()
    controls: dict[str, list[list[MarkedSentence]]] = {}
    for name, lines in evaluation.predictions.items():
        if name != "model" and case in lines:
            report = lines[case]["report"]
            counted = parse_findings(report) if parse_findings is not None else ()
            controls[name] = mark_report(report, parse_findings, counted=set(counted), other=there)
    return {
        "question": line.get("question"),
        "reference": mark_report(line["reference"], parse_findings, counted=there, other=named, wrong="missed"),
        "report": mark_report(line["report"], parse_findings, counted=named, other=there),
        "control_reports": controls,
    }


def _pictures(line: Mapping[str, Any], wanted: bool) -> dict[str, Any]:
    """Pictures of a CT by window, or a note that says why there are none; it never names the file."""
    from monai_u2.evaluation.ct_pictures import WINDOWS, ct_pictures

    pictures, note = {}, None
    image = line.get("image")
    if not wanted:
        note = "Images are left out of this page."
    elif not image:
        note = "The predictions name no image of this case."
    elif not Path(image).exists():
        note = "The image of this case is missing: it is not where the predictions say."
    else:
        try:
            pictures = ct_pictures(image, {key: line[key] for key in HEADER_KEYS if key in line})
        except InputError as error:
            logger.warning("the image of a shown case can't be read (%s)", type(error).__name__)
            note = "The image of this case can't be read; check it with `monai-u2 data check`."
    return {"pictures": pictures, "windows": WINDOWS, "note": note}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one table."""
    rows = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{prefix}{name}.")
        else:
            rows[prefix + name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return rows


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def _p_value(value: float | None) -> str:
    if value is None:
        return "p\u00a0–"
    return "p\u00a0<\u00a00.001" if value < 0.001 else f"p\u00a0=\u00a0{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
