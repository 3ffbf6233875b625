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

"""Phantom reports in other words, as different radiologists would write them: for tests."""

from __future__ import annotations

import random
from collections.abc import Mapping

from monai_u2.data.phantom import draw_case, write_report
from monai_u2.data.phantom.findings import PhantomFinding

_STATED: Mapping[str, tuple[str, ...]] = {
    "lung nodule": (
        "The {place} contains a nodule of {size} mm.",
        "Nodule measuring {cm} cm in the {place}.",
        "Within the {place}, a nodule with a diameter of {size} mm is identified.",
    ),
    "consolidation": (
        "The {place} shows a consolidation of {size} mm.",
        "Airspace opacity of {size} mm in the {place}, in keeping with consolidation.",
        "An area of consolidation, {cm} cm in size, is present in the {place}.",
    ),
    "pleural effusion": (
        "{severity} effusion in the {place} pleural space.",
        "The {place} pleural cavity contains a {severity} amount of fluid.",
        "On the {place}, a {severity} pleural effusion is present.",
    ),
    "cardiomegaly": ("Cardiomegaly is present.", "Enlarged cardiac silhouette.", "The size of the heart is increased."),
    "aortic aneurysm": (
        "The abdominal aorta shows an aneurysm of {size} mm.",
        "Abdominal aortic aneurysm measuring {cm} cm.",
        "The abdominal aorta is dilated to {size} mm.",
    ),
    "hypodense liver lesion": (
        "The {place} of the liver harbors a hypodense lesion of {size} mm.",
        "Hypoattenuating lesion, {size} mm, in the {place} of the liver.",
        "A low-density hepatic lesion of {cm} cm lies in the {place}.",
    ),
    "hyperdense liver lesion": (
        "The {place} of the liver harbors a hyperdense lesion of {size} mm.",
        "Hyperattenuating lesion, {size} mm, in the {place} of the liver.",
        "A high-density hepatic lesion of {cm} cm lies in the {place}.",
    ),
    "splenomegaly": (
        "Splenomegaly with a length of {size} mm.",
        "The spleen measures {size} mm and is enlarged.",
        "There is splenic enlargement to {cm} cm.",
    ),
    "kidney stone": (
        "The {place} kidney contains a calculus of {size} mm.",
        "{size} mm stone on the {place} in the renal collecting system.",
        "A renal stone of {cm} cm is noted on the {place}.",
    ),
    "hydronephrosis": (
        "The {place} kidney shows {severity} hydronephrosis.",
        "{severity} dilatation of the {place} renal collecting system.",
        "There is hydronephrosis of a {severity} degree on the {place}.",
    ),
    "renal cyst": (
        "The {place} kidney has a cyst of {size} mm.",
        "{place}-sided renal cyst of {size} mm.",
        "A cyst, {cm} cm, arises from the {place} kidney.",
    ),
    "vertebral fracture": (
        "{severity} compression fracture of a vertebra in the {place}.",
        "In the {place}, one vertebra shows a {severity} fracture.",
        "A vertebral body of the {place} has a {severity} fracture.",
    ),
}
_NORMAL: Mapping[str, tuple[str, ...]] = {
    "The lungs are clear.": (
        "Both lungs are clear.",
        "The lungs show no nodule, mass or consolidation.",
        "The lungs are free of focal opacities.",
        "No pulmonary abnormality.",
    ),
    "No pleural effusion.": (
        "The pleural spaces are free of effusion.",
        "Pleural effusion is absent.",
        "There is no evidence of pleural fluid.",
        "A pleural effusion is not seen.",
    ),
    "The heart is normal in size.": (
        "Heart size is within normal limits.",
        "The heart is not enlarged.",
        "No cardiomegaly.",
        "Normal cardiac size without enlargement.",
    ),
    "The aorta is normal in caliber.": (
        "The aorta is not dilated.",
        "No aortic aneurysm.",
        "Normal diameter of the aorta, no dilatation.",
    ),
    "The liver is unremarkable.": (
        "The liver appears normal, no focal lesion.",
        "No hypodense or hyperdense lesion in the liver.",
        "The hepatic parenchyma is homogeneous and normal.",
    ),
    "The spleen is normal in size.": (
        "The spleen is not enlarged.",
        "Normal splenic size.",
        "There is no splenomegaly, and the spleen is normal.",
    ),
    "The kidneys are unremarkable.": (
        "Both kidneys are normal.",
        "The kidneys are without stone, cyst or hydronephrosis.",
        "No stone, cyst or hydronephrosis is seen in either kidney.",
    ),
    "No fracture is seen.": (
        "There is no evidence of a fracture.",
        "The vertebrae are intact.",
        "Bones without fracture.",
    ),
    "Normal CT of the chest and abdomen.": (
        "Unremarkable CT of the chest and abdomen.",
        "No abnormality in the chest or abdomen.",
    ),
}


def source_and_paraphrase(number: int) -> tuple[str, str]:
    """The report of a case, and the same in other words."""
    case, draws = draw_case(number), random.Random(number)
    report = write_report(case)
    reworded = {"FINDINGS": "FINDINGS:", "IMPRESSION": "IMPRESSION:"}
    for sentence in report.sentences:
        said = [_stated(case.findings[index], draws, sentence["section"]) for index in sentence["findings"]]
        text = " ".join(said) or draws.choice(_NORMAL[sentence["text"]])
        reworded[sentence["section"]] += f" {text}"
    return report.text, "\n".join(reworded.values())


def _stated(finding: PhantomFinding, draws: random.Random, section: str) -> str:
    size = max(5, int((finding.size_mm or 0) / 5.0 + 0.5) * 5)  # as reports give it
    values = {"size": size, "cm": f"{size / 10:g}", "place": finding.location, "severity": finding.severity}
    patterns = _STATED[finding.kind]
    text = (patterns[0] if section == "IMPRESSION" else draws.choice(patterns)).format(**values)
    return text[0].upper() + text[1:]
