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

"""Official μ²LLM folders, read without their code and written in the format of :class:`monai_u2.networks.U2LLM`."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from monai_u2.exceptions import InputError
from monai_u2.networks.official_config import official_config
from monai_u2.networks.u2llm import U2LLM
from monai_u2.networks.u2llm_config import U2LLMConfig

_RENAMED = (
    ("model.vision_tower.vision_tower.", "model.vision_tower."),
    ("model.mm_projector.projector.", "model.projector.projector."),
    ("model.mm_projector.linear.", "model.projector.projector.0."),
    ("model.mm_projector.", "model.projector.projector.0."),
    ("model.u2tokenizer.", "model.u2_tokenizer."),
    ("model.", "model.language_model."),
)
# parameters that the official modules hold and never use
_UNUSED = (
    "linear_aggregator.wv.weight",
    "linear_aggregator.wv.bias",
    "linear_aggregator.dense.weight",
    "linear_aggregator.dense.bias",
    "rotary_emb.inv_freq",
    ".norm_cross_attn.weight",
    ".norm_cross_attn.bias",
)
_TEXT_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
_NAMED = 5  # keys that an error names


def convert_official(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> U2LLMConfig:
    """Convert an official μ²LLM folder to one that `U2LLM.from_pretrained` loads.

    Tensors are renamed shard by shard: no more than one shard is in memory. Their dtype stays. The placeholder of an
    image token is an id of its own, the first above the vocabulary (`config.image_token_id`): the official code
    replaces positions, this model placeholders.

    Args:
        source: folder with `config.json` and `model.safetensors` or `pytorch_model.bin`, whole or sharded; backbones
            Llama, Qwen3 and Phi-3.
        destination: folder that is made; must not hold anything.

    Returns:
        The configuration that was written.

    Raises:
        InputError: when the folder isn't such a folder, a file can't be read, or its tensors aren't those that its
            configuration makes, with both sides named.
    """
    source, destination = Path(source), Path(destination)
    if destination.is_file():
        raise InputError(f"{destination}: is a file; expected a folder that isn't there yet. Give another name.")
    if destination.is_dir() and any(destination.iterdir()):
        raise InputError(f"{destination}: is not empty; expected a folder that isn't there yet. Give another name.")
    content = _read_config(source)
    shards = _shards(source)
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        with _open(shard) as tensors:
            for name in tensors:
                if name in shapes:
                    raise InputError(f"{shard}: holds {name!r}, which another file of the folder holds too.")
                if not tensors.dtype(name).startswith(("F", "BF", "torch.float", "torch.bfloat")):
                    raise InputError(f"{shard}: {name!r} is of {tensors.dtype(name)}; expected floating-point weights.")
                shapes[name] = tensors.shape(name)
    config = official_config(content, shapes, source)
    _check_shapes(config, shapes, source)
    if config.tie_word_embeddings and "lm_head.weight" in shapes:
        _check_tie(shards, source)
    destination.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with _open(shard) as tensors:
            kept = {renamed(key): tensors[key] for key in tensors if not key.endswith(_UNUSED)}
            storages = Counter(value.untyped_storage().data_ptr() for value in kept.values())
            kept = {  # safetensors takes no two tensors of one storage
                key: value.clone() if storages[value.untyped_storage().data_ptr()] > 1 else value.contiguous()
                for key, value in kept.items()
            }
        if config.tie_word_embeddings:
            kept.pop("lm_head.weight", None)
        save_file(kept, destination / name, metadata={"format": "pt"})
        index |= dict.fromkeys(kept, name)
    if len(shards) > 1:
        size = sum(path.stat().st_size for path in destination.glob("*.safetensors"))
        written = {"metadata": {"total_size": size}, "weight_map": index}
        (destination / "model.safetensors.index.json").write_text(json.dumps(written, indent=2) + "\n")
    for name in _TEXT_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)
    config.architectures = ["U2LLM"]
    config.save_pretrained(destination)
    return config


def renamed(name: str) -> str:
    """Name in :class:`U2LLM` of an official tensor."""
    for official, ours in _RENAMED:
        if name.startswith(official):
            return ours + name.removeprefix(official)
    return name


def _check_shapes(config: U2LLMConfig, shapes: Mapping[str, tuple[int, ...]], source: str | os.PathLike[str]) -> None:
    try:
        with torch.device("meta"):
            model = U2LLM(config)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise InputError(f"{source}: its config.json and tensors make no model: {error}") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {renamed(name): shape for name, shape in shapes.items() if not name.endswith(_UNUSED)}
    if config.tie_word_embeddings:
        for state in (expected, found):
            state.pop("lm_head.weight", None)
    other = [
        f"{name} {found[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    problems = [
        f"{what} {_listed(names)}"
        for what, names in (
            ("missing:", sorted(expected.keys() - found.keys())),
            ("unexpected:", sorted(found.keys() - expected.keys())),
            ("of another shape:", other),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"{source}: its tensors aren't those of the model that its config.json describes (names as in U2LLM); "
            f"{'; '.join(problems)}. Check the folder."
        )


def _check_tie(shards: list[Path], source: Path) -> None:
    tied = {}
    for shard in shards:
        with _open(shard) as tensors:
            tied |= {key: tensors[key] for key in tensors if key in ("lm_head.weight", "model.embed_tokens.weight")}
    if not torch.equal(tied["lm_head.weight"], tied["model.embed_tokens.weight"]):
        raise InputError(
            f"{source}: tie_word_embeddings is true, but lm_head.weight and model.embed_tokens.weight differ; expected "
            "the same. Set tie_word_embeddings to false if the model was trained so."
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _read_config(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    if not path.is_file():
        raise InputError(f"{path}: does not exist; expected the folder of a μ²LLM model.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error}); expected a model's configuration.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a model's configuration.")
    return content


def _shards(source: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = source / f"{name}.index.json"
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{index}: is no index with a weight_map; expected one. Download it again.") from error
            lacking = [name for name in names if not (source / name).is_file()]
            if lacking:
                raise InputError(f"{index}: names {_listed(lacking)}, which {source} lacks. Download the rest.")
            return [source / name for name in names]
        if (source / name).is_file():
            return [source / name]
    raise InputError(f"{source}: has neither model.safetensors nor pytorch_model.bin, whole or sharded.")


class _Tensors:
    """Tensors of one file by name; of a safetensors file each is read when asked for."""

    def __init__(self, file: Any, names: list[str], in_memory: bool) -> None:
        self._file = file
        self._names = names
        self._in_memory = in_memory

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file[name] if self._in_memory else self._file.get_tensor(name)

    def dtype(self, name: str) -> str:
        return str(self._file[name].dtype) if self._in_memory else self._file.get_slice(name).get_dtype()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file[name].shape if self._in_memory else self._file.get_slice(name).get_shape())


@contextmanager
def _open(path: Path) -> Iterator[_Tensors]:
    if path.suffix == ".safetensors":
        try:
            file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path}: can't be read ({error}); expected whole safetensors. Download it again."
            ) from error
        with file:
            yield _Tensors(file, list(file.keys()), in_memory=False)
        return
    try:
        # files of before PyTorch 1.6 can't be mapped
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than tensors, and nothing of it was run; expected weights alone. Convert it to "
            "safetensors where you trust it."
        ) from error
    except (OSError, EOFError, RuntimeError) as error:
        raise InputError(f"{path}: can't be read ({error}); expected a model's weights. Download it again.") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{path}: holds no dict of tensors; expected the weights of a model.")
    yield _Tensors(content, list(content), in_memory=True)
