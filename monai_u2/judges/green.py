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

"""A GREEN model of Hugging Face as judge."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_u2.data.fingerprint import fingerprint
from monai_u2.exceptions import InputError
from monai_u2.judges.base import FindingErrors, Judge
from monai_u2.judges.cache import JudgementCache
from monai_u2.judges.green_format import parse_green

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_PLACES = ("{reference}", "{candidate}")


class GreenJudge(Judge):
    """Lets a GREEN model (`StanfordAIMI/GREEN-*`) compare the reports, and reads what it writes.

    Decoding is greedy. Nothing is cut: a pair that doesn't fit into the model's context fails, a text that doesn't end
    within `max_new_tokens` is truncated, and neither has a score. The official code cuts reports, and scores what it
    can't read 0. The model is loaded when it is first needed.

    Args:
        checkpoint: folder of the model and its tokenizer, downloaded from Hugging Face.
        prompt_file: text file of the prompt, with `{reference}` and `{candidate}` in the reports' places; None takes
            the prompt of the installed `green_score` package, which GREEN was trained with.
        device: where the model runs.
        dtype: type of its weights, `"auto"` for that of the folder.
        batch_size: pairs at once.
        max_new_tokens: largest length of the model's text.
        cache_dir: folder of judgements; what is in it is never judged again. None for no cache.

    Raises:
        InputError: when the folder holds no model, or there is no prompt.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None,
        prompt_file: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: str = "auto",
        batch_size: int = 8,
        max_new_tokens: int = 1024,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if checkpoint is None or not (Path(checkpoint) / "config.json").is_file():
            raise InputError(
                f"GREEN checkpoint {checkpoint}: no config.json there; expected the folder of a GREEN model, "
                "downloaded from Hugging Face."
            )
        self.checkpoint = Path(checkpoint)
        self.prompt = _official_prompt() if prompt_file is None else _prompt_of_file(Path(prompt_file))
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.cache = JudgementCache(cache_dir)
        self.name = f"GREEN {self.checkpoint.resolve().name}"
        self.version = f"1+{fingerprint(self.prompt, max_new_tokens)[:8]}"

    @cached_property
    def model(self) -> Any:
        """The language model, loaded on first use."""
        from transformers import AutoModelForCausalLM

        options = {"local_files_only": True, "trust_remote_code": False, "dtype": self.dtype}
        model, info = AutoModelForCausalLM.from_pretrained(self.checkpoint, output_loading_info=True, **options)
        if info["missing_keys"]:
            raise InputError(
                f"GREEN checkpoint {self.checkpoint}: lacks {len(info['missing_keys'])} weights, such as "
                f"{sorted(info['missing_keys'])[0]}; expected all of the model. Download it again."
            )
        return model.to(self.device).eval()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its text tokenizer, loaded on first use."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.checkpoint, local_files_only=True, trust_remote_code=False)
        if tokenizer.eos_token is None:
            raise InputError(
                f"GREEN checkpoint {self.checkpoint}: its tokenizer has no end-of-text token; expected that of GREEN."
            )
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _judge(self, pairs: list[tuple[str, str]]) -> list[FindingErrors]:
        keys = [fingerprint(self.name, self.version, *pair) for pair in pairs]
        waiting = dict(zip(keys, pairs))
        results = {key: known for key in waiting if (known := self.cache.get(key)) is not None}
        prompts = {key: self._render(*pair) for key, pair in waiting.items() if key not in results}
        fitting = []
        for key, prompt in prompts.items():
            problem = self._too_long(prompt)
            if problem:
                results[key] = FindingErrors(status="failed", explanation=problem)
            else:
                fitting.append(key)
        for start in range(0, len(fitting), self.batch_size):
            batch = fitting[start : start + self.batch_size]
            for key, errors in zip(batch, self._generate([prompts[key] for key in batch])):
                self.cache.put(key, errors)
                results[key] = errors
        return [results[key] for key in keys]

    def _render(self, reference: str, candidate: str) -> str:
        """Return the prompt in the turns that GREEN was trained with; its tokenizers' own templates may be others."""
        texts = dict(zip(_PLACES, (reference, candidate)))
        # in one go: a report that holds a placeholder itself stays as it is
        prompt = re.sub("|".join(map(re.escape, _PLACES)), lambda place: texts[place[0]], self.prompt)
        return f"<|user|>\n{prompt}{self.tokenizer.eos_token}\n<|assistant|>\n"

    def _too_long(self, prompt: str) -> str:
        length = len(self.tokenizer(prompt)["input_ids"])
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context is None or length + self.max_new_tokens <= context:
            return ""
        return f"the prompt has {length} tokens, the answer up to {self.max_new_tokens}; the model holds {context}"

    def _generate(self, prompts: list[str]) -> list[FindingErrors]:
        import torch

        batch = self.tokenizer(prompts, padding=True, return_tensors="pt").to(self.device)
        end = self.tokenizer.eos_token_id
        with torch.no_grad():
            ids = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=end,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        return [self._read(row.tolist()) for row in ids[:, batch["input_ids"].shape[1] :]]

    def _read(self, ids: list[int]) -> FindingErrors:
        errors = parse_green(self.tokenizer.decode(ids, skip_special_tokens=True))
        if self.tokenizer.eos_token_id in ids:
            return errors
        told = f"the text doesn't end within {self.max_new_tokens} tokens"
        return FindingErrors(status="truncated", explanation=told)


def _official_prompt() -> str:
    try:
        from green_score.utils import make_prompt
    except ImportError as error:
        raise InputError(
            f"GREEN's prompt: the package green_score can't be imported ({error}); expected it beside this package, or "
            "a prompt_file. Install it from https://github.com/Stanford-AIMI/GREEN, or write its prompt to a file with "
            "{reference} and {candidate} in the reports' places."
        ) from error
    return _checked(make_prompt(*_PLACES), "the prompt of the installed green_score")


def _prompt_of_file(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"prompt file {path} does not exist; expected a text with {' and '.join(_PLACES)}.")
    return _checked(path.read_text(encoding="utf-8"), f"prompt file {path}")


def _checked(prompt: str, what: str) -> str:
    for place in _PLACES:
        if place not in prompt:
            raise InputError(f"{what} has no {place}; expected it where the report is to stand.")
    return prompt
