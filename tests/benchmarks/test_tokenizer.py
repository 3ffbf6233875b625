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

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizer
import torch
from literal_tokenizer import literal_tokenizer
from safetensors.torch import load_file

from monai_u2.exceptions import InputError
from monai_u2.networks import ViT3D
from tests.python_process import run_python

VISION = {
    "image_size": [8, 16, 24],
    "patch_size": [4, 8, 8],
    "hidden_size": 24,
    "mlp_dim": 48,
    "num_layers": 2,
    "num_heads": 4,
}
SMALL: dict[str, Any] = {
    **{"slabs": 2, "tokens": 24, "channels": 32, "heads": 4, "layers": 2, "selected": 13, "queries": 6, "text": 5},
    "grid": [2, 3, 4],
    "vision": VISION,
}
GOLDEN = Path(__file__).parents[1] / "golden" / "u2tok_full.safetensors"


def test_the_literal_function_is_the_published_one() -> None:
    golden = load_file(GOLDEN)
    state = {name.removeprefix("state."): value for name, value in golden.items() if name.startswith("state.")}
    out = literal_tokenizer(state, golden["input.v_token"], golden["input.t_token"], heads=4, num_layers=2)
    torch.testing.assert_close(out, golden["output.y"], rtol=1e-4, atol=1e-4)


def test_the_literal_tower_is_the_tower() -> None:
    torch.manual_seed(0)
    tower, image = ViT3D(**VISION), torch.rand(2, 1, 8, 16, 24)
    torch.testing.assert_close(tokenizer.literal_tower(tower, image), tower(image), rtol=1e-4, atol=1e-5)


def test_operations_at_paper_scale() -> None:
    """As counted by hand: 816 GFLOP, of which folding saves 23 %, and 4.05 TFLOP."""
    counted = {
        variant: tokenizer.operations(variant, tokenizer.PAPER) for variant in ("literal", "paper", "folded", "tower")
    }
    expected = {"literal": 816.6e9, "paper": 758.6e9, "folded": 629.7e9, "tower": 4.048e12}
    assert counted == pytest.approx(expected, rel=1e-3)


def test_writes_a_row_for_each_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its 23 processes are forks here; the docs' test starts those of a part as they are."""

    def in_a_fork(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        return run_python(command[1:], env=env)

    monkeypatch.setattr(tokenizer, "subprocess", SimpleNamespace(run=in_a_fork))
    tokenizer.benchmark(str(tmp_path / "out.json"), rounds=1, sizes=SMALL, peak_size=256)
    figures = json.loads((tmp_path / "out.json").read_text())
    rows = {(row["allocator"], row["mode"], row["dtype"], row["variant"]): row for row in figures["rows"]}
    assert len(rows) == 2 * (4 + 3) + 4 + 2 * 2
    for (_, mode, _, variant), row in rows.items():
        assert row["first call"] > 0 and row["later call"] > 0, (mode, variant)
        assert (row["share of peak"] is None) == (variant == "default")
    assert all(row["ratio of first call"] == 1 for key, row in rows.items() if key[3].startswith("literal"))
    differences = figures["difference to the literal function"]
    assert differences.keys() == {"paper", "folded"} and max(differences.values()) < 1e-9
    assert "| default | forward, bfloat16 | literal tower |" in capsys.readouterr().out


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"sizes \['slab'\] aren't known"):
        tokenizer.benchmark(sizes={"slab": 2})
    with pytest.raises(InputError, match=r"parts \['tower'\] aren't known; expected some of \['forward', 'training',"):
        tokenizer.benchmark(parts="tower")
