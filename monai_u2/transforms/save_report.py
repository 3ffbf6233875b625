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


"""What the user gets: the report as text and JSON, and three planes to look at."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, SaveImaged, Transform

from monai_u2.data.report_text import NOT_FOR_CLINICAL_USE, report_text
from monai_u2.dicom.document import ReportDocument
from monai_u2.dicom.documents import DOCUMENT_FILES, ReportDocuments
from monai_u2.evidence.files import EVIDENCE_FILES, LEVELS, write_evidence
from monai_u2.networks.checkpoints import file_sha256
from monai_u2.transforms.load import OUTSIDE_PLANE

if TYPE_CHECKING:
    from monai_u2.evidence.finder import ReportEvidence

__all__ = ["NOT_FOR_CLINICAL_USE", "SaveReport", "SaveReportd", "draw_overview"]

CUT_OFF = "the report was cut off at its largest length (max_new_tokens)"
# name of a plane, and what stands at the left, right, upper, and lower edge of its picture
PLANES = (
    ("axial", "R", "L", "A", "P"),
    ("coronal", "R", "L", "S", "I"),
    ("sagittal", "A", "P", "S", "I"),
)
SCALE_BAR_MM = 50.0


class SaveReport(Transform):
    """Write a case's ``report.txt``, ``report.json``, and ``overview.png``: all of them, or none.

    They are made in a hidden folder within the case's folder and moved into place at the end; files of an earlier run
    are replaced then.

    Args:
        output_dir: where to write; made if it isn't there.
        model_file: file of the weights; its name and SHA-256 are written.
        model_name: name of the model (``name`` of the bundle's metadata).
        model_version: version of the model (``version`` of the bundle's metadata).
        preprocessing: the values of the preprocessing (spacing in mm, window in HU, ...), plain JSON types.
        window: lowest and highest HU of the overview.
        documents: which documents to write beside these.

    Raises:
        ValueError: ``window`` isn't (lowest, highest).
    """

    def __init__(
        self,
        output_dir: str | Path,
        model_file: str | Path,
        model_name: str,
        model_version: str,
        preprocessing: Mapping[str, Any] | None = None,
        window: Sequence[float] = (-160.0, 240.0),
        documents: ReportDocuments | None = None,
    ) -> None:
        if len(window) != 2 or not window[0] < window[1]:
            raise ValueError(f"window is {window}; expected (lowest HU, highest HU).")
        self.output_dir = Path(output_dir)
        self.model_file = Path(model_file)
        self.model_name = model_name
        self.model_version = model_version
        self.preprocessing = dict(preprocessing or {})
        self.window = (float(window[0]), float(window[1]))
        self.documents = ReportDocuments() if documents is None else documents

    @cached_property
    def model_sha256(self) -> str:
        """SHA-256 of the model file, computed once."""
        return file_sha256(self.model_file)

    def __call__(
        self,
        report: str,
        question: str,
        info: Mapping[str, Any],
        planes: np.ndarray | torch.Tensor,
        pixel_mm: float,
        case: str | None = None,
        evidence: ReportEvidence | None = None,
        source: str | Path = "",
        is_whole: bool = True,
    ) -> Path:
        """Write one case.

        Args:
            report: the generated text.
            question: what the model was asked.
            info: what :py:class:`monai_u2.transforms.LoadCTd` and ``CheckScoped`` say of the case.
            planes: (3, N, N) in HU, from :py:class:`monai_u2.transforms.ExtractPlanes`.
            pixel_mm: size of their pixels in mm.
            case: name of the case's folder within ``output_dir``; None writes into ``output_dir`` itself.
            evidence: where the report comes from; its maps are written too, and its sentences to ``report.json``.
            source: path of the CT, which DICOM documents refer to.
            is_whole: whether the model came to its end; False adds a warning.

        Returns:
            The folder with the files.

        Raises:
            ValueError: ``case`` isn't a plain folder name.
            InputError: what :class:`monai_u2.dicom.ReportDocuments` refuses.
        """
        if case is not None and (case in ("", ".", "..") or Path(case).name != case):
            raise ValueError(f"case is {case!r}; expected a name for a folder, without separators.")
        if not is_whole:
            info = {**info, "warnings": [*info["warnings"], CUT_OFF]}
        series, texts = self.documents.source(source, info["source"], info["series"])
        info = {**info, "warnings": [*info["warnings"], *texts]}
        folder = self.output_dir if case is None else self.output_dir / case
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        writing = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        try:
            text = report_text(report, question, info["warnings"], self.model_name, self.model_version)
            (writing / "report.txt").write_text(text, encoding="utf-8")
            draw_overview(
                planes,
                pixel_mm,
                self.window,
                title=f"{self.model_name} {self.model_version} – {NOT_FOR_CLINICAL_USE}",
                file=writing / "overview.png",
            )
            content = self._content(report, question, info)
            if evidence is not None:
                write_evidence(evidence, writing)
                content |= {"sentences": evidence.sentences, "evidence_levels": LEVELS}
            text = json.dumps(content, indent=4, ensure_ascii=False)
            (writing / "report.json").write_text(text + "\n", encoding="utf-8")
            document = ReportDocument(
                report=report.strip(),
                question=question,
                warnings=info["warnings"],
                is_whole=is_whole,
                model_name=self.model_name,
                model_version=self.model_version,
                model_sha256=self.model_sha256,
                sentences=[] if evidence is None else evidence.sentences,
            )
            self.documents.write(writing, document, series, writing / "overview.png", evidence)
            for name in (*EVIDENCE_FILES, *DOCUMENT_FILES):
                (folder / name).unlink(missing_ok=True)  # of an earlier report
            for file in sorted(writing.iterdir()):
                os.replace(file, folder / file.name)
        except BaseException:
            shutil.rmtree(writing)
            for path in made:
                path.rmdir()
            raise
        writing.rmdir()
        return folder

    def _content(self, report: str, question: str, info: Mapping[str, Any]) -> dict[str, Any]:
        timings = dict(info.get("timings_s", {}))
        if "loaded_at" in info:
            timings["from_loading_to_report"] = round(time.monotonic() - info["loaded_at"], 3)
        return {
            "report": report.strip(),
            "question": question,
            "model": {
                "name": self.model_name,
                "version": self.model_version,
                "file": self.model_file.name,
                "sha256": self.model_sha256,
                "use": NOT_FOR_CLINICAL_USE,
            },
            "preprocessing": self.preprocessing,
            "geometry": {
                key: info[key] for key in ("source", "series", "shape", "spacing_mm", "extent_mm", "orientation")
            },
            "scope": info.get("scope", {}),
            "warnings": list(info["warnings"]),
            "timings_s": timings,
        }


class SaveReportd(MapTransform):
    """Dictionary version of :py:class:`SaveReport`; the data pass through unchanged.

    Args:
        keys: keys of reports (texts).
        output_dir: where to write.
        model_file: file of the weights.
        model_name: name of the model.
        model_version: version of the model.
        preprocessing: the values of the preprocessing, plain JSON types.
        window: lowest and highest HU of the overview.
        question_key: key of the question.
        info_key: key of the case's info: a dict, or its JSON text as :py:func:`monai_u2.data.collate_reports` makes it.
        planes_key: key of the planes; their pixels' size is at ``f"{planes_key}_mm"``.
        case_key: key of the case's name: each case gets its own folder in ``output_dir``. None: there is one case,
            written into ``output_dir`` itself.
        evidence_key: key of the report's evidence; None for none.
        documents: which documents to write beside the report.
        source_key: key of the CT's path, which DICOM documents refer to.
        allow_missing_keys: pass over keys that aren't there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        model_file: str | Path,
        model_name: str,
        model_version: str,
        preprocessing: Mapping[str, Any] | None = None,
        window: Sequence[float] = (-160.0, 240.0),
        question_key: str = "question",
        info_key: str = "info",
        planes_key: str = "planes",
        case_key: str | None = None,
        evidence_key: str | None = None,
        documents: ReportDocuments | None = None,
        source_key: str = "source",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.evidence_key = evidence_key
        self.source_key = source_key
        self.question_key = question_key
        self.info_key = info_key
        self.planes_key = planes_key
        self.case_key = case_key
        self.save = SaveReport(output_dir, model_file, model_name, model_version, preprocessing, window, documents)
        self._only_series: str | None = None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the case.

        Raises:
            ValueError: without ``case_key``, a second scan would replace the report of the first.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            info = json.loads(d[self.info_key]) if isinstance(d[self.info_key], str) else d[self.info_key]
            if self.case_key is None and self._only_series not in (None, info["series"]):
                raise ValueError(
                    f"a second scan would replace the first one's report in {self.save.output_dir}; expected one scan. "
                    "Set case_key, so that each gets its own folder."
                )
            self._only_series = info["series"]
            self.save(
                report=d[key],
                question=d[self.question_key],
                info=info,
                planes=d[self.planes_key],
                pixel_mm=float(d[f"{self.planes_key}_mm"]),
                case=None if self.case_key is None else str(d[self.case_key]),
                evidence=None if self.evidence_key is None else d[self.evidence_key],
                source=d.get(self.source_key, ""),
                is_whole=bool(d.get(f"{key}_whole", True)),
            )
        return d


# apps that write the results themselves, such as MONAI Label, drop what is a SaveImaged
SaveImaged.register(SaveReportd)


def draw_overview(
    planes: np.ndarray | torch.Tensor, pixel_mm: float, window: tuple[float, float], title: str, file: Path
) -> None:
    """Draw the axial, coronal, and sagittal plane beside each other as PNG, at one scale, in radiological convention.

    Args:
        planes: (3, N, N) in HU, from :py:class:`monai_u2.transforms.ExtractPlanes`.
        pixel_mm: size of their pixels in mm.
        window: HU of black and of white.
        title: first line.
        file: where to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures = [trim_plane(plane) for plane in np.asarray(planes)]
    heights = [picture.shape[0] for picture in pictures]
    widths = [picture.shape[1] for picture in pictures]
    figure = Figure(figsize=(12.0, 12.0 * max(heights) / sum(widths) + 1.3), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color="white", fontsize=13)
    figure.supxlabel(
        f"window {window[0]:g} to {window[1]:g} HU; all planes at one scale; "
        "radiological convention (R = the patient's right)",
        color="0.75",
        fontsize=10,
    )
    for axes, picture, (name, left, right, upper, lower) in zip(
        figure.subplots(1, 3, width_ratios=widths), pictures, PLANES, strict=True
    ):
        axes.imshow(picture, cmap="gray", vmin=window[0], vmax=window[1], aspect="equal", interpolation="bilinear")
        axes.set_title(name, color="white", fontsize=12, pad=20)
        axes.set_axis_off()
        for text, x, y, across, along in (
            (left, -0.01, 0.5, "right", "center"),
            (right, 1.01, 0.5, "left", "center"),
            (upper, 0.5, 1.01, "center", "bottom"),
            (lower, 0.5, -0.01, "center", "top"),
        ):
            axes.text(
                x,
                y,
                text,
                transform=axes.transAxes,
                ha=across,
                va=along,
                color="yellow",
                fontsize=13,
                fontweight="bold",
            )
    bar = SCALE_BAR_MM / pixel_mm
    first = figure.axes[0]
    first.plot([4, 4 + bar], [heights[0] - 6] * 2, color="white", linewidth=2)
    first.text(4, heights[0] - 10, f"{SCALE_BAR_MM:g} mm", color="white", fontsize=9, va="bottom")
    figure.savefig(file, dpi=110, facecolor="black")


def trim_plane(plane: np.ndarray) -> np.ndarray:
    """Cut off the empty part of a canvas of :py:class:`monai_u2.transforms.ExtractPlanes`."""
    inside = plane != OUTSIDE_PLANE
    return plane[: inside.any(axis=1).sum(), : inside.any(axis=0).sum()]
