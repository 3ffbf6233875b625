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

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from monai_u2.data.phantom.anatomy import render_case
from monai_u2.data.phantom.cases import draw_case
from monai_u2.data.phantom.difficulty import DIFFICULTIES, difficulty_settings
from monai_u2.data.phantom.findings import FINDING_KINDS, FINDING_LABELS, PhantomCase
from monai_u2.data.phantom.geometry import LOBES
from monai_u2.data.phantom.parsing import parse_findings
from monai_u2.data.phantom.report import ask_questions, write_report
from monai_u2.exceptions import InputError

KIDNEY_KINDS = ("kidney stone", "hydronephrosis", "renal cyst")


@pytest.fixture(scope="module")
def ladder() -> dict[str, list[PhantomCase]]:
    return {difficulty: [draw_case(number, difficulty) for number in range(300)] for difficulty in DIFFICULTIES}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("number", "mask_hash", "report_hash", "sums"),
    [
        (
            2,
            "1cd1149620f670b04af8ebfcb6dab11e9ddb52929c10e4707d79d182de749f49",
            "490568313e779551100e512c2735d4915017a39058cfb0291a44adaa9de30fd6",
            (-1_077_154_458, -134_560_681_353),
        ),
        (
            17,
            "fc0e2cf07b30490d0b3c9946f241ae3b4e9a9de273ecc3bec3b19bb470080734",
            "02178bec32e64369a94d1631f844e968592b4236f8c03e3dff088a0f36cd5352",
            (-1_110_536_016, -138_792_678_325),
        ),
    ],
)
def test_default_cases_are_those_of_version_1(
    number: int, mask_hash: str, report_hash: str, sums: tuple[int, int]
) -> None:
    """Written down before there was a ladder.

    The volume is compared by its sum and a weighted sum: with other vector instructions NumPy's powers and sines differ
    in their last bit, and about one voxel in 100,000 by 1 HU.
    """
    case = draw_case(number)
    hu, mask, _ = render_case(case)
    assert sha256(mask.tobytes()) == mask_hash
    assert sha256(write_report(case).text.encode()) == report_hash
    flat = hu.ravel().astype(np.int64)
    assert abs(int(flat.sum()) - sums[0]) < 100
    assert abs(int(flat @ (np.arange(flat.size) % 251)) - sums[1]) < 25_000


def test_default_is_the_default() -> None:
    for number in range(20):
        assert draw_case(number) == draw_case(number, "default")
    assert draw_case(3).difficulty == "default"
    assert draw_case(3, "hard").difficulty == "hard"


def test_unknown_difficulty() -> None:
    with pytest.raises(InputError, match="difficulty is 'extreme'; expected one of easy, default, hard"):
        draw_case(0, "extreme")


def test_hard_cases_have_more_smaller_findings_of_less_contrast(ladder: dict[str, list[PhantomCase]]) -> None:
    counts, noise, sizes, contrast = ({} for _ in range(4))
    for difficulty, cases in ladder.items():
        counts[difficulty] = np.mean([len(case.findings) for case in cases])
        noise[difficulty] = np.mean([case.noise for case in cases])
        found = [(case, finding) for case in cases for finding in case.findings]
        for kind in difficulty_settings(difficulty).sizes:
            sizes[difficulty, kind] = np.mean([finding.size_mm for _, finding in found if finding.kind == kind])
        for kind, organ in (
            ("lung nodule", "lung"),
            ("hypodense liver lesion", "liver"),
            ("hyperdense liver lesion", "liver"),
            ("kidney stone", "kidney"),
            ("renal cyst", "kidney"),
        ):
            values = [abs(finding.hu - case.anatomy.hu[organ]) for case, finding in found if finding.kind == kind]
            contrast[difficulty, kind] = np.mean(values)
    assert counts["easy"] < counts["default"] - 0.3 < counts["hard"] - 0.6
    assert 2 * noise["easy"] < noise["default"] < noise["hard"] / 1.5
    for kind in difficulty_settings("hard").sizes:
        assert sizes["easy", kind] > 1.04 * sizes["default", kind] > 1.08 * sizes["hard", kind], kind
    for kind in ("lung nodule", "hypodense liver lesion", "hyperdense liver lesion", "kidney stone", "renal cyst"):
        assert contrast["hard", kind] < 0.75 * contrast["default", kind], kind
    for kind in ("hypodense liver lesion", "hyperdense liver lesion", "kidney stone"):
        assert contrast["easy", kind] > 1.3 * contrast["default", kind], kind


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_what_is_drawn_stays_in_the_settings(ladder: dict[str, list[PhantomCase]], difficulty: str) -> None:
    settings = difficulty_settings(difficulty)
    seen: Counter[str] = Counter()
    for case in ladder[difficulty]:
        assert settings.noise[0] <= case.noise <= settings.noise[1]
        ratio = 2 * case.anatomy.heart.radii[0] / case.anatomy.thorax_width
        low, high = settings.heart_ratio if "cardiomegaly" in case.labels else (0.38, 0.46)
        assert low - 1e-9 <= ratio <= high + 1e-9
        for finding in case.findings:
            seen[finding.kind] += 1
            if finding.kind in settings.sizes:
                # an easy lesion without the room becomes smaller, down to the default range
                low = min(settings.sizes[finding.kind][0], difficulty_settings("default").sizes[finding.kind][0])
                assert low <= finding.size_mm <= settings.sizes[finding.kind][1], finding
            if finding.kind == "hydronephrosis":
                assert finding.severity in settings.hydronephroses
            if finding.kind == "pleural effusion":
                assert finding.severity in (*settings.effusions, "small")
                low, high = settings.effusion_ml[finding.severity]
                assert low <= finding.volume_ml <= high
            if finding.height_loss is not None:
                assert settings.height_loss[0] <= finding.height_loss <= settings.height_loss[1]
    assert set(seen) == set(FINDING_KINDS)


def test_severities_mean_the_same_on_every_step(ladder: dict[str, list[PhantomCase]]) -> None:
    findings = [finding for cases in ladder.values() for case in cases for finding in case.findings]
    for value, order in (
        ("volume_ml", ("small", "moderate", "large")),
        ("height_loss", ("mild", "moderate", "severe")),
    ):
        ranges = []
        for severity in order:
            values = [getattr(f, value) for f in findings if getattr(f, value) is not None and f.severity == severity]
            ranges += [min(values), max(values)]
        assert ranges == sorted(ranges)


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_lesions_lie_within_their_organ(ladder: dict[str, list[PhantomCase]], difficulty: str) -> None:
    ball = np.random.default_rng(0).uniform(-1.0, 1.0, (400, 3))
    ball = ball[(ball * ball).sum(axis=1) < 1.0]
    for case in ladder[difficulty]:
        anatomy = case.anatomy
        for finding in case.findings:
            center = np.array([finding.center]) - np.array([case.grid.shift])
            points = center + ball * np.array(finding.radii) if finding.radii else center
            if finding.location in LOBES:
                share = anatomy.in_lobe(finding.location, points).mean()
                assert share > (0.95 if finding.kind == "lung nodule" else 0.75), (case.number, finding)
            elif finding.kind.endswith("liver lesion"):
                assert anatomy.in_liver_lobe(finding.location.split()[0], points, 0.0).mean() > 0.95, finding
            elif finding.kind in KIDNEY_KINDS:
                share = (anatomy.kidneys[finding.location].level(points) < 1.0).mean()
                # a cyst may reach out of the kidney
                assert share > (0.3 if finding.kind == "renal cyst" else 0.95), (case.number, finding)
            elif finding.kind == "pleural effusion":
                assert anatomy.in_lung(finding.location, center)[0], (case.number, finding)


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_each_finding_is_marked(difficulty: str) -> None:
    seen: Counter[str] = Counter()
    for number in range(100_000, 100_030):
        case = draw_case(number, difficulty)
        _, mask, affine = render_case(case)
        assert {FINDING_LABELS[value - 1] for value in np.unique(mask) if value} == set(case.labels)
        for finding in case.findings:
            seen[finding.kind] += 1
            index = tuple(np.round(np.linalg.solve(affine, [*finding.center, 1.0])[:3]).astype(int))
            assert mask[index] == FINDING_LABELS.index(finding.label) + 1, (number, finding)
    assert len(seen) > 8


def test_contrast_of_a_fracture() -> None:
    """The same case, painted with the contrast of another step: 110 HU above other vertebrae become 165 and 66."""
    case = next(case for case in map(draw_case, range(100)) if case.labels == ["vertebral fracture, lumbar spine"])
    hu, mask, _ = render_case(case)
    broken = mask > 0
    for difficulty, change in (("easy", 55), ("hard", -44)):
        other, other_mask, _ = render_case(replace(case, difficulty=difficulty))
        np.testing.assert_array_equal(other_mask, mask)
        difference = other.astype(int) - hu
        assert abs(np.sign(change) * (np.sign(change) * difference[broken]).max() - change) <= 1
        assert abs(difference[~broken]).max() <= 0.6 * abs(change), "the edge of the vertebra at most"


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_reports_and_questions_are_those_of_the_grammar(ladder: dict[str, list[PhantomCase]], difficulty: str) -> None:
    for case in ladder[difficulty][:100]:
        assert parse_findings(write_report(case).text) == sorted(case.labels)
        assert len(ask_questions(case, 6)) == 6


def test_settings_name_the_same_kinds_on_every_step() -> None:
    for difficulty in DIFFICULTIES:
        settings = difficulty_settings(difficulty)
        assert set(settings.sizes) == set(difficulty_settings("default").sizes) <= set(FINDING_KINDS)
        assert set(settings.effusions) <= set(settings.effusion_ml) and "small" in settings.effusion_ml
