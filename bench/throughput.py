"""Tokens per second of the same model three ways in one run: the bare engine, the gRPC door, the HTTP door."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from bench.children import Child, child
from bench.figures import Bar, Figure, Result
from bench.live import MODEL, NAME, PROJECT, Stack
from bench.machine import BUSY_CORES, ROOT, TRITON_PYTHON, Others
from mainspring.inference.v1 import answer_pb2
from mainspring_answers.domain import Route
from mainspring_answers.templates import JinjaTemplates
from mainspring_client.client import Mainspring
from mainspring_svckit.values import Message

CONCURRENCY, REQUESTS, NEW_TOKENS = 8, 24, 64
RATIO_BAR = 0.85
# Far above what a person would choose: the end of an answer is then hardly ever drawn, and every side gets the same.
_SAMPLING = {"max_tokens": NEW_TOKENS, "temperature": 1.5}
_TIMEOUT_S = 600.0
_WORDS = (
    "river",
    "stone",
    "market",
    "winter",
    "engine",
    "letter",
    "garden",
    "window",
    "captain",
    "bread",
    "silver",
    "mountain",
    "teacher",
    "bridge",
    "music",
    "paper",
    "doctor",
    "island",
    "forest",
    "candle",
    "kitchen",
    "station",
    "village",
    "orange",
    "table",
    "summer",
    "horse",
    "planet",
    "mirror",
    "basket",
)


@dataclass(frozen=True)
class Asked:
    """One request: tokens read and generated, and seconds to the first text."""

    input_tokens: int
    output_tokens: int
    first_s: float


@dataclass(frozen=True)
class Pass:
    """One side's requests, and the seconds from the first's beginning to the last's end."""

    seconds: float
    asked: Sequence[Asked]

    @property
    def tokens_per_s(self) -> float:
        return sum(one.output_tokens for one in self.asked) / self.seconds

    @property
    def first_s(self) -> float:
        return median(one.first_s for one in self.asked)


Side = Callable[[Sequence[str]], Awaitable[Pass]]


async def measure(stack: Stack, repeats: int) -> Result:
    """Lets the three sides take turns, each time with prompts that none of them has seen."""
    repeats = max(repeats, 3)
    passes: dict[str, list[Pass]] = {"engine": [], "grpc": [], "http": []}
    busy: dict[str, list[float]] = {name: [] for name in passes}
    async with stack.client() as client, _http(stack) as session, _engine(stack, client) as bare:
        sides: dict[str, Side] = {"engine": bare, "grpc": _grpc(client), "http": _gateway(session, stack.gateway)}
        for side in sides.values():
            await side(_prompts(random.Random(0), CONCURRENCY))  # Fills caches and opens connections; not counted.
        numbers = random.Random(1)
        for number in range(repeats):
            # Whoever comes first may find another machine than whoever comes last, so the order turns.
            names = [*sides][number % 3 :] + [*sides][: number % 3]
            for name in names:
                others = Others(str(stack.data))
                passes[name].append(await sides[name](_prompts(numbers, REQUESTS)))
                busy[name].append(round(others.cores(), 2))
    warnings = ["others were busy while it ran; see others_cores"] if _any_busy(busy) else []
    return Result("throughput", _figures(passes), {**_details(passes), "others_cores": busy}, warnings)


def _any_busy(cores: dict[str, list[float]]) -> bool:
    return any(value > BUSY_CORES for values in cores.values() for value in values)


def _figures(passes: dict[str, list[Pass]]) -> list[Figure]:
    labels = {"engine": "bare engine", "grpc": "gRPC door", "http": "HTTP door"}
    made: list[Figure] = []
    for name, label in labels.items():
        made.append(Figure.of(f"{label}, generated", "tokens/s", [p.tokens_per_s for p in passes[name]]))
        made.append(Figure.of(f"{label}, time to first text p50", "s", [p.first_s for p in passes[name]]))
    for name in ("grpc", "http"):
        pairs = zip(passes[name], passes["engine"], strict=True)
        ratios = [door.tokens_per_s / bare.tokens_per_s for door, bare in pairs]
        made.append(Figure.of(f"{labels[name]} / bare engine", "ratio", ratios, Bar(RATIO_BAR, at_least=True)))
    return made


def _details(passes: dict[str, list[Pass]]) -> dict[str, Any]:
    asked = {name: [one for p in of for one in p.asked] for name, of in passes.items()}
    return {
        "concurrency": CONCURRENCY,
        "requests_per_pass": REQUESTS,
        "sampling": _SAMPLING,
        "mean_input_tokens": {n: round(sum(a.input_tokens for a in of) / len(of), 1) for n, of in asked.items()},
        "mean_output_tokens": {n: round(sum(a.output_tokens for a in of) / len(of), 1) for n, of in asked.items()},
    }


def _prompts(numbers: random.Random, count: int) -> list[str]:
    """Texts that begin differently, so that nothing but the template's beginning is found in a cache."""
    return [f"Tell a long story with these words: {' '.join(numbers.choices(_WORDS, k=88))}." for _ in range(count)]


async def _at_once(prompts: Sequence[str], one: Callable[[str], Awaitable[Asked]]) -> Pass:
    slots = asyncio.Semaphore(CONCURRENCY)

    async def when_free(prompt: str) -> Asked:
        async with slots:
            return await one(prompt)

    began = time.monotonic()
    asked = await asyncio.gather(*map(when_free, prompts))
    return Pass(time.monotonic() - began, asked)


def _grpc(client: Mainspring) -> Side:
    sampling = answer_pb2.SamplingParameters(max_output_tokens=NEW_TOKENS, temperature=_SAMPLING["temperature"])

    async def one(prompt: str) -> Asked:
        began, first_s = time.monotonic(), 0.0
        async for event in client.inference.stream(MODEL, prompt, sampling=sampling):
            first_s = first_s or time.monotonic() - began
            if isinstance(event, answer_pb2.Answer):
                return Asked(event.usage.input_tokens, event.usage.output_tokens, first_s)
        raise AssertionError("a stream ends with the whole answer")

    return lambda prompts: _at_once(prompts, one)


@asynccontextmanager
async def _http(stack: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"authorization": f"Bearer {stack.token}", "openai-project": PROJECT}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield session


def _gateway(session: aiohttp.ClientSession, address: str) -> Side:
    async def one(prompt: str) -> Asked:
        messages = [{"role": "user", "content": prompt}]
        options = {"stream": True, "stream_options": {"include_usage": True}}
        began, first_s = time.monotonic(), 0.0
        usage: dict[str, int] | None = None
        body = {"model": NAME, "messages": messages, **options, **_SAMPLING}
        async with session.post(f"{address}/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if not first_s and event["choices"] and event["choices"][0]["delta"].get("content"):
                    first_s = time.monotonic() - began
                usage = event.get("usage") or usage
        assert usage is not None, "the stream was cut short"
        return Asked(usage["prompt_tokens"], usage["completion_tokens"], first_s)

    return lambda prompts: _at_once(prompts, one)


@asynccontextmanager
async def _engine(stack: Stack, client: Mainspring) -> AsyncIterator[Side]:
    """The engine alone in a process of its own, with the files, slots and threads that Triton's has."""
    version = await client.registry.version(f"{MODEL}@champion")
    serving = version.serving
    route = Route(
        model_version=version.name,
        release="",
        percent=100,
        triton_model="",
        context_tokens=serving.context_tokens,
        chat_template=serving.chat_template,
        bos_token=serving.bos_token,
        eos_token=serving.eos_token,
    )
    templates, adapter = JinjaTemplates(), version.artifacts["adapter.gguf"].sha256
    spec = await asyncio.to_thread(served_spec, stack.data / "triton" / "repository", adapter)
    worker = ROOT / "bench" / "workers" / "engine.py"
    async with child(stack.data / "bench-engine.log", TRITON_PYTHON, worker) as process:
        process.send(spec)
        assert await process.receive(within_s=60) == "ready"

        async def side(prompts: Sequence[str]) -> Pass:
            rendered = [templates.render(route, [Message("user", prompt)]) for prompt in prompts]
            return await _ask_child(process, rendered)

        yield side


async def _ask_child(process: Child, prompts: Sequence[str]) -> Pass:
    process.send({"prompts": prompts, "concurrency": CONCURRENCY, "sampling": _SAMPLING})
    answer = await process.receive(within_s=_TIMEOUT_S)
    asked = [Asked(one["input_tokens"], one["output_tokens"], one["first_s"]) for one in answer["requests"]]
    return Pass(answer["seconds"], asked)


def served_spec(repository: Path, adapter_sha256: str) -> dict[str, Any]:
    """What Triton's engine was told of the model with this adapter.

    Raises:
        RuntimeError: Triton's repository holds no such model.
    """
    for path in sorted(repository.glob("*/config.pbtxt")):
        found = re.search(r'string_value: ("(?:[^"\\]|\\.)*")', path.read_text())
        spec: dict[str, Any] = json.loads(json.loads(found[1])) if found else {}
        if adapter_sha256 in spec.get("adapter", ""):
            return spec
    raise RuntimeError(f"{repository} holds no model with the adapter {adapter_sha256}; is the version deployed?")
