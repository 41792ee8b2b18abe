"""Tiny models in the formats of real ones, served by the real Triton."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio

from mainspring_answers.triton import TritonClient
from mainspring_inference.adapters import triton_repository
from mainspring_inference.adapters.triton_repository import ModelUse, TritonModel
from mainspring_modelfiles import adapters, importer
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.ids import new_id
from mainspring_testkit.tiny import LlamaShape, tiny_adapter, tiny_bert, tiny_llama
from mainspring_testkit.triton_server import TritonServer
from mainspring_testkit.waiting import eventually

# Slow enough on any machine that a whole answer takes several seconds.
_SLOW = LlamaShape(hidden=384, layers=8, heads=8, kv_heads=8, feed_forward=1024, context_tokens=4096)


@dataclass(frozen=True)
class TinyFiles:
    """Files for serving, and the Hugging Face folders that they were made of."""

    llama: Path
    llama_folder: Path
    adapter: Path
    adapter_folder: Path
    bert: Path
    bert_folder: Path


Reached = Callable[[], Awaitable[bool]]
Standing = Callable[[], Awaitable[None]]


class Serve(Protocol):
    """Returns the name of a model that answers. Models are kept for later tests, since unloading takes a second; a
    test that kills or unloads one is followed by a new load.
    """

    async def __call__(
        self,
        gguf: Path | None = None,
        *,
        kind: ModelUse = ModelUse.GENERATE,
        adapter: Path | None = None,
        context_tokens: int = 256,
        slots: int = 8,
    ) -> str: ...


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFiles:
    """Made by the registry's importer and the trainer's converter."""
    folder = tmp_path_factory.mktemp("tiny")
    llama, bert = tiny_llama(folder / "llama-hf"), tiny_bert(folder / "bert-hf")
    for kind, source in (("FOUNDATION", llama), ("EMBEDDING", bert)):
        (folder / kind).mkdir()
        importer.run(kind, "", str(source), 0, folder / kind)
    adapter = tiny_adapter(folder / "adapter-hf")
    adapters.convert(adapter, llama, folder / "adapter.gguf")
    served = (folder / kind / "model.gguf" for kind in ("FOUNDATION", "EMBEDDING"))
    return TinyFiles(next(served), llama, folder / "adapter.gguf", adapter, next(served), bert)


@pytest.fixture(scope="session")
def slow_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose long answers take seconds."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "out").mkdir()
    source = tiny_llama(folder / "hf", shape=_SLOW, endless=True)
    importer.run("FOUNDATION", "", str(source), _SLOW.context_tokens, folder / "out")
    return folder / "out" / "model.gguf"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(triton: TritonServer) -> AsyncIterator[TritonClient]:
    """A client of the session's Triton."""
    made = TritonClient(triton.address)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(scope="session")
def reached(client: TritonClient) -> Reached:
    """Whether the client has found the server, which a test may just have started anew."""

    async def answers() -> bool:
        try:
            await client.check_server()
        except Unavailable:
            return False
        return True

    return answers


@pytest.fixture(scope="session")
def standing(triton: TritonServer, reached: Reached) -> Standing:
    """Waits for the server. One that no longer answers, as was seen twice of Triton 2.51 after a test had killed a
    model's process, is started anew, as the stack's supervisor does.
    """

    async def stand() -> None:
        try:
            await eventually(reached)
        except AssertionError:
            await triton.kill()
            await triton.start()
            await eventually(reached, what="Triton to be reached")

    return stand


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served() -> dict[TritonModel, str]:
    """Names of the models that were served by what they are."""
    return {}


@pytest_asyncio.fixture(loop_scope="session")
async def serve(
    triton: TritonServer, client: TritonClient, tiny: TinyFiles, standing: Standing, served: dict[TritonModel, str]
) -> Serve:
    """Serves models; see `Serve`."""

    async def load(
        gguf: Path | None = None,
        *,
        kind: ModelUse = ModelUse.GENERATE,
        adapter: Path | None = None,
        context_tokens: int = 256,
        slots: int = 8,
    ) -> str:
        await standing()
        if kind is ModelUse.EMBED:
            gguf, context_tokens = gguf or tiny.bert, 64
        model = TritonModel(kind, gguf or tiny.llama, context_tokens, adapter=adapter, slots=slots)
        name = served.setdefault(model, f"test-{new_id()}")
        if (await client.index()).get(name) != "READY" or not await client.is_ready(name):
            triton_repository.write(triton.repository, name, model)
            await client.load(name)
        return name

    return load
