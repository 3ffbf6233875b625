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
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from signal_table import configure, gradient_reach, measure, question_effect, signal_table, token_spread

from monai_u2.data import collate_reports

if TYPE_CHECKING:
    from monai_u2.networks import U2LLM


def test_token_spread() -> None:
    token = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
    assert token_spread(token.expand(2, 5, 8)) == pytest.approx(0, abs=1e-6)
    assert token_spread(torch.cat([token, -token], dim=1)) == pytest.approx(1)
    assert token_spread(torch.cat([token, 0 * token], dim=1)) == pytest.approx(math.sqrt(0.5))


def test_question_effect() -> None:
    tokens = torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    assert question_effect(tokens.expand(2, 3, 4, 8)) == 0
    assert question_effect(torch.cat([tokens, -tokens], dim=1)) == pytest.approx(2)


def test_gradient_reach() -> None:
    """Gradients of `3 a + 4 b` with a = 2 and b = 1; c isn't reached and d is zero."""
    values = {"a": 2.0, "b": 1.0, "c": 5.0, "d": 0.0}
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in values.items()}
    (3 * parameters["a"] + 4 * parameters["b"] + parameters["d"]).backward()
    reach = gradient_reach(parameters.items())
    assert reach["ratios"] == {"a": 1.5, "b": 4.0, "c": 0.0}
    assert reach["largest"] == {"name": "b", "ratio": 4.0}
    assert reach["smallest"] == {"name": "c", "ratio": 0.0} and reach["smallest to largest"] == 0
    assert reach["median"] == 1.5
    assert reach["zero norm"] == ["d"]


def test_measuring_leaves_the_network_as_it_was(tiny_u2llm: U2LLM) -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = torch.cat([torch.full((2, 4), 99), torch.randint(2, 90, (2, 6), generator=generator)], dim=1)
    cases = [
        {
            "image": torch.rand(2, 8, 32, 32, generator=generator),
            "input_ids": [ids],
            "question_ids": [ids[4:7]],
            "labels": [torch.cat([torch.full((7,), -100), ids[7:]])],
        }
        for ids in prompts
    ]
    questions = collate_reports([{"question_ids": [torch.tensor([3, 4]), torch.tensor([5, 6, 7])]}])
    before = {key: value.clone() for key, value in tiny_u2llm.state_dict().items()}
    row = measure(tiny_u2llm, collate_reports(cases), questions)
    assert all(torch.equal(value, before[key]) for key, value in tiny_u2llm.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny_u2llm.parameters())
    assert 0 < row["token spread"] < 1.5 and row["question effect"] > 1e-4
    assert row["gradient reach"]["largest"]["ratio"] > row["gradient reach"]["smallest"]["ratio"]
    names = {name for name, _ in tiny_u2llm.model.u2_tokenizer.named_parameters()}
    assert names == {*row["gradient reach"]["ratios"], *row["gradient reach"]["zero norm"]}
    # the same question twice
    same = collate_reports([{"question_ids": [torch.tensor([3, 4])] * 2}])
    assert measure(tiny_u2llm, collate_reports(cases), same)["question effect"] == pytest.approx(0, abs=1e-6)


def test_configurations_differ_in_the_token_path_alone(bundle: Path) -> None:
    paths = {name: configure(bundle / "configs" / "sft.json", name) for name in ("u2", "paper")}
    options = {name: parser["network_def#config#u2_tokenizer"] for name, parser in paths.items()}
    assert options["u2"]["type"] == "u2" and options["paper"]["type"] == "paper"
    assert options["paper"].keys() == {"type", "num_heads", "num_selected", "num_queries"}
    assert all(options["u2"][name] == value for name, value in options["paper"].items() if name != "type")
    for parser in paths.values():
        parser["network_def#config#u2_tokenizer"] = None
    assert paths["u2"].get() == paths["paper"].get()
    with pytest.raises(ValueError, match="'other' must be one of"):
        configure(bundle / "configs" / "sft.json", "other")


def test_table_on_phantoms(
    tiny_bundle: Path, phantoms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(tiny_bundle / "configs" / "sft.json")
    output = tmp_path / "table.json"
    signal_table(str(phantoms["train"]), config=config, output=str(output), cases=2, steps=2)
    table = json.loads(output.read_text())["table"]
    assert list(table) == ["u2", "paper"]
    for rows in table.values():
        assert list(rows) == ["at initialization", "after 2 steps"]
        first, last = rows.values()
        assert last["loss"] < first["loss"]
        assert all(math.isfinite(row["token spread"]) and row["token spread"] > 0 for row in rows.values())
    assert any(
        name.startswith("svt_module.") for name in table["paper"]["at initialization"]["gradient reach"]["ratios"]
    )
    # the published function gives about the same token for every query, whatever the question
    default, paper = (table[name]["at initialization"] for name in ("u2", "paper"))
    assert default["token spread"] > 10 * paper["token spread"]
    assert default["question effect"] > 10 * paper["question effect"]
    assert "| u2 | at initialization |" in capsys.readouterr().out
