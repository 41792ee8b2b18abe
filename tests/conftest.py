"""One stack for all tests that need the whole, with tiny random models through real Triton."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.support.stack import Stack

from mainspring_client.client import Mainspring
from mainspring_testkit.servers import scratch_folder
from mainspring_testkit.tiny import tiny_bert, tiny_llama


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    """One stack for the session; tests keep apart by project. It is stopped at the end, and leaves nothing behind."""
    # Not in pytest's own temporary folder: for root, Postgres runs as somebody who may not pass through that.
    async with scratch_folder("e2e") as folder:
        models = folder / "models"
        tiny_llama(models / "llama")
        tiny_bert(models / "bert")
        made = Stack(folder / "data", models)
        try:
            await made.up()
            yield made
        finally:
            await made.down()
            assert made.processes() == []


@pytest_asyncio.fixture(loop_scope="session")
async def client(stack: Stack) -> AsyncIterator[Mainspring]:
    """A client of the stack."""
    async with stack.client() as connected:
        yield connected
