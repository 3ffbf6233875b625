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

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.chat_server import SECRET, ChatServer, serving

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from xdist.scheduler import LoadScopeScheduling

    from monai_u2.networks import U2LLM

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers with as many threads as cores each hinder each other

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles" / "u2llm"
LONGEST = (
    "tests/test_docs.py::test_commands_run[docs/training.md]",
    "tests/benchmarks/test_tokenizer.py",
    "tests/bundle/test_multi_gpu_train.py",
    "tests/bundle/test_training.py",
    "tests/bundle/test_dpo.py",
    "tests/test_docs.py::test_commands_run[docs/preferences.md]",
    "tests/test_docs.py::test_commands_run[docs/models.md]",
)


def _shared_by(node_id: str) -> str:
    """What one worker takes: a file, whose tests may share fixtures, or the commands of one page of the docs."""
    return node_id if "::test_commands_run[" in node_id else node_id.split("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: LONGEST.index(name) if (name := _shared_by(item.nodeid)) in LONGEST else len(LONGEST))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = _shared_by
    return scheduler


@pytest.fixture(scope="session")
def bundle() -> Path:
    return BUNDLE


@pytest.fixture(scope="session")
def text_tokenizer() -> PreTrainedTokenizerBase:
    from monai_u2.data import load_text_tokenizer

    return load_text_tokenizer(BUNDLE / "models" / "text_tokenizer")


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    """A server with OpenAI's chat protocol; its API key is in CHAT_KEY."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CHAT_KEY", SECRET)
    with serving(lambda body: (body["messages"][-1]["content"], "fine")) as server:
        yield server


@pytest.fixture
def tiny_u2llm() -> U2LLM:
    """A model of a few thousand random weights: slabs (8, 32, 32), 4 image tokens, 5 findings, vocabulary 100."""
    import torch

    from monai_u2.networks import U2LLM, U2LLMConfig

    torch.manual_seed(0)
    config = U2LLMConfig(
        text_config={
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": 100,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
        vision={
            "image_size": (8, 32, 32),
            "patch_size": (4, 8, 8),
            "hidden_size": 48,
            "mlp_dim": 96,
            "num_layers": 1,
            "num_heads": 4,
        },
        u2_tokenizer={"num_heads": 4, "num_layers": 1, "num_selected": 8, "num_queries": 4},
        image_token_id=99,
        num_findings=5,
    )
    return U2LLM(config).eval()


InProcesses = Callable[..., list[Any]]


def _one_of_several(rank: int, number: int, port: int, folder: Path, function: Callable[..., Any], args: tuple) -> None:
    import torch

    from monai_u2.processes import end_processes, start_processes

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    start_processes(timeout_minutes=1)
    torch.save(function(*args), folder / f"{rank}.pt")
    end_processes()


@pytest.fixture
def in_processes(tmp_path_factory: pytest.TempPathFactory) -> InProcesses:
    """Call `function(*args)` in so many processes that know each other, and return what each gives, in their order."""

    def run(number: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        import torch

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder = tmp_path_factory.mktemp("results")
        processes = [
            multiprocessing.get_context("fork").Process(
                target=_one_of_several, args=(rank, number, port, folder, function, args), daemon=True
            )
            for rank in range(number)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=120)
            process.kill()
        assert [process.exitcode for process in processes] == [0] * number
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(number)]

    return run
