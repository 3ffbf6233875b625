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

"""What is in a file of records: counts, lengths of the answers, geometry of the images, findings, as numbers and as a
plot."""

from __future__ import annotations

import os
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_u2.data.check_images import read_geometry
from monai_u2.data.image_processes import map_in_processes
from monai_u2.data.language import count_words
from monai_u2.data.records import HEADER_KEYS, group_by_image, load_records, question_kind

AXES = ("left_right", "front_back", "head_foot")
"""Names of the patient's axes, in whose order spacings and extents stand."""

_BINS = 20
_SHOWN_FINDINGS = 20


def record_statistics(path: str | Path, *, workers: int = 1, progress: bool = False) -> dict[str, Any]:
    """Count what a file of records holds; of NIfTI images only the header is read.

    Args:
        path: a JSON Lines file of records.
        workers: processes that read images; 0 or 1 for this process alone.
        progress: show a progress bar.

    Returns:
        JSON values: ``num_records``, ``num_images``, ``num_patients`` (None where no record has ``patient``); ``kinds``
        (kind of question -> records); ``answer_words`` (kind -> distribution); ``spacing_mm`` and ``extent_mm`` (one
        of :data:`AXES` -> distribution); ``findings`` (label -> images), ``findings_per_image`` (number of findings ->
        images), ``num_images_without_findings_key``; ``unreadable``, dicts of ``image`` (the file's name) and
        ``reason``. A distribution has ``count``, ``mean``, ``quartiles`` (five numbers, from the least to the
        greatest), ``edges`` and ``histogram``.

    Raises:
        InputError: as :func:`~monai_u2.data.load_records` and :func:`~monai_u2.data.group_by_image` do.
    """
    from tqdm import tqdm

    records = load_records(path)
    cases = group_by_image(records)
    words = defaultdict(list)
    for record in records:
        words[question_kind(record)].append(count_words(record["answer"]))
    geometry: list[dict[str, Any]] = [{}] * len(cases)
    tasks = [(case["image"], {key: case[key] for key in HEADER_KEYS if key in case}) for case in cases]
    with tqdm(total=len(tasks), desc="stats", unit="image", disable=not progress) as bar:
        for index, measured in map_in_processes(read_geometry, tasks, workers):
            geometry[index] = measured
            bar.update()
    readable = [measured for measured in geometry if "reason" not in measured]
    labeled = [case["findings"] for case in cases if "findings" in case]
    patients = {str(case["patient"]) for case in cases if case.get("patient") not in (None, "")}
    return {
        "num_records": len(records),
        "num_images": len(cases),
        "num_patients": len(patients) or None,
        "kinds": {kind: len(counts) for kind, counts in words.items()},
        "answer_words": {kind: _distribution(counts) for kind, counts in words.items()},
        **{key: _by_axis([entry[key] for entry in readable]) for key in ("spacing_mm", "extent_mm")},
        "findings": dict(Counter(label for labels in labeled for label in labels).most_common()),
        "findings_per_image": {str(number): images for number, images in sorted(Counter(map(len, labeled)).items())},
        "num_images_without_findings_key": len(cases) - len(labeled),
        "unreadable": [
            {"image": Path(case["image"]).name, **measured}
            for case, measured in zip(cases, geometry)
            if "reason" in measured
        ],
    }


def plot_statistics(statistics: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the statistics: lengths of the reports, kinds, spacings, extents and findings.

    Args:
        statistics: as :func:`record_statistics` returns them.
        path: PNG file; it appears whole or not at all.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    (kinds, words, spacing), (findings, numbers, extent) = figure.subplots(2, 3)
    kind = "report" if "report" in statistics["kinds"] else next(iter(statistics["kinds"]))
    _draw_histogram(words, {None: statistics["answer_words"][kind]})
    words.set(title=f"{statistics['kinds'][kind]} answers of the kind {kind}", xlabel="words", ylabel="answers")
    _draw_bars(kinds, statistics["kinds"])
    kinds.set(title=f"{statistics['num_records']} records of {statistics['num_images']} images", xlabel="records")
    shown = dict(list(statistics["findings"].items())[:_SHOWN_FINDINGS])
    _draw_bars(findings, shown)
    more = len(statistics["findings"]) - len(shown)
    findings.set(title="findings" + (f" (the most frequent; {more} more)" if more else ""), xlabel="images")
    for axes, key, label in ((spacing, "spacing_mm", "voxel size, mm"), (extent, "extent_mm", "extent, mm")):
        _draw_histogram(axes, {axis.replace("_", "–"): statistics[key][axis] for axis in AXES})
        axes.set(title=f"{statistics[key][AXES[0]]['count']} images read", xlabel=label, ylabel="images")
        if statistics[key][AXES[0]]["count"]:
            axes.legend()
    per_image = {int(number): images for number, images in statistics["findings_per_image"].items()}
    numbers.bar_label(numbers.bar(list(per_image), list(per_image.values())))
    numbers.margins(y=0.1)
    title = f"{sum(per_image.values())} of {statistics['num_images']} images have the key 'findings'"
    numbers.set(xlabel="findings of an image", ylabel="images", title=title)
    for axis in (words.yaxis, kinds.xaxis, findings.xaxis, spacing.yaxis, extent.yaxis, numbers.xaxis, numbers.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=80)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _by_axis(triples: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Describe each axis, all with the same bins."""
    numbers = [mm for triple in triples for mm in triple]
    limits = (min(numbers), max(numbers)) if numbers else None
    return {axis: _distribution([triple[place] for triple in triples], limits) for place, axis in enumerate(AXES)}


def _distribution(values: Sequence[float], limits: tuple[float, float] | None = None) -> dict[str, Any]:
    if not values:
        return {"count": 0, "mean": None, "quartiles": None, "edges": [], "histogram": []}
    low, high = limits or (min(values), max(values))
    histogram, edges = np.histogram(values, bins=_BINS, range=(low, high if high > low else low + 1))
    return {
        "count": len(values),
        "mean": round(float(np.mean(values)), 4),
        "quartiles": [round(float(value), 4) for value in np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0])],
        "edges": [round(float(edge), 4) for edge in edges],
        "histogram": histogram.tolist(),
    }


def _draw_histogram(axes: Any, distributions: Mapping[str | None, Mapping[str, Any]]) -> None:
    alone = len(distributions) == 1
    for (name, distribution), style in zip(distributions.items(), ("-", "--", ":")):  # in-plane sizes are often equal
        if distribution["count"]:
            edges = distribution["edges"]
            axes.stairs(distribution["histogram"], edges, fill=alone, label=name, linewidth=2, linestyle=style)


def _draw_bars(axes: Any, counts: Mapping[str, int]) -> None:
    axes.bar_label(axes.barh([name.replace("_", " ") for name in counts], list(counts.values())), padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.15)
