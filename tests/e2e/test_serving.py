"""Serving beside training: one machine does both, and people must not notice."""

import statistics
import time
from pathlib import Path

from tests.support import loop
from tests.support.stack import Stack

from mainspring.inference.v1 import answer_pb2
from mainspring.training.v1 import run_pb2
from mainspring_client.client import Mainspring
from mainspring_client.configuration import Configuration
from mainspring_client.flywheel import Result
from mainspring_testkit.waiting import eventually

PROJECT = "yields"
MODEL = f"projects/{PROJECT}/models/{loop.NAME}"
ANSWERS = 15


async def median_s(client: Mainspring) -> float:
    """Median time of an answer; no two questions are the same."""
    took: list[float] = []
    for _ in range(ANSWERS):
        started = time.monotonic()
        sampling = answer_pb2.SamplingParameters(max_output_tokens=24, temperature=1)
        await client.inference.answer(MODEL, loop.question(time.monotonic_ns() % 10**9), sampling=sampling)
        took.append(time.monotonic() - started)
    return statistics.median(took)


async def test_training_yields_to_answers(stack: Stack, client: Mainspring, tmp_path: Path) -> None:
    base = await loop.import_base(client, PROJECT, stack.models)
    await client.apply(loop.configuration(PROJECT, base))
    rows = loop.write(tmp_path / "in.jsonl", loop.rows(0, 100))
    outcome = await loop.turn(client, PROJECT, await loop.ingest(client, PROJECT, rows))
    assert outcome.result is Result.RELEASED, outcome.reason
    assert outcome.ingestion is not None
    alone_s = await median_s(client)

    long = {
        "id": "long",
        "dataset": loop.NAME,
        "base_model_version": base,
        "model": "long",
        "method": "METHOD_SUPERVISED",
        "lora": {"rank": 64},
        "optimization": {"epochs": 100, "learning_rate": 1e-4, "batch_rows": 1, "validate_every_steps": 5000},
    }
    await client.apply(Configuration.parse({"project": PROJECT, "tuning_recipe": long}))
    run = await client.training.start(f"projects/{PROJECT}/tuningRecipes/long", outcome.ingestion.dataset_version)

    async def trains() -> bool:
        return bool((await client.training.run(run.name)).latest_metric.step)

    await eventually(trains, within_s=90, what="the run to train")
    beside_s = await median_s(client)
    assert (await client.training.cancel(run.name)).name == run.name

    async def ended() -> bool:
        return (await client.training.run(run.name)).state == run_pb2.TrainingRun.STATE_CANCELLED

    await eventually(ended, within_s=60, what="the run to be cancelled")
    # Without a plan for threads the engine's waiting threads made this a hundred times.
    assert beside_s < 8 * alone_s + 0.2, f"{beside_s:.3f} s beside a run, {alone_s:.3f} s alone"
