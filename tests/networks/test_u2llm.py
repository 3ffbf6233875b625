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

import copy
import json
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from monai_u2.networks import TOKENIZER_TYPES, U2LLM
from monai_u2.networks.u2_model import TOKENIZERS

# options of each tokenizer type for 4 image tokens
TOKENIZER_OPTIONS = {
    "u2": {"type": "u2", "num_heads": 4, "num_layers": 1, "num_selected": 8, "num_queries": 4},
    "paper": {"type": "paper", "num_heads": 4, "num_layers": 1, "num_selected": 8, "num_queries": 4},
    "linear": {"type": "linear", "pooled_grid": [2, 1, 2]},
    "resampler": {"type": "resampler", "num_heads": 4, "num_layers": 1, "num_queries": 4},
    "projected": {"type": "projected", "num_queries": 4},
}


def varied(model: U2LLM, **options: object) -> U2LLM:
    """A model like `model` with other options in its configuration, its weights random."""
    config = copy.deepcopy(model.config)
    for name, value in options.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return U2LLM(config).eval()


@pytest.fixture
def found_u2llm(tiny_u2llm: U2LLM) -> U2LLM:
    """With 2 finding tokens before the 4 image tokens."""
    return varied(tiny_u2llm, num_finding_tokens=2)


@pytest.fixture
def found_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With 6 placeholders a row."""
    batch["input_ids"][:, 2:8] = 99
    return batch


def test_image_alone_gives_next_token_logits(tiny_u2llm: U2LLM) -> None:
    assert tiny_u2llm(torch.rand(2, 3, 8, 32, 32)).shape == (2, 1, 100)


def test_several_questions_about_one_image_equal_single_ones(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    together = tiny_u2llm(**batch)
    assert together.logits.shape == (3, 10, 100)
    assert together.finding_logits.shape == (2, 3, 32, 5)
    assert together.image_token_finding_logits.shape == (3, 4, 5)
    for row, image in enumerate(batch["image_index"]):
        slabs = batch["slab_mask"][image]
        alone = tiny_u2llm(
            batch["image"][image][slabs][None],
            input_ids=batch["input_ids"][row : row + 1],
            question_ids=batch["question_ids"][row : row + 1],
        )
        for key in ("logits", "image_token_finding_logits"):
            torch.testing.assert_close(together[key][row : row + 1], alone[key], rtol=1e-4, atol=1e-5)


def test_empty_slabs_are_not_computed(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    with mock.patch.object(
        tiny_u2llm.model.vision_tower, "forward", wraps=tiny_u2llm.model.vision_tower.forward
    ) as tower:
        tiny_u2llm(**batch)
    assert tower.call_args.args[0].shape[0] == 5  # of 2 x 3 slabs one is empty


@pytest.mark.parametrize("sequences", [1, 3])
def test_generate_encodes_each_image_once(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor], sequences: int) -> None:
    with mock.patch.object(
        tiny_u2llm.model.vision_tower, "forward", wraps=tiny_u2llm.model.vision_tower.forward
    ) as tower:
        torch.manual_seed(0)
        out = tiny_u2llm.generate(
            **batch, max_new_tokens=5, min_new_tokens=5, do_sample=sequences > 1, num_return_sequences=sequences
        )
    assert tower.call_count == 1
    assert out.shape == (3 * sequences, 15)


def test_left_padded_batch_generates_what_single_prompts_do(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    image, ids = batch["image"], batch["input_ids"][:2]
    padded = ids.clone()
    padded[0] = torch.cat([torch.zeros(2, dtype=torch.long), ids[0, :8]])
    mask = (padded != 0).long()
    together = tiny_u2llm.generate(image, padded, attention_mask=mask, **options)
    first = tiny_u2llm.generate(image[:1], ids[:1, :8], attention_mask=torch.ones(1, 8).long(), **options)
    second = tiny_u2llm.generate(image[1:], ids[1:], attention_mask=torch.ones(1, 10).long(), **options)
    assert together[0, 10:].tolist() == first[0, 8:].tolist()
    assert together[1, 10:].tolist() == second[0, 10:].tolist()


def test_save_and_load_are_exact(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor], tmp_path: Path) -> None:
    expected = tiny_u2llm(**batch).logits
    tiny_u2llm.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "u2llm"
    loaded, info = U2LLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, value in tiny_u2llm.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    torch.testing.assert_close(loaded.eval()(**batch).logits, expected)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


@pytest.mark.parametrize("tokenizer", TOKENIZER_TYPES)
def test_initialization_from_meta_device_is_finite(tiny_u2llm: U2LLM, tmp_path: Path, tokenizer: str) -> None:
    """Every parameter must have a rule: what is missing in a checkpoint would be uninitialized memory."""
    varied(tiny_u2llm, u2_tokenizer=TOKENIZER_OPTIONS[tokenizer], num_finding_tokens=2).save_pretrained(tmp_path)
    save_file({"model.projector.projector.0.bias": torch.zeros(64)}, tmp_path / "model.safetensors")
    real_empty_like = torch.empty_like

    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        out = real_empty_like(*args, **kwargs)
        return out.fill_(float("nan")) if out.is_floating_point() and out.device.type != "meta" else out

    with mock.patch("torch.empty_like", poisoned):
        loaded, info = U2LLM.from_pretrained(tmp_path, output_loading_info=True)
    assert len(info["missing_keys"]) > 40
    bad = [name for name, parameter in loaded.named_parameters() if not parameter.isfinite().all()]
    assert bad == []


def test_every_parameter_gets_a_gradient(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    output = tiny_u2llm.train()(**batch)
    sum(o.square().mean() for o in (output.logits, output.finding_logits, output.image_token_finding_logits)).backward()
    assert [name for name, parameter in tiny_u2llm.named_parameters() if parameter.grad is None] == []


def test_placeholders_must_fit(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    batch["input_ids"][1, 2] = 5
    with pytest.raises(ValueError, match=r"must hold 4 image placeholders .* found \[4, 3, 4\]"):
        tiny_u2llm(**batch)


def test_bad_images_are_named(tiny_u2llm: U2LLM) -> None:
    with pytest.raises(ValueError, match=r"image \(3, 8, 32, 32\) must have five axes"):
        tiny_u2llm(torch.rand(3, 8, 32, 32))
    with pytest.raises(ValueError, match=r"slab_mask \(1, 2\) must be \(1, 3\)"):
        tiny_u2llm(torch.rand(1, 3, 8, 32, 32), slab_mask=torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="needs an image, input_ids or inputs_embeds"):
        tiny_u2llm()


def test_every_tokenizer_type_has_its_class() -> None:
    assert tuple(TOKENIZERS) == TOKENIZER_TYPES == tuple(TOKENIZER_OPTIONS)


@pytest.mark.parametrize("tokenizer", [name for name in TOKENIZER_TYPES if name != "projected"])
def test_each_tokenizer_type_works_and_reloads(
    tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor], tmp_path: Path, tokenizer: str
) -> None:
    model = varied(tiny_u2llm, u2_tokenizer=TOKENIZER_OPTIONS[tokenizer])
    assert type(model.model.u2_tokenizer) is TOKENIZERS[tokenizer] and model.num_image_tokens == 4
    assert model(batch["image"]).shape == (2, 1, 100)
    output = model(**batch)
    assert output.logits.shape == (3, 10, 100) and output.logits.isfinite().all()
    model.save_pretrained(tmp_path)
    loaded, info = U2LLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert loaded.config.u2_tokenizer == TOKENIZER_OPTIONS[tokenizer]
    torch.testing.assert_close(loaded.eval()(**batch).logits, output.logits)
    output = model.train()(**batch)
    sum(o.square().mean() for o in (output.logits, output.finding_logits, output.image_token_finding_logits)).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("tokenizer", ["u2", "linear", "resampler"])
def test_padded_slabs_and_other_questions(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor], tokenizer: str) -> None:
    model = varied(tiny_u2llm, u2_tokenizer=TOKENIZER_OPTIONS[tokenizer]).model
    image, mask = batch["image"][:1], batch["slab_mask"][:1]
    padded, alone = model.encode_image(image, mask).selected, model.encode_image(image[:, :2]).selected
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)
    first, second = (model.guide_image(alone, batch["question_ids"][i : i + 1]) for i in (0, 2))
    assert torch.equal(first, second) == (tokenizer != "u2")


def test_projected_tokens_are_those_of_the_projector(tiny_u2llm: U2LLM) -> None:
    model = varied(tiny_u2llm, u2_tokenizer=TOKENIZER_OPTIONS["projected"]).model
    image = torch.rand(2, 1, 8, 32, 32)
    expected = model.projector(model.vision_tower(image))
    assert torch.equal(model.guide_image(model.encode_image(image).selected), expected) and expected.shape == (2, 4, 64)
    with pytest.raises(ValueError, match=r"tokens of 3 slabs, 4 each, must be 4 \(num_queries\)"):
        model.encode_image(torch.rand(1, 3, 8, 32, 32))


def test_labels_give_the_loss_of_hugging_face(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    labels = batch["input_ids"].clone()
    labels[:, :7] = -100
    output = tiny_u2llm(**batch, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits[:, 6:-1].flatten(0, 1), labels[:, 7:].flatten())
    torch.testing.assert_close(output.loss, expected)
    assert tiny_u2llm(**batch).loss is None


def test_paper_tokenizer_sees_padded_slabs_as_empty_ones(tiny_u2llm: U2LLM, batch: dict[str, torch.Tensor]) -> None:
    """As the published code does, where volumes are filled up with zeros."""
    model = varied(tiny_u2llm, u2_tokenizer=TOKENIZER_OPTIONS["paper"]).model
    image, mask = batch["image"].clone(), batch["slab_mask"]
    image[~mask] = 0.0
    expected = model.encode_image(image).selected
    torch.testing.assert_close(model.encode_image(batch["image"], mask).selected, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="volume 1 of the batch has no valid slab"):
        model.encode_image(image, torch.tensor([[True] * 3, [False] * 3]))
    with pytest.raises(ValueError, match="question 0 of the batch has no token"):
        model.guide_image(expected, torch.ones(2, 4, dtype=torch.long), torch.zeros(2, 4, dtype=torch.bool))


def test_paper_tokenizer_starts_as_published_inside_the_model(tiny_u2llm: U2LLM) -> None:
    tokenizer = varied(tiny_u2llm, u2_tokenizer={**TOKENIZER_OPTIONS["paper"], "num_queries": 64}).model.u2_tokenizer
    assert tokenizer.query_tokens.std().item() == pytest.approx(0.02, rel=0.1)
    score = tokenizer.svt_module["token_selection"].score_net
    assert score.weight.abs().max() <= 1 / 8 and score.bias.any()  # PyTorch's default, not Xavier with zero bias
    attention = tokenizer.tta_module["layers_vt"][0].self_attention
    assert attention.wq.weight.abs().max() > 1 / 8 and not attention.wq.bias.any()


def test_finding_tokens_show_the_finding_logits_of_their_volume(
    found_u2llm: U2LLM, found_batch: dict[str, torch.Tensor]
) -> None:
    model, index = found_u2llm.model, found_batch["image_index"]
    encoded = model.encode_image(found_batch["image"], found_batch["slab_mask"])
    expected = [encoded.finding_logits[i][found_batch["slab_mask"][i]].flatten(0, 1).amax(0) for i in range(2)]
    torch.testing.assert_close(encoded.volume_finding_logits, torch.stack(expected))
    logits = encoded.volume_finding_logits
    tokens = model.guide_image(encoded.selected, found_batch["question_ids"], None, index, logits)
    assert tokens.shape == (3, 6, 64)
    changed = logits.clone()
    changed[1, 3] += 5
    others = model.guide_image(encoded.selected, found_batch["question_ids"], None, index, changed)
    assert ((others - tokens).abs().amax(dim=2) > 1e-3).tolist() == [[False] * 6, [False] * 6, [True] * 2 + [False] * 4]
    with pytest.raises(ValueError, match="needs volume_finding_logits"):
        model.guide_image(encoded.selected, found_batch["question_ids"], None, index)


def test_finding_tokens_are_told_no_findings(found_u2llm: U2LLM, found_batch: dict[str, torch.Tensor]) -> None:
    """The heads' logits are those of the image tokens after them."""
    model = found_u2llm.model
    encoded = model.encode_image(found_batch["image"], found_batch["slab_mask"])
    arguments = (found_batch["question_ids"], None, found_batch["image_index"], encoded.volume_finding_logits)
    tokens = model.guide_image(encoded.selected, *arguments)
    logits = found_u2llm(**found_batch).image_token_finding_logits
    assert logits.shape == (3, 4, 5)
    torch.testing.assert_close(logits, model.image_token_finding_head(tokens[:, 2:]))
    without = varied(found_u2llm, num_findings=0, num_finding_tokens=0)
    found_batch["input_ids"][:, 2:4] = 7
    assert without(**found_batch).image_token_finding_logits is None


def test_language_model_cannot_bend_the_findings(found_u2llm: U2LLM, found_batch: dict[str, torch.Tensor]) -> None:
    found_u2llm(**found_batch).logits.square().mean().backward()
    assert found_u2llm.model.finding_prefix.weight.grad.abs().max() > 0
    assert found_u2llm.model.finding_head.classifier.weight.grad is None


def test_finding_tokens_need_their_placeholders(
    found_u2llm: U2LLM, found_batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert found_u2llm.num_image_tokens == 6
    assert found_u2llm(found_batch["image"]).shape == (2, 1, 100)
    assert found_u2llm.generate(**found_batch, max_new_tokens=2, min_new_tokens=2, do_sample=False).shape == (3, 12)
    found_u2llm.save_pretrained(tmp_path)
    loaded = U2LLM.from_pretrained(tmp_path).eval()
    assert loaded.num_image_tokens == 6
    torch.testing.assert_close(loaded(**found_batch).logits, found_u2llm(**found_batch).logits)
    found_batch["input_ids"][:, 7] = 5
    with pytest.raises(ValueError, match=r"must hold 6 image placeholders .* found \[5, 5, 5\]"):
        found_u2llm(**found_batch)
