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

"""What the clauses of a sentence state, deny or call normal."""

from __future__ import annotations

import pytest

from monai_u2.data.phantom.report import all_sentences
from monai_u2.synthesis.clauses import changed_claims, claimed_sides, denied_words, is_positive
from monai_u2.synthesis.wording import content_words

POSITIVE = [
    "A 5 mm nodule, no calcification.",
    "Lungs are clear, but there is a small effusion.",
    "Mild cardiomegaly; no effusion.",
    "The liver is enlarged, no focal lesion, normal spleen.",
    "A nodule without calcification.",
    "No effusion, but a consolidation is seen.",
    "右肺见结节。",
    "右肺见5mm结节，未见钙化。",
    "无胸腔积液，心脏增大。",
    "左肺下叶不张。",
    "No pleural effusion, mild cardiomegaly.",
    "No effusion, the heart is mildly enlarged.",
    "No effusion or pneumothorax, heart is enlarged.",
    "No pleural effusion and mild cardiomegaly.",
    "The heart is normal and the liver is enlarged.",
    "The heart is enlarged and the liver is normal.",
    "Apart from a 5 mm nodule, the lungs are clear.",
    "The lungs are clear except for a 5 mm nodule.",
    "Liver is unremarkable, with a 5 mm cyst in the left lobe.",
    "The liver is normal with a small cyst.",
    "Normal heart with enlarged aorta.",
    "No interval change in the 5 mm nodule.",
    "The 5 mm nodule has not changed.",
    "The nodule is not calcified.",
    "The lungs are not clear.",
    "A small nodule cannot be excluded.",
    "Pleural effusion: small.",
    "Lungs: There is a 20 mm nodule in the right upper lobe.",
    "Atelectasis in the left lower lobe without evidence of pneumonia.",
    "Multiple hypodense lesions, the largest 2.5 cm, no biliary dilatation.",
    "Mild dilatation of the bile ducts, gallbladder is unremarkable.",
    "Status post cholecystectomy.",
    "Sequelae of infection in both apices, otherwise unremarkable lungs.",
    "The trachea is midline, both main bronchi are patent, and there is mild bronchiectasis.",
    "Hyperinflated lungs free of consolidation.",
    "Abnormal enhancement of the bowel wall.",
    "Heart size is normal; small pericardial effusion.",
    "Emphysematous changes are present in both lungs.",
    "No pneumothorax, 5 mm nodule in the lingula.",
    "The thyroid is unremarkable and a 9 mm cyst is seen in the left kidney.",
    "There are 2-3 mm nonspecific nodules in both lungs, and no infiltration was detected.",
    "Minimal effusion is observed in the pericardial space, heart size is normal.",
    "Sliding type hiatal hernia at the lower end of the esophagus.",
    "Calcific plaques are observed in the aortic arch, its calibration is natural.",
    "双肺散在结节，边界清晰。",
    "肝实质密度不均匀。",
    "Lymph nodes with short axis of 15 mm are seen, not increased in number.",
    "No significant stenosis or aneurysm was detected, and mild atherosclerotic calcifications are present.",
    "There is a 12 x 9 mm hypodense lesion in segment VI, which is not enhancing.",
    "No lymphadenopathy; however, several subcentimeter nodes are seen.",
    "Calcified granuloma in the right lower lobe, unchanged from prior.",
    "Mucosal thickening is present, without air-fluid level.",
    "Minimal pleural effusion on the right and no effusion on the left.",
    "Gallstones without evidence of cholecystitis.",
    "The stomach is distended, wall thickness is normal.",
    "The heart size is increased and there is no pericardial effusion.",
    "Linear atelectasis, otherwise clear lungs.",
    "Right hemithyroidectomy, remaining left lobe is unremarkable.",
    "Hepatic steatosis.",
    "Enlarged spleen measuring 15 cm in length.",
    "There is no change in the size of the 8 mm nodule.",
    "Ground-glass opacities were observed in both lungs, mostly in the lower lobes, no consolidation was detected.",
    "There are calcified atheroma plaques in the aorta and coronary arteries, no aneurysm.",
    "Bilateral simple renal cysts, no hydronephrosis, no stones.",
    "Fatty liver with no focal lesion.",
    "While the lungs are clear, a small effusion is present.",
    "No free air. Mild ascites.",
    "The appendix is dilated to 11 mm with surrounding fat stranding.",
    "Subsegmental atelectasis is noted, not suspicious.",
]
NORMAL = [
    "No nodule, mass or effusion.",
    "Normal heart size without pericardial effusion.",
    "There is no effusion or pneumothorax, and the heart is normal.",
    "The liver, spleen and kidneys are normal.",
    "Lungs: Normal.",
    "未见结节。",
    "双肺清晰，未见结节、肿块。",
    "心影大小正常，纵隔居中。",
    "胸腔无积液。",
    "The lungs are clear without nodule or mass.",
    "The pancreas, spleen and adrenal glands are unremarkable.",
    "Heart size and mediastinal contours are within normal limits.",
    "Heart size, mediastinal contours, and great vessels are within normal limits.",
    "The lungs are free of nodules, masses or consolidation.",
    "Without evidence of pleural effusion.",
    "No evidence of lymphadenopathy.",
    "The liver is normal in size with homogeneous attenuation.",
    "Normal liver, with smooth contours and no focal lesion.",
    "No pathologically enlarged lymph nodes in the mediastinum or hila.",
    "Nodules, masses and effusions are absent.",
    "A nodule is not seen.",
    "Pleural effusion: none.",
    "Lines and tubes: None.",
    "Pleura: No pleural effusion.",
    "Trachea and both main bronchi are patent.",
    "No pleural or pericardial effusion is seen.",
    "No nodule, mass or consolidation is identified in either lung.",
    "The heart is not enlarged.",
    "The bile ducts are not dilated, and the gallbladder is unremarkable.",
    "Neither effusion nor pneumothorax.",
    "The liver is neither enlarged nor fatty.",
    "The remaining abdominal organs are unremarkable.",
    "Visualized portions of the thyroid gland are unremarkable.",
    "Gastric folds, duodenum and small bowel are normal.",
    "No focal liver lesion, normal spleen.",
    "No mild or severe stenosis.",
    "No effusion, pneumothorax, or consolidation.",
    "Negative for pulmonary embolism.",
    "No pericardial effusion, and no thickening.",
    "No fracture of the ribs and the visualized vertebrae.",
    "Thoracic aorta diameter is normal, and calibration of other vascular structures is natural.",
    "Bone structures in the study area are natural.",
    "No change.",
    "There is no significant interval change in the liver.",
    "There are no nodules larger than 5 mm, enlarged lymph nodes, or pleural effusions.",
    "There is no hydronephrosis or stone in either kidney.",
    "Trachea and both main bronchi are open.",
    "Trachea, both main bronchi are open.",
    "Heart contour, size is normal.",
    "Pericardial effusion-thickening was not observed.",
    "Thoracic esophagus calibration was normal and no significant pathological wall thickening was detected.",
    "Mediastinal main vascular structures, heart contour, size are normal.",
    "Upper abdominal organs included in the sections are normal.",
    "No space-occupying lesion was detected in the liver that entered the cross-sectional area.",
    "Vertebral corpus heights are preserved.",
    "No mass, nodule or infiltration was detected in both lungs.",
    "When examined in the lung parenchyma window; no nodule was detected.",
    "No enlarged lymph nodes in prevascular, subcarinal or bilateral hilar dimensions were detected.",
    "Thyroid gland is of normal size, and its parenchyma is homogeneous.",
    "There is no mediastinal or hilar lymphadenopathy, and the central airways are patent.",
    "Nodules and masses are not seen.",
    "The adrenal glands appear normal without nodules, the kidneys enhance symmetrically and are free of stones.",
    "Spleen: Within normal limits.",
    "Mediastinal vascular structures and cardiac examination are evaluated as unremarkable.",
    "No mass lesion with distinguishable borders was detected in either lung.",
    "There is no pleural effusion on either side, no pneumothorax, and no pleural thickening.",
    "There is no evidence of acute intrathoracic pathology.",
    "The gallbladder is unremarkable without stones, and there is no biliary ductal dilatation.",
    "No hydronephrosis, nephrolithiasis, or perinephric stranding.",
    "No suspicious osseous lesion.",
    "Bowel loops are normal in caliber without wall thickening or obstruction.",
    "No ascites or free air is seen in the abdomen or pelvis.",
    "Unremarkable appearance of the pancreas, spleen, and both adrenal glands.",
    "The abdominal aorta is normal in caliber with no aneurysm or dissection.",
    "The central airways are patent, lungs are well aerated and free from infiltrates.",
    "There was no evidence of consolidation, ground-glass opacity, nodule, or mass in the lungs.",
    "No pneumonia.",
    "The kidneys are normal in size and position, and no stones or masses are identified.",
    "Mass or lymphadenopathy was not detected.",
    "No lytic-destructive lesion was observed in the bone structures within the study area.",
    "The pulmonary trunk and its branches are of normal width, without filling defects.",
    "There is neither a nodule nor a mass.",
    "No pericardial effusion or thickening is evident, the heart is normal.",
    "No acute fracture, subluxation, or aggressive osseous lesions are seen.",
    "There is no mass, nodule, or effusion and the remainder of the examination is normal.",
]


@pytest.mark.parametrize(
    ("text", "denied", "stated"),
    [
        ("No nodule, mass or consolidation in the lungs.", "nodule mass consolidation", "lung"),
        ("A nodule is not seen.", "nodule", ""),
        ("No evidence of pleural effusion.", "effusion", ""),
        ("No nodule, but there is a cyst.", "nodule", "cyst"),
        ("A nodule without calcification; the liver is enlarged.", "calcification", "nodule liver"),
        ("No pleural effusion, mild cardiomegaly.", "effusion", "cardiomegaly"),
        ("No nodule, mass or effusion is seen, the liver is enlarged.", "nodule mass effusion", "enlarged"),
        ("Nodules, masses and effusions are absent.", "nodule mass effusion", ""),
        ("The nodule is not calcified.", "calcified", "nodule"),
        ("The lungs are not clear.", "clear", "abnormal"),
        ("Lungs free of consolidation.", "consolidation", ""),
        ("Pleural effusion: none.", "effusion", ""),
        ("未见结节，肝脏增大。", "结节", "增大"),
    ],
)
def test_denials(text: str, denied: str, stated: str) -> None:
    found = denied_words(text)
    for word in denied.split():
        assert content_words(word) <= found, word
    for word in stated.split():
        assert not content_words(word) & found, word


def test_positive_sentences_of_the_phantom() -> None:
    for sentence, labels in all_sentences():
        assert is_positive(sentence) is bool(labels), sentence


@pytest.mark.parametrize("text", POSITIVE)
def test_a_clause_that_states_a_finding_makes_a_sentence_positive(text: str) -> None:
    assert is_positive(text)


@pytest.mark.parametrize("text", NORMAL)
def test_sentences_that_deny_or_call_normal(text: str) -> None:
    assert not is_positive(text)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("No effusion. There is a nodule.", "There is an effusion. No nodule."),
        ("No left effusion. Effusion on the right.", "Effusion on the left. No right effusion."),
        ("The heart is enlarged. The liver is normal.", "The heart is normal. The liver is enlarged."),
        ("The heart is not enlarged. The spleen is enlarged.", "The heart is enlarged. The spleen is not enlarged."),
        ("No lesion in the liver. There is a lesion of the spleen.", "A lesion in the liver. No lesion in the spleen."),
        ("未见积液。右肺见结节。", "未见结节。右肺见积液。"),
        ("A 5 mm nodule, no calcification.", "A calcification of 5 mm, no nodule."),
        ("Nodule in the right upper lobe without effusion.", "Effusion in the right upper lobe without nodule."),
    ],
)
def test_exchanged_findings_are_found(source: str, text: str) -> None:
    assert changed_claims(source, text) and changed_claims(text, source)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("No effusion. There is a nodule.", "A nodule is present; effusion is absent."),
        (
            "No focal lesion in the spleen. Hypodense area in the liver.",
            "Hypodense lesion in the liver. Spleen without focal abnormality.",
        ),
        ("No enlarged lymph nodes. Cardiomegaly.", "The heart is enlarged. No lymphadenopathy."),
        ("The lungs are clear except for a 5 mm nodule.", "A 5 mm lung nodule. Otherwise normal lungs."),
        ("右肺见结节。未见肺部肿块。", "肺部见结节。右肺未见肿块。"),
        (
            "No mediastinal adenopathy. Mild emphysema. Heart size is normal.",
            "Emphysematous change of mild degree. Normal heart. No enlarged mediastinal nodes.",
        ),
    ],
)
def test_the_same_in_other_words_claims_the_same(source: str, text: str) -> None:
    assert not changed_claims(source, text) and not changed_claims(text, source)


def test_both_sides_of_what_is_normal_are_no_claim() -> None:
    assert claimed_sides("Both lungs are clear. No bilateral effusion. A cyst in the left kidney.") == {"left"}
    assert claimed_sides("No effusion on the right. Bilateral nodules.") == {"left", "right"}
