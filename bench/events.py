"""From the commit of an outbox row in one process to the start of the handler in another, at a steady rate."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.children import Child, child
from bench.figures import Bar, Figure, Result, percentile
from mainspring_testkit.servers import NatsServer, PostgresServer, scratch_folder

RATE_PER_S, SECONDS = 100, 20
P99_BAR_MS = 50.0


async def measure(repeats: int) -> Result:
    """Runs emitter and handler against a real NATS and a real Postgres, which hold a database for each."""
    passes: list[list[float]] = []
    achieved: list[float] = []
    missing = 0
    async with scratch_folder("bench") as folder:
        nats, postgres = NatsServer(folder / "nats"), PostgresServer(folder / "postgres")
        try:
            await nats.start()
            await postgres.start()
            for number in range(repeats):
                committed, began = await _pass(folder, number, nats, postgres)
                passes.append([(began[i] - at) / 1e6 for i, at in committed.items() if i in began])
                missing += len(committed.keys() - began.keys())
                achieved.append((len(committed) - 1) * 1e9 / (max(committed.values()) - min(committed.values())))
        finally:
            await postgres.stop()
            await nats.stop()
    what = "outbox commit to handler start"
    return Result(
        "events",
        [
            Figure.of(f"{what}, p50", "ms", [percentile(p, 50) for p in passes]),
            Figure.of(f"{what}, p99", "ms", [percentile(p, 99) for p in passes], Bar(P99_BAR_MS)),
            Figure.of(f"{what}, longest", "ms", [max(p) for p in passes]),
            Figure("events that did not arrive", "events", missing, bar=Bar(0)),
        ],
        {"rate_per_s": RATE_PER_S, "achieved_rate_per_s": [round(a, 1) for a in achieved], "seconds": SECONDS},
    )


async def _pass(
    folder: Path, number: int, nats: NatsServer, postgres: PostgresServer
) -> tuple[dict[str, int], dict[str, int]]:
    count = RATE_PER_S * SECONDS
    python = (sys.executable, "-m", "bench.events_worker")
    async with (
        child(folder / f"handle-{number}.log", *python, "handle") as handler,
        child(folder / f"emit-{number}.log", *python, "emit") as emitter,
    ):
        emitted_to = await postgres.new_database("mainspring_registry")
        handled_in = await postgres.new_database("mainspring_trainer")
        handler.send({"database": handled_in, "nats": nats.url, "count": count})
        emitter.send({"database": emitted_to, "nats": nats.url, "rate_per_s": RATE_PER_S, "seconds": SECONDS})
        for side in (handler, emitter):
            await _begin(side)
        committed: dict[str, int] = await emitter.receive(within_s=SECONDS + 60)
        began: dict[str, int] = await handler.receive(within_s=180)
    return committed, began


async def _begin(side: Child) -> None:
    assert await side.receive(within_s=60) == "ready"
    side.send("begin")
