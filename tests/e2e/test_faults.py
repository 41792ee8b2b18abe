"""The loop under faults: every process killed once while it turns, and every effect still there once."""

import asyncio
from collections import Counter
from pathlib import Path

import grpc
import httpx
import pytest
from tests.support import loop
from tests.support.stack import Stack

from mainspring.inference.v1 import answer_pb2
from mainspring_client.client import Mainspring
from mainspring_client.flywheel import Result, TurnUpdate
from mainspring_client.stack import credentials
from mainspring_client.stack.folder import DataFolder
from mainspring_eventkit.bus import Bus
from mainspring_svckit.errors import InvalidInput, MainspringError
from mainspring_svckit.ids import new_id
from mainspring_testkit.waiting import eventually

# Which processes die when a step is first seen; together they are all of them.
KILLS = {
    "ingestion": ("data-ingest", "nats"),
    "training": ("trainer", "registry", "postgres"),
    "evaluation": ("evaluator", "inference", "triton"),
    "rollout": ("feedback", "embedder", "gateway", "console"),
}


@pytest.mark.timeout(400)
async def test_f1_f3_f6_f16_every_process_is_killed_once_while_the_loop_turns(
    stack: Stack, client: Mainspring, tmp_path: Path
) -> None:
    project, model = "killed", f"projects/killed/models/{loop.NAME}"
    base = await loop.import_base(client, project, stack.models)
    await client.apply(loop.configuration(project, base))
    killed: Counter[str] = Counter()

    async def kill(update: TurnUpdate) -> None:
        for name in KILLS.get(update.step, ()):
            if not killed[name]:
                killed[name] += 1
                await stack.kill(name)

    rows = loop.write(tmp_path / "in.jsonl", loop.rows(0, 120))
    outcome = await loop.turn(client, project, await loop.ingest(client, project, rows), kill)
    assert outcome.result is Result.RELEASED, outcome.reason
    assert set(killed) == {name for names in KILLS.values() for name in names}
    await stack.ready()

    # Nothing is lost, and nothing happened twice.
    assert [v.name async for v in client.data.versions(f"projects/{project}/datasets/{loop.NAME}")] == [
        f"projects/{project}/datasets/{loop.NAME}/versions/1"
    ]
    assert len([run async for run in client.training.runs(project)]) == 1
    assert len([run async for run in client.evaluation.runs(project)]) == 1
    assert [v.name async for v in client.registry.versions(model)] == [f"{model}/versions/1"]
    assert len([d async for d in client.registry.decisions(model)]) == 1
    assert len([r async for r in client.registry.releases(model)]) == 1
    assert len([r async for r in client.inference.rollouts(project)]) == 1
    answer = await client.inference.answer(model, loop.question(1))
    assert answer.model_version == f"{model}/versions/1"


async def test_f12_a_poison_event_becomes_a_dead_letter_and_the_loop_goes_on(
    stack: Stack, client: Mainspring, tmp_path: Path
) -> None:
    project = "poison"
    folder = DataFolder.at(stack.data)
    password = credentials.bus_password(folder, "data-ingest")
    nats = stack.state["ports"]["nats"]
    bus = await Bus.connect(f"nats://data-ingest:{password}@127.0.0.1:{nats}", name="poison")
    event_id = new_id()
    try:
        headers = {
            "ce-specversion": "1.0",
            "ce-id": event_id,
            "ce-type": "mainspring.data.dataset_version.published.v1",
            "ce-source": "/services/data-ingest",
            "ce-subject": f"projects/{project}/datasets/d/versions/1",
            "content-type": "application/json",
        }
        subject = f"mainspring.events.{project}.data.dataset_version.published.v1"
        await bus.publish(subject, b'{"datasetVersion": 7, "nonsense": ', headers, message_id=event_id)
    finally:
        await bus.close()

    async def dead() -> bool:
        return event_id in await stack.run("events", "dlq", "list", "--json")

    await eventually(dead, within_s=60, what="the event among the dead letters")

    base = await loop.import_base(client, project, stack.models)
    await client.apply(loop.configuration(project, base))
    rows = loop.write(tmp_path / "in.jsonl", loop.rows(0, 100))
    outcome = await loop.turn(client, project, await loop.ingest(client, project, rows))
    assert outcome.result is Result.RELEASED, outcome.reason


async def test_f16_triton_killed_comes_back_with_its_models(stack: Stack, client: Mainspring, tmp_path: Path) -> None:
    project, model = "triton", f"projects/triton/models/{loop.NAME}"
    base = await loop.import_base(client, project, stack.models)
    await client.apply(loop.configuration(project, base))
    rows = loop.write(tmp_path / "in.jsonl", loop.rows(0, 100))
    outcome = await loop.turn(client, project, await loop.ingest(client, project, rows))
    assert outcome.result is Result.RELEASED, outcome.reason
    before = await client.inference.answer(model, loop.question(1))

    readyz = f"http://127.0.0.1:{stack.state['ports']['inference-ops']}/readyz"
    seen: set[int] = set()

    async def watch() -> None:
        async with httpx.AsyncClient() as http:
            while True:
                seen.add((await http.get(readyz)).status_code)
                await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        await stack.kill("triton")

        async def answers() -> str:
            try:
                return (await client.inference.answer(model, loop.question(1))).text
            except MainspringError:
                return ""

        assert await eventually(answers, within_s=90, what="an answer after Triton was killed") == before.text
        await stack.ready()
    finally:
        watching.cancel()
    assert 503 in seen, "inference said that it was ready while Triton was not there"


async def test_b4_f18_a_prompt_longer_than_the_context_and_a_caller_that_leaves(
    stack: Stack, client: Mainspring, tmp_path: Path
) -> None:
    project, model = "bounds", f"projects/bounds/models/{loop.NAME}"
    base = await loop.import_base(client, project, stack.models)
    await client.apply(loop.configuration(project, base))
    rows = loop.write(tmp_path / "in.jsonl", loop.rows(0, 100))
    outcome = await loop.turn(client, project, await loop.ingest(client, project, rows))
    assert outcome.result is Result.RELEASED, outcome.reason

    with pytest.raises(InvalidInput) as refused:
        await client.inference.answer(model, "colour " * 5000)
    assert refused.value.reason == "CONTEXT_LENGTH_EXCEEDED"

    long = answer_pb2.SamplingParameters(max_output_tokens=200, temperature=1.5)
    stream = client.inference.stream(model, loop.question(2), sampling=long)
    assert await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert (await client.inference.answer(model, loop.question(3))).text


async def test_a_model_that_does_not_exist_is_named_in_the_error(client: Mainspring) -> None:
    with pytest.raises(MainspringError, match="projects/nowhere/models/m") as refused:
        await client.inference.answer("projects/nowhere/models/m", "hello")
    assert refused.value.code == grpc.StatusCode.NOT_FOUND.name
