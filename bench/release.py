"""From the commit of a release to the first answer of its version, while somebody keeps asking at both doors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc

from bench.figures import Bar, Figure, Result
from bench.live import MODEL, NAME, PROJECT, Stack, released
from mainspring.events.v1.registry_events_pb2 import ModelReleased
from mainspring.inference.v1 import answer_pb2
from mainspring.inference.v1 import inference_service_pb2 as pb
from mainspring_client.client import Mainspring
from mainspring_client.flywheel import Outcome, TurnUpdate, follow_turn
from mainspring_testkit.waiting import eventually

RELEASES_MIN = 5
BAR_S = 5.0
_OUTPUT_TOKENS = 8
_TIMEOUT_S = 30.0


@dataclass
class Asking:
    """What a caller who never stops saw at one door.

    Attributes:
        firsts: When the first answer of each version was whole, by version, in seconds since the epoch.
        answers: Answers so far.
        failures: Requests that failed, in words.
        slowest_s: Longest time that an answer took.
    """

    firsts: dict[str, float] = field(default_factory=dict[str, float])
    answers: int = 0
    failures: list[str] = field(default_factory=list[str])
    slowest_s: float = 0.0

    async def keep_asking(self, ask: Callable[[], Awaitable[str]]) -> None:
        """Asks until cancelled; `ask` returns the version that answered. Nothing is asked twice."""
        while True:
            began = time.monotonic()
            try:
                version = await ask()
            except (grpc.RpcError, aiohttp.ClientError, TimeoutError, KeyError, ValueError) as err:
                self.failures.append(f"{time.time():.3f} {type(err).__name__}: {str(err)[:300]}")
                await asyncio.sleep(0.05)
                continue
            self.firsts.setdefault(version, time.time())
            self.answers += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)


async def measure(stack: Stack, repeats: int) -> Result:
    """Trains, measures and releases one version after the other, each tuned from the one before."""
    count = max(RELEASES_MIN, repeats)
    doors = {"gRPC": Asking(), "HTTP": Asking()}
    committed: dict[str, float] = {}
    promoted: dict[str, float] = {}
    async with stack.client() as client, _listening(client, committed):
        for _ in range(count):
            version = await _turn(stack, client, doors, promoted)
            await eventually(lambda v=version: _has(committed, v), within_s=30, what="the release's event")
    versions = [version for version in committed if all(version in door.firsts for door in doors.values())]
    first = [min(door.firsts[v] for door in doors.values()) - committed[v] for v in versions]
    both = [max(door.firsts[v] for door in doors.values()) - committed[v] for v in versions]
    failures = [f"{name} {failure}" for name, door in doors.items() for failure in door.failures]
    return Result(
        "release",
        [
            Figure.of("release committed to first answer of the version, p50", "s", first, Bar(BAR_S)),
            Figure("the same, slowest", "s", max(first), tuple(first)),
            Figure.of("until both doors have answered with it, p50", "s", both),
            Figure("failed requests meanwhile", "requests", len(failures), bar=Bar(0)),
            Figure("slowest answer meanwhile", "s", max(door.slowest_s for door in doors.values())),
        ],
        {
            "releases": len(versions),
            "answers": {name: door.answers for name, door in doors.items()},
            "output_tokens": _OUTPUT_TOKENS,
            "failures": failures[:20],
            "promoted_after_s": [round(promoted[v] - committed[v], 2) for v in versions if v in promoted],
        },
    )


async def _has(found: dict[str, float], key: str) -> bool:
    return key in found


async def _turn(stack: Stack, client: Mainspring, doors: dict[str, Asking], promoted: dict[str, float]) -> str:
    """One turn from its data to its release; from its evaluation on somebody asks. Returns the version."""
    ingestion = await stack.ingest(client)
    async for update in follow_turn(client, MODEL, ingestion.cycle, ingestion=ingestion.name):
        if isinstance(update, Outcome):
            released(update)
            raise RuntimeError("the turn ended before its evaluation was seen")
        if update.step == "evaluation":
            break
    outcome: Outcome | None = None
    async with _asking(stack, client, doors):
        async for update in follow_turn(client, MODEL, ingestion.cycle):
            if not isinstance(update, TurnUpdate):
                outcome = update
        assert outcome is not None
        released(outcome)
        assert outcome.rollout is not None
        version = outcome.rollout.model_version
        promoted[version] = outcome.rollout.end_time.ToNanoseconds() / 1e9
        for door in doors.values():
            await eventually(lambda d=door: _has(d.firsts, version), within_s=60, what=f"an answer of {version}")
        # The old version is taken away only now; whoever asks must not notice.
        answers = {name: door.answers for name, door in doors.items()}
        for name, door in doors.items():
            await eventually(lambda d=door, n=name: _more(d, answers[n] + 5), within_s=60, what="more answers")
    return version


async def _more(door: Asking, answers: int) -> bool:
    return door.answers >= answers


@asynccontextmanager
async def _listening(client: Mainspring, committed: dict[str, float]) -> AsyncIterator[None]:
    """Notes when releases were committed: the event's time is that of its row in the registry's outbox."""

    async def listen() -> None:
        async for event in client.subscribe(PROJECT, ["mainspring.registry.model.released.v1"]):
            assert isinstance(event.data, ModelReleased)
            committed[event.data.model_version] = event.time.timestamp()

    listening = asyncio.create_task(listen())
    try:
        yield
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@asynccontextmanager
async def _asking(stack: Stack, client: Mainspring, doors: dict[str, Asking]) -> AsyncIterator[None]:
    """One caller at each door, who asks again as soon as he has his answer, and never asks anything twice."""
    # The generated stub, not the client, which would repeat a request that failed.
    stub, metadata = client.inference.stub, client.connection.metadata
    sampling = answer_pb2.SamplingParameters(max_output_tokens=_OUTPUT_TOKENS)
    parent = f"projects/{PROJECT}"
    message: dict[str, Any] = {"role": "user", "content": "Which colour has the sky?"}
    request = pb.GenerateAnswerRequest(parent=parent, model=MODEL, sampling=sampling)
    request.messages.add(role=1, content=message["content"])
    body = {"model": NAME, "messages": [message], "max_tokens": _OUTPUT_TOKENS}
    headers = {"authorization": f"Bearer {stack.token}", "openai-project": PROJECT}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)

    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:

        async def over_grpc() -> str:
            response: pb.GenerateAnswerResponse = await stub.GenerateAnswer(
                request, metadata=metadata, timeout=_TIMEOUT_S
            )
            return response.answer.model_version

        async def over_http() -> str:
            async with session.post(f"{stack.gateway}/v1/chat/completions", json=body) as response:
                response.raise_for_status()
                answer: dict[str, Any] = await response.json()
                version: str = answer["mainspring"]["model_version"]
                return version

        tasks = [
            asyncio.create_task(doors["gRPC"].keep_asking(over_grpc)),
            asyncio.create_task(doors["HTTP"].keep_asking(over_http)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
