"""What the real Triton does when it, a model or a caller fails, and what of it is closed to everybody."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest

from mainspring_answers.domain import Sampling
from mainspring_answers.triton import TritonClient
from mainspring_answers.triton_protocol import SERVICE
from mainspring_inference.adapters import triton_repository
from mainspring_inference.adapters.triton_repository import ModelUse, TritonModel
from mainspring_svckit.errors import PreconditionFailed, Unavailable
from mainspring_testkit.triton_server import TritonServer
from mainspring_testkit.waiting import eventually

if TYPE_CHECKING:
    from conftest import Reached, Serve, TinyFiles

PROMPT = "Return the number"
LONG = Sampling(3_000, 0.0)


async def say(client: TritonClient, model: str, sampling: Sampling | None = None) -> str:
    wish = sampling or Sampling(20, 1.0, seed=1)
    return "".join([chunk.text async for chunk in client.generate(model, PROMPT, wish)])


async def unavailable(client: TritonClient, model: str) -> str:
    with pytest.raises(Unavailable) as caught:
        await say(client, model)
    return caught.value.reason


async def test_an_adapter_changes_the_answer_and_not_the_base_beside_it(
    client: TritonClient, serve: Serve, tiny: TinyFiles
) -> None:
    base = await serve()
    alone = await say(client, base)
    tuned = await serve(adapter=tiny.adapter)
    said = await asyncio.gather(say(client, tuned), say(client, base))
    assert said[0] != alone
    assert said[1] == await say(client, base) == alone


async def test_a_model_is_there_when_it_is_loaded_and_gone_when_it_is_unloaded(
    client: TritonClient, serve: Serve
) -> None:
    model = await serve(slots=3)
    assert (await client.index())[model] == "READY"
    await client.check(model)
    await client.unload(model)
    assert not await client.is_ready(model)
    assert await unavailable(client, model) == "MODEL_NOT_READY"
    await client.unload(model)
    await client.unload("test-never-heard-of")
    assert await unavailable(client, "test-never-heard-of") == "MODEL_NOT_READY"
    await client.load(model)
    assert await say(client, model)


@pytest.mark.parametrize("broken", ["missing", "empty", "truncated", "garbage", "another kind", "adapter as model"])
async def test_f16_a_model_with_broken_files_is_refused_and_harms_no_other(
    client: TritonClient, serve: Serve, triton: TritonServer, tiny: TinyFiles, tmp_path: Path, broken: str
) -> None:
    other = await serve()
    path, whole = tmp_path / "model.gguf", tiny.llama.read_bytes()
    match broken:
        case "missing":
            pass
        case "empty":
            path.touch()
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "garbage":
            path.write_bytes(whole[:64] + os.urandom(4096))
        case "another kind":
            path.write_bytes(b'{"not": "a model"}' * 100)
        case _:
            path.write_bytes(tiny.adapter.read_bytes())
    name = f"test-{broken.replace(' ', '-')}"
    triton_repository.write(triton.repository, name, TritonModel(ModelUse.GENERATE, path, 256))
    with pytest.raises(PreconditionFailed) as caught:
        await client.load(name)
    assert caught.value.reason == "MODEL_LOAD_FAILED"
    assert "ENGINE_FAILED" in caught.value.message
    assert ("fetch the model's files again" in caught.value.message) == (broken == "missing")
    assert not await client.is_ready(name)
    assert await say(client, other)
    await client.check_server()
    await client.unload(name)


async def test_f16_a_broken_adapter_is_refused(
    client: TritonClient, triton: TritonServer, tiny: TinyFiles, tmp_path: Path, reached: Reached
) -> None:
    await eventually(reached)
    broken = tmp_path / "adapter.gguf"
    broken.write_bytes(tiny.adapter.read_bytes()[:5_000])
    model = TritonModel(ModelUse.GENERATE, tiny.llama, 256, adapter=broken)
    triton_repository.write(triton.repository, "test-broken-adapter", model)
    with pytest.raises(PreconditionFailed) as caught:
        await client.load("test-broken-adapter")
    assert caught.value.reason == "MODEL_LOAD_FAILED"
    await client.unload("test-broken-adapter")


async def test_f18_a_caller_who_leaves_frees_the_engine_within_a_second(
    client: TritonClient, serve: Serve, slow_llama: Path
) -> None:
    model = await serve(slow_llama, context_tokens=4096, slots=1)
    began = time.monotonic()
    await say(client, model, Sampling(1))
    alone_s = time.monotonic() - began
    async with aclosing(client.generate(model, PROMPT, LONG)) as stream:
        await anext(stream)
        # There is one slot, and it is taken for a long time.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(say(client, model, Sampling(1)), 2)
    left = time.monotonic()
    await say(client, model, Sampling(1))
    # A second; more only where everything takes long, because others use the machine.
    assert time.monotonic() - left < max(1.0, 20 * alone_s)
    # Triton 2.51 may keep requests that were cancelled, and then never lets their model go.
    await client.unload(model, timeout_s=20)


async def test_f18_callers_who_leave_at_any_moment_do_not_keep_a_model_from_being_unloaded(
    client: TritonClient, serve: Serve
) -> None:
    model = await serve(slots=2)

    async def leave(after_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                await say(client, model, Sampling(100, 0.0))

    await asyncio.gather(*(leave(n / 1_000) for n in range(100)))
    assert await say(client, model)
    await client.unload(model, timeout_s=20)


async def test_i9_a_model_whose_process_died_is_not_ready_whatever_the_server_says(
    client: TritonClient, serve: Serve, triton: TritonServer
) -> None:
    model, other = await serve(slots=4), await serve()
    os.kill(triton.model_pid(model), signal.SIGKILL)

    async def noticed() -> bool:
        return not await client.is_ready(model)

    await eventually(noticed, within_s=5, what="the dead model to be noticed")
    with pytest.raises(Unavailable):
        await client.check(model)
    assert (await client.index())[model] == "READY"
    assert await say(client, other)
    assert await serve(slots=4) == model
    assert await say(client, model)
    # Not only the first time: without a change in its folder Triton takes a dead model for loaded.
    os.kill(triton.model_pid(model), signal.SIGKILL)
    await eventually(noticed, within_s=5, what="the dead model to be noticed")
    assert await serve(slots=4) == model
    assert await say(client, model)


async def test_i12_a_stream_whose_model_dies_ends_with_an_error(
    client: TritonClient, serve: Serve, triton: TritonServer, slow_llama: Path
) -> None:
    model = await serve(slow_llama, context_tokens=4096, slots=2)
    async with aclosing(client.generate(model, PROMPT, LONG)) as stream:
        await anext(stream)
        os.kill(triton.model_pid(model), signal.SIGKILL)
        with pytest.raises(Unavailable) as caught:
            async with asyncio.timeout(30):
                async for chunk in stream:
                    assert chunk.finish_reason is None
    assert caught.value.reason == "MODEL_NOT_READY"
    assert await serve(slow_llama, context_tokens=4096, slots=2) == model
    await client.probe(model)


async def test_f16_a_killed_server_breaks_streams_off_and_serves_again_after_a_restart_and_a_load(
    client: TritonClient, serve: Serve, triton: TritonServer, slow_llama: Path, reached: Reached
) -> None:
    model = await serve(slow_llama, context_tokens=4096, slots=2)
    try:
        async with aclosing(client.generate(model, PROMPT, LONG)) as stream:
            await anext(stream)
            await triton.kill()
            with pytest.raises(Unavailable) as caught:
                async for chunk in stream:
                    assert chunk.finish_reason is None
        assert caught.value.reason == "TRITON_UNAVAILABLE"
        assert await unavailable(client, model) == "TRITON_UNAVAILABLE"
        assert not await client.is_ready(model)
    finally:
        await triton.restart()
    await eventually(reached, what="Triton to be reached")
    assert await unavailable(client, model) == "MODEL_NOT_READY"
    await client.load(model)
    await client.check(model)


async def test_shared_memory_traces_and_logs_are_closed_to_everybody(triton: TritonServer, reached: Reached) -> None:
    await eventually(reached)
    channel = grpc.aio.insecure_channel(triton.address)
    for method in ("SystemSharedMemoryStatus", "CudaSharedMemoryStatus", "TraceSetting", "LogSettings"):
        call = channel.unary_unary(SERVICE + method)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "restricted" in str(refused.value.details())
    await channel.close()
    paths = ("v2/systemsharedmemory/status", "v2/trace/setting", "v2/logging", "v2/repository/index")
    for path in paths:
        with pytest.raises(HTTPError) as answered:
            body = b"{}" if path.endswith("index") else None
            await asyncio.to_thread(urlopen, Request(f"{triton.http_url}/{path}", body), timeout=5)
        answered.value.close()
        assert answered.value.code == 403
