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

"""Miniature replicas of data sets as users download them: the real layouts, column names and traps, around phantoms."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_u2.data import CT_RATE_LABELS

Replica = Callable[..., Path]


@cache
def phantom_lps(number: int) -> tuple[np.ndarray, list[float], str]:
    """A phantom with axes to left, posterior and superior, every second voxel: even HU, spacing in mm, report."""
    import nibabel as nib
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    from monai_u2.data.phantom import draw_case, render_case, write_report

    case = draw_case(number)
    hu, _, affine = render_case(case)
    image = nib.Nifti1Image(hu[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    image = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt("LPS")))
    spacing = [round(float(mm), 4) for mm in image.header.get_zooms()]
    return np.asarray(image.dataobj) // 2 * 2, spacing, write_report(case).text


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.int16), affine), path)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)


def lps_affine(spacing: Sequence[float]) -> np.ndarray:
    return np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])


@pytest.fixture
def ct_rate(tmp_path: Path) -> Replica:
    """CT-RATE, `v1` or `fixed`: train_1 has two reconstructions, train_3 no report, train_4 no chest, train_5 no
    ZSpacing, train_6 no file, train_7 no row in the reports, train_8 an impression that isn't given."""

    def build(version: str = "fixed", slope: float = 2.0, intercept: float = -1024.0, orientation: bool = True) -> Path:
        root = tmp_path / f"CT-RATE {version}"
        names = {
            "train": ["1_a_1", "1_a_2", "2_b_1", "3_a_1", "4_a_1", "5_a_1", "6_a_1", "8_a_1"],
            "valid": ["1_a_1", "2_a_1"],
        }
        for split, numbers in names.items():
            table = "train" if split == "train" else "validation"
            reports, metadata, labels = [], [], []
            for i, number in enumerate(numbers):
                name = f"{split}_{number}.nii.gz"
                hu, spacing, report = phantom_lps(i % 3 if split == "train" else 100_000 + i)
                findings, impression = report.removeprefix("FINDINGS:\n").split("\nIMPRESSION:\n")
                reports.append(
                    {
                        "VolumeName": name,
                        "ClinicalInformation_EN": "Not given.",
                        "Technique_EN": "Contrast-enhanced.",
                        "Findings_EN": "Not given." if number == "3_a_1" else findings,
                        "Impressions_EN": "Not given." if number == "8_a_1" else impression,
                    }
                )
                row = {"VolumeName": name, "Manufacturer": "Phantom", "RescaleIntercept": intercept}
                row |= {"RescaleSlope": slope, "XYSpacing": str(spacing[:2])}
                row |= {"ZSpacing": "" if number == "5_a_1" else spacing[2]}
                row |= {"ImageOrientationPatient": "[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]"} if orientation else {}
                metadata.append(row)
                present = {"Lung nodule", "Hiatal hernia"} if i % 2 else set()
                labels.append({"VolumeName": name, **{label: int(label in present) for label in CT_RATE_LABELS}})
                if number == "6_a_1":
                    continue
                patient = f"{split}_{number.split('_')[0]}"
                folder = "_fixed" if version == "fixed" else ""
                path = root / f"dataset/{split}{folder}/{patient}" / f"{split}_{number.rsplit('_', 1)[0]}" / name
                if version == "fixed":
                    write_nifti(path, hu, lps_affine(spacing))
                else:  # stored values, and a header that says 1 mm and RAS
                    write_nifti(path, (hu - intercept) / slope, np.eye(4))
            if split == "train":
                folder = "train_fixed" if version == "fixed" else "train"
                write_nifti(root / f"dataset/{folder}/train_7/train_7_a/train_7_a_1.nii.gz", hu, lps_affine(spacing))
            write_table(
                root / f"dataset/radiology_text_reports/{table}_reports.csv", reports,
                encoding="utf-8-sig" if split == "train" else "utf-8",
            )  # fmt: skip
            write_table(root / f"dataset/metadata/{table}_metadata.csv", metadata)
            write_table(root / f"dataset/multi_abnormality_labels/{split}_predicted_labels.csv", labels)
            (root / f"dataset/metadata/no_chest_{split}.txt").write_text(f"{split}_4_a_1.nii.gz\n")
        return root

    return build


@pytest.fixture
def amos_mm(tmp_path: Path) -> Replica:
    """AMOS-MM: amos_7008 in both splits, amos_0002 is 4-D with another second volume, amos_0003's findings nest once
    more and lack the pelvis, amos_0004 has an empty report, amos_0005 no file, amos_0009 no report."""

    def build(merged: bool = False) -> Path:
        root = tmp_path / "AMOS-MM"
        names = {
            "training": ["amos_7008", "amos_0001", "amos_0002", "amos_0003", "amos_0004", "amos_0005"],
            "validation": ["amos_7008", "amos_0101"],
        }
        reports: dict[str, Any] = {"name": "AMOS-MM", "licence": "CC BY-ND 4.0"}
        questions: dict[str, Any] = {"name": "AMOS-MM"}
        for split, cases in names.items():
            folder = "imagesTr" if split == "training" else "imagesVa"
            reports[split], questions[split] = [], []
            for i, case in enumerate(cases):
                hu, spacing, _ = phantom_lps(i)
                findings = {"chest": "The lungs are clear.", "abdomen": f"A cyst of {i + 10} mm.", "pelvis": "Normal."}
                impression = "Cyst."
                if case == "amos_0003":
                    findings = {"findings": findings | {"pelvis": ""}}
                if case == "amos_0004":
                    findings, impression = dict.fromkeys(findings, ""), ""
                entry = {"image": f"./{folder}/{case}.nii.gz", "meta": {"spacing": spacing}}
                reports[split].append(entry | {"labels": {"report": {"findings": findings, "impression": impression}}})
                asked = {
                    "question": "Where is the cyst?",
                    "options": {"A": "Liver", "B": "Kidney", "C": "Spleen", "D": "Lung"},
                    "answer": "B",
                    "type": "anatomy",
                }
                questions[split].append(entry | {"labels": {"qa": [asked, asked | {"answer": "E"}]}})
                if case != "amos_0005":
                    array = np.stack([hu, -hu], axis=-1) if case == "amos_0002" else hu
                    write_nifti(root / folder / f"{case}.nii.gz", array, lps_affine(spacing))
        write_nifti(root / "imagesTr/amos_0009.nii.gz", hu, lps_affine(spacing))
        if merged:
            for split in names:
                for report, question in zip(reports[split], questions[split], strict=True):
                    report["labels"] |= question["labels"]
            (root / "dataset.json").write_text(json.dumps(reports))
        else:
            (root / "report_generation_train_val.json").write_text(json.dumps(reports))
            (root / "vqa_train_val.json").write_text(json.dumps(questions))
        return root

    return build


@pytest.fixture
def abdomen_atlas(tmp_path: Path) -> Replica:
    """AbdomenAtlas 3.0 Mini: 3 has no narrative report, 4 no file, 5 is in both split files, 9 has no row."""

    def build() -> Path:
        root = tmp_path / "AbdomenAtlas3.0Mini"
        rows = []
        for i in range(1, 9):
            hu, spacing, report = phantom_lps(i % 3)
            name = f"BDMAP_{i:08d}"
            rows.append(
                {
                    "BDMAP ID": name,
                    "spacing": str(spacing),
                    "shape": str(list(hu.shape)),
                    "sex": "F",
                    "age": 60 if i % 2 else "",
                    "contrast": "portal",
                    "number of liver lesion instances": 0,
                    "structured report": f"Liver: case {i}.",
                    "narrative report": "" if i == 3 else report,
                    "fusion structured report": "",
                    "fusion narrative report": "Liver fused." if i == 1 else "",
                }
            )
            if i != 4:
                write_nifti(root / f"image_only/{name}/ct.nii.gz", hu, lps_affine(spacing))
                write_nifti(root / f"mask_only/{name}/segmentations/liver.nii.gz", hu > 0, lps_affine(spacing))
        write_nifti(root / "image_only/BDMAP_00000009/ct.nii.gz", hu, lps_affine(spacing))
        write_table(root / "AbdomenAtlas3.0MiniWithMeta.csv", rows)
        for split, test in (("IID", (2, 5)), ("OOD", (7, 8))):
            train = [i for i in range(1, 9) if i not in test or i == 5]
            for part, numbers in (("test", test), ("train", train)):
                write_table(
                    root / f"TrainTestIDS/{split}_{part}.csv", [{"BDMAP ID": f"BDMAP_{i:08d}"} for i in numbers]
                )
        return root

    return build


@pytest.fixture
def m3d_cap(tmp_path: Path) -> Replica:
    """M3D-Cap as pictures or prepared arrays: 000002 has a coronal series, 000003 no text, 000004 no pictures,
    000005 is in training and test, 000009 not in the index."""

    def build(format: str = "pictures") -> Path:
        from PIL import Image

        folder = "M3D_Cap" if format == "pictures" else "M3D_Cap_npy"
        root = tmp_path / "M3D-Cap" / folder

        def write(case: str, series: str, number: int) -> dict[str, str]:
            hu, _, report = phantom_lps(number)
            slices = np.clip((hu.transpose(2, 1, 0)[:12] + 160) / 400, 0, 1)
            place = root / "ct_case" / case
            place.mkdir(parents=True, exist_ok=True)
            if case != "000003":
                (place / "text.txt").write_text(report)
            if format == "npy" and case != "000004":
                np.save(place / f"{series}.npy", slices[None].astype(np.float32))
            elif case != "000004":
                (place / series).mkdir()
                for i, plane in enumerate(slices):
                    Image.fromarray((plane * 255).round().astype(np.uint8)).save(place / series / f"{i}.png")
            ending = ".npy" if format == "npy" else ""
            return {"image": f"{folder}/ct_case/{case}/{series}{ending}", "text": f"{folder}/ct_case/{case}/text.txt"}

        train = [write(f"00000{i}", "Axial_non_contrast", i % 3) for i in range(1, 6)]
        train.append(write("000002", "Coronal_bone_window", 1))
        test = [write("000005", "Axial_lung_window", 2)]
        index = {"train": train, "validation": [write("000006", "Axial", 0), write("000007", "Axial", 1)]}
        write("000009", "Axial", 0)
        (root / "M3D_Cap.json").write_text(json.dumps(index | {"test": test}))
        return root.parent

    return build
