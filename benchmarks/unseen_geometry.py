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

"""Does the model read volumes on grids that training never had? Finding F1 of the same patients, sampled differently.

Each test case is rendered again with other voxels in the axial plane (training: 2.3 to 4.5 mm), another number of
slices (training: 64 to 112) or another order of the stored axes. Patient, findings and reference stay the same, so
differences are paired. A small finding may be lost on a coarse grid: the share of findings that the new mask still
holds stands beside::

    python benchmarks/unseen_geometry.py --num_cases 50 --output runs/unseen_geometry.json
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fire
import numpy as np
from bundle_model import answer_questions, case_bootstrap, findings_matrix, load_bundle, show, write_figures
from nibabel import Nifti1Image, save
from tqdm import tqdm

from monai_u2.data.phantom import FINDING_LABELS, SPLIT_RANGES, PhantomCase, draw_case, parse_findings, render_case
from monai_u2.exceptions import InputError
from monai_u2.metrics import micro_f1

ORIGINAL = "as drawn"
GEOMETRIES: dict[str, dict[str, Any]] = {
    ORIGINAL: {},
    "1.5 mm in plane": {"in_plane_mm": 1.5},
    "5 mm in plane": {"in_plane_mm": 5.0},
    "40 slices": {"slices": 40},
    "180 slices": {"slices": 180},
    "axes SAR": {"axcodes": "SAR"},
    "axes PSL": {"axcodes": "PSL"},
    "axes ILP": {"axcodes": "ILP"},
}


def regrid(
    case: PhantomCase, in_plane_mm: float | None = None, slices: int | None = None, axcodes: str | None = None
) -> PhantomCase:
    """The same patient in the same field of view, sampled on another grid.

    Args:
        case: the case.
        in_plane_mm: size of a voxel along x and y; the field of view grows to whole voxels.
        slices: number of slices.
        axcodes: order of the stored axes.
    """
    grid = case.grid
    counts, sizes = list(grid.shape), list(grid.spacing)
    if in_plane_mm is not None:
        counts[:2] = [math.ceil(count * mm / in_plane_mm) for count, mm in zip(grid.shape[:2], grid.spacing[:2])]
        sizes[:2] = [in_plane_mm] * 2
    if slices is not None:
        sizes[2] *= counts[2] / slices
        counts[2] = slices
    origin = [
        start + mm * (count - 1) / 2 - new_mm * (new_count - 1) / 2
        for start, mm, count, new_mm, new_count in zip(grid.origin, grid.spacing, grid.shape, sizes, counts)
    ]
    new = replace(
        grid, shape=tuple(counts), spacing=tuple(sizes), origin=tuple(origin), axcodes=axcodes or grid.axcodes
    )
    return replace(case, grid=new)


def write_volume(case: PhantomCase, path: Path) -> list[str]:
    """Render a case to a NIfTI file; returns the labels of the findings that its mask holds."""
    hu, mask, affine = render_case(case)
    volume = Nifti1Image(hu, affine)
    volume.header.set_xyzt_units("mm")
    save(volume, path)
    return [FINDING_LABELS[value - 1] for value in np.unique(mask) if value]


def compare(findings: Mapping[str, Sequence[Sequence[str]]], truth: np.ndarray) -> dict[str, dict[str, Any]]:
    """F1 of each geometry and its paired difference to the original one, with intervals.

    Args:
        findings: geometry -> labels of each case's report.
        truth: boolean `(cases, findings)`.
    """
    predicted = {name: findings_matrix(cases) for name, cases in findings.items()}
    original = predicted[ORIGINAL]

    def difference(draw: np.ndarray, changed: np.ndarray) -> float:
        return micro_f1(changed[draw], truth[draw]) - micro_f1(original[draw], truth[draw])

    table: dict[str, dict[str, Any]] = {}
    for name, matrix in predicted.items():
        f1 = case_bootstrap(lambda draw, matrix=matrix: micro_f1(matrix[draw], truth[draw]), len(truth))
        table[name] = {"f1": f1}
        if name != ORIGINAL:
            table[name]["difference"] = case_bootstrap(lambda draw, matrix=matrix: difference(draw, matrix), len(truth))
            table[name]["same findings"] = float((matrix == original).all(axis=1).mean())
    return table


def to_markdown(table: Mapping[str, Mapping[str, Any]], num_cases: int, num_findings: int) -> str:
    lines = ["| grid | micro finding F1 | difference | same findings named | findings in the mask |"]
    lines.append("|---|---|---|---|---|")
    for name, row in table.items():
        paired = [show(row["difference"]), f"{row['same findings']:.2f}"] if "difference" in row else ["", ""]
        lines.append(f"| {name} | {show(row['f1'])} | {' | '.join(paired)} | {row['in mask']:.3f} |")
    return "\n".join([*lines, "", f"{num_cases} cases, {num_findings} findings; 95 % intervals over cases"])


def unseen_geometry(
    bundle: str = "bundles/u2llm",
    output: str | None = None,
    device: str = "cpu",
    num_cases: int = 50,
    first_case: int = SPLIT_RANGES["test"][0],
    difficulty: str = "default",
) -> None:
    """Print the table of a bundle's model on phantoms that are rendered here.

    Args:
        bundle: folder of the bundle.
        output: JSON file for the table and the reports.
        device: where the model runs.
        num_cases: number of cases.
        first_case: number of the first case.
        difficulty: how hard the phantoms are to read.
    """
    logging.disable(logging.WARNING)
    if num_cases < 1:
        raise InputError(f"num_cases is {num_cases}; expected a number of at least 1")
    parser = load_bundle(bundle, device)
    question = parser.get_parsed_content("question")
    cases = [draw_case(first_case + i, difficulty) for i in range(num_cases)]
    reports: dict[str, list[str]] = {name: [] for name in GEOMETRIES}
    in_mask = dict.fromkeys(GEOMETRIES, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii"
        for case in tqdm(cases, desc="cases"):
            for name, change in GEOMETRIES.items():
                in_mask[name] += len(write_volume(regrid(case, **change), path))
                reports[name] += answer_questions(parser, path, [question])
    truth = findings_matrix([case.labels for case in cases])
    table = compare({name: [parse_findings(text) for text in texts] for name, texts in reports.items()}, truth)
    for name, row in table.items():
        row["in mask"] = in_mask[name] / max(int(truth.sum()), 1)
    print(to_markdown(table, num_cases, int(truth.sum())))
    write_figures(output, {"cases": [case.number for case in cases], "table": table, "reports": reports})


if __name__ == "__main__":
    fire.Fire(unseen_geometry)
