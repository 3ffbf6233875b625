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

"""Two runs over the same cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_u2.evaluation.results import format_difference, format_number, library_versions, plain
from monai_u2.evaluation.scoring import ReportScorer, paired_statistics
from monai_u2.metrics.cases import case_kind, match_cases
from monai_u2.metrics.significance import compare_runs

_KEYS = ("first", "second", "difference", "low", "high", "p_value", "p_holm")


def compare_reports(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]],
    scorers: tuple[ReportScorer, ReportScorer],
) -> dict[str, Any]:
    """Compare two runs by all metrics: paired permutation test, corrected for their number (Holm). A case that lacks a
    judgement in one run is kept out of both runs' mean.

    Args:
        first: objects with `id` and `report`.
        second: likewise, of the same ids.
        references: see :func:`monai_u2.evaluation.evaluate_reports`.
        scorers: how each run is scored; they differ in tables of labels alone.

    Returns:
        `settings`, `cases` and `metrics` (name -> both numbers, difference, its interval, p-values), JSON types.

    Raises:
        InputError: when the runs, or runs and references, are of different cases, or as the scorers say.
    """
    matched = [match_cases(run, references) for run in (first, second)]
    kinds_by_id = {str(entry["id"]): case_kind(entry) for entry in references}
    kinds = [kinds_by_id[case] for case in matched[0].ids]
    scores = [scorer(cases, kinds) for scorer, cases in zip(scorers, matched)]
    scorer = scorers[0]
    compared = compare_runs(*paired_statistics(*scores), matched[0].patients, **scorer.sampling)
    return {
        "settings": {
            **scorer.sampling,
            "judge": None if scorer.judge is None else f"{scorer.judge.name} {scorer.judge.version}",
            "bertscore": scorer.bertscore_settings,
            "versions": library_versions(scorer),
        },
        "cases": {
            "scored": len(kinds),
            "patients": len(set(matched[0].patients)),
            "missing_references": matched[0].missing_references,
            "empty_reports": [cases.empty_reports for cases in matched],
            "other_scripts": [cases.other_scripts for cases in matched],
            "other_languages": [cases.other_languages for cases in matched],
            "failed_judgements": [score.failed_judgements for score in scores],
            "bertscore_truncated": [score.bertscore_truncated for score in scores],
            "unparsable_answers": [score.unparsable_answers for score in scores],
            "left_out_metrics": scores[0].left_out,
        },
        "metrics": {name: {key: plain(getattr(row, key)) for key in _KEYS} for name, row in compared.items()},
    }


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """A comparison as a Markdown table."""
    lines = ["| | first | second | difference | p | p (Holm) |", "|---|---|---|---|---|---|"]
    for name, row in comparison["metrics"].items():
        numbers = [format_number(row["first"]), format_number(row["second"]), format_difference(row)]
        numbers += ["–" if row[key] is None else f"{row[key]:.4f}" for key in ("p_value", "p_holm")]
        lines.append(f"| {name} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)
