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

import pytest

from monai_u2.data.phantom.parsing import parse_findings
from monai_u2.data.phantom.report import all_sentences


@pytest.mark.parametrize(("text", "labels"), list(all_sentences()))
def test_every_sentence_of_the_grammar(text: str, labels: list[str]) -> None:
    assert parse_findings(text) == labels
    assert parse_findings(text.upper()) == labels


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", []),
        ("No pleural effusion.", []),
        ("No nodule or consolidation in the right upper lobe.", []),
        ("A nodule is not seen in the right upper lobe.", []),
        (
            "Nodules in the right upper lobe and left lower lobe",
            ["lung nodule, left lower lobe", "lung nodule, right upper lobe"],
        ),
        (
            "Nodules in the right upper and lower lobes",
            ["lung nodule, right lower lobe", "lung nodule, right upper lobe"],
        ),
        ("Right pleural effusion and left kidney stone.", ["kidney stone, left", "pleural effusion, right"]),
        ("Cyst and stone in the right kidney.", ["kidney stone, right", "renal cyst, right"]),
        ("Bilateral pleural effusions.", ["pleural effusion, left", "pleural effusion, right"]),
        ("No nodule, but there is a consolidation in the left lower lobe.", ["consolidation, left lower lobe"]),
        ("Left pleural effusion without consolidation in the left lower lobe.", ["pleural effusion, left"]),
        ("There is a 12.5 mm nodule in the left upper lobe", ["lung nodule, left upper lobe"]),
        ("A nodule in the left middle lobe.", []),
        ("A nodule.", []),
        ("The heart is mildly enlarged. No aneurysm.", ["cardiomegaly"]),
        ("Normal CT of the chest and abdomen.", []),
    ],
)
def test_other_texts(text: str, labels: list[str]) -> None:
    assert parse_findings(text) == labels


def test_findings_section_counts_where_there_is_one() -> None:
    text = "Left kidney stone. Findings:\nPleura: effusion on the right.\nImpression:\nSplenomegaly."
    assert parse_findings(text) == ["pleural effusion, right"]
    assert parse_findings("IMPRESSION:\nSplenomegaly.") == ["splenomegaly"]
    assert parse_findings("FINDINGS:\nSpleen: The spleen is enlarged to 150 mm.\nKidneys: There is a 10 mm sto") == [
        "splenomegaly"
    ]


def test_a_finding_said_twice_counts_once() -> None:
    assert parse_findings("Cardiomegaly. The heart is enlarged.") == ["cardiomegaly"]
