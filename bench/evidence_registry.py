"""The catalogue when it has grown large: reading a version, walking its lineage, and paging through a list to its end.

100,000 versions in one model and 1,000,000 edges, written by SQL as the registry would have written them; everything is
then asked through gRPC of a real registry process over a real Postgres, after the database has tidied up behind the
filling, as it does behind a catalogue that has grown over months. Each kind of call is measured in repeats; beside the
reading of a version stands a call that reads nothing, so that a machine's own pauses are seen as such.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.figures import Bar, Figure, Result, percentile
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_svckit.auth import LocalIssuer
from mainspring_testkit.servers import NatsServer, PostgresServer, scratch_folder
from mainspring_testkit.service import Surroundings

VERSIONS, EDGES_PER_VERSION = 100_000, 10
GENERATIONS = 7
"""So many versions continue each other: version, run, version, ... are 12 edges from the last to the first."""
HOPS = 12
MODEL = "projects/p/models/m"
_BODY = """
    jsonb_build_object('name', m || '/versions/' || n, 'model', m, 'kind', 'ADAPTER',
        'base_model_version', 'projects/p/models/base/versions/1',
        'artifacts', jsonb_build_object('adapter.gguf', jsonb_build_object('sha256', repeat('a', 64), 'size_bytes', 9,
            'media_type', 'application/vnd.gguf', 'filename', 'adapter.gguf')),
        'manifest', jsonb_build_object('sha256', md5(n::text) || md5(n::text), 'size_bytes', 900,
            'media_type', 'application/json', 'filename', 'manifest.json'),
        'serving', jsonb_build_object('context_tokens', 2048, 'chat_template', repeat('{{ message }}', 40)),
        'lineage', jsonb_build_object('training_run', 'projects/p/trainingRuns/r' || n,
            'dataset_version', 'projects/p/datasets/d/versions/' || n),
        'licence', 'Apache-2.0', 'create_time', '2026-01-01T00:00:00Z',
        'training_run', 'projects/p/trainingRuns/r' || n)
"""
_FILL = (
    "INSERT INTO model (name, parent, sort_key, body) SELECT m, 'projects/p', m, jsonb_build_object('name', m, 'kind',"
    f" 'ADAPTER', 'create_time', '2026-01-01T00:00:00Z', 'versions', {VERSIONS}) FROM (SELECT '{MODEL}' AS m) AS one",
    "INSERT INTO model_version (name, parent, sort_key, body) SELECT m || '/versions/' || n, m, lpad(n::text, 12, '0'),"
    f" {_BODY} FROM generate_series(1, {VERSIONS}) AS n, (SELECT '{MODEL}' AS m) AS one",
    f"""
    INSERT INTO lineage_edge (project, source, target, relation)
    SELECT 'p', e.source, e.target, e.relation FROM generate_series(1, {VERSIONS}) AS n,
    LATERAL (SELECT '{MODEL}/versions/' || n AS v, 'projects/p/trainingRuns/r' || n AS r,
        'projects/p/evaluationRuns/e' || n AS ev, '{MODEL}/gateDecisions/' || n AS g,
        'projects/p/datasets/d/versions/' || n AS d) AS x,
    LATERAL (VALUES (x.d, x.r, 'TRAINED_ON'), ('projects/p/tuningRecipes/t' || n % 50, x.r, 'CONFIGURED_BY'),
        (CASE WHEN n % {GENERATIONS} > 0 THEN '{MODEL}/versions/' || n - 1 END, x.r, 'CONTINUED_FROM'),
        (x.r, x.v, 'PRODUCED_BY'), ('projects/p/models/base/versions/1', x.v, 'BASED_ON'), (x.v, x.ev, 'MEASURED'),
        ('projects/p/models/base/versions/1', x.ev, 'COMPARED_WITH'), (x.d, x.ev, 'ASKED_FROM'),
        (x.ev, x.g, 'DECIDED_ON'), (x.g, '{MODEL}/releases/' || n, 'ALLOWED_BY'),
        (x.v, '{MODEL}/releases/' || n, 'RELEASES')) AS e (source, target, relation)
    WHERE e.source IS NOT NULL
    """,
    "VACUUM ANALYZE",
)


async def measure(repeats: int) -> Result:
    """Fills a catalogue and measures it through gRPC, one call after the other."""
    async with scratch_folder("bench") as folder, AsyncExitStack() as cleanup:
        nats, postgres = NatsServer(folder / "nats"), PostgresServer(folder / "postgres")
        for server in (nats, postgres):
            cleanup.push_async_callback(server.stop)
            await server.start()
        database = await postgres.new_database("mainspring_registry")
        filled = await _fill(database)
        surroundings = Surroundings(folder / "services", LocalIssuer.create(), nats.url, f"file://{folder}/artifacts")
        cleanup.push_async_callback(surroundings.stop)
        replica = surroundings.replica("mainspring_registry.main", database)
        await replica.start()
        stub: Any = pb_grpc.RegistryServiceStub(replica.channel)
        caller, dice = surroundings.caller("viewer"), random.Random(7)

        async def get() -> None:
            name = f"{MODEL}/versions/{dice.randint(1, VERSIONS)}"
            await caller.unary(stub.GetModelVersion, pb.GetModelVersionRequest(name=name), pb.GetModelVersionResponse)

        health: Any = health_pb2_grpc.HealthStub(replica.channel)

        async def nothing() -> None:
            await health.Check(health_pb2.HealthCheckRequest())

        async def walk(name: str, direction: pb.GetLineageRequest.Direction.ValueType) -> pb.GetLineageResponse:
            request = pb.GetLineageRequest(name=name, direction=direction, max_hops=HOPS)
            return await caller.unary(stub.GetLineage, request, pb.GetLineageResponse)

        async def up() -> None:
            last = dice.randrange(GENERATIONS - 1, VERSIONS, GENERATIONS)
            found = await walk(f"{MODEL}/versions/{last}", pb.GetLineageRequest.DIRECTION_UPSTREAM)
            assert max(node.hops for node in found.nodes) == HOPS, "the chain is as long as it should be"

        async def down() -> None:
            first = dice.randrange(0, VERSIONS - GENERATIONS, GENERATIONS) + 1
            await walk(f"projects/p/datasets/d/versions/{first}", pb.GetLineageRequest.DIRECTION_DOWNSTREAM)

        for warm in (nothing, get, up, down):
            await _timed(20, warm)
        rounds = [
            [await _timed(*each) for each in ((3000, get), (600, up), (300, down), (1000, nothing))]
            for _ in range(repeats)
        ]
        gets, ups, downs, bare = zip(*rounds, strict=True)
        pages = await _pages(caller, stub)
        tenth = len(pages) // 10
    return Result(
        "evidence-registry",
        [
            _at(99, "Get of a version", gets, Bar(10)),
            _at(50, "Get of a version", gets),
            _at(99, "a call that reads nothing", bare),
            _at(50, "a call that reads nothing", bare),
            _at(99, "lineage of 12 hops upstream", ups, Bar(100)),
            _at(50, "lineage of 12 hops upstream", ups),
            _at(99, "lineage of 12 hops downstream", downs, Bar(100)),
            Figure("page of 50 versions, p99 of the first tenth", "ms", percentile(pages[:tenth], 99), bar=Bar(50)),
            Figure("page of 50 versions, p99 of the last tenth", "ms", percentile(pages[-tenth:], 99), bar=Bar(50)),
            Figure("page of 50 versions, p50", "ms", percentile(pages, 50)),
            Figure("page of 50 versions, longest of all pages", "ms", max(pages)),
        ],
        {**filled, "pages": len(pages)},
    )


def _at(percent: int, what: str, rounds: Sequence[Sequence[float]], bar: Bar | None = None) -> Figure:
    return Figure.of(f"{what}, p{percent}", "ms", [percentile(taken, percent) for taken in rounds], bar)


async def _fill(url: str) -> dict[str, int]:
    connection: Any = await asyncpg.connect(url)
    try:
        for statement in _FILL:
            await connection.execute(statement)
        versions: int = await connection.fetchval("SELECT count(*) FROM model_version")
        edges: int = await connection.fetchval("SELECT count(*) FROM lineage_edge")
    finally:
        await connection.close()
    return {"versions": versions, "edges": edges}


async def _timed(times: int, call: Callable[[], Awaitable[None]]) -> Sequence[float]:
    """Milliseconds of each call."""
    taken: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        await call()
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


async def _pages(caller: Any, stub: Any) -> Sequence[float]:
    """Milliseconds of each page, from the first to the last."""
    taken: list[float] = []
    request = pb.ListModelVersionsRequest(parent=MODEL, page_size=50)
    while True:
        began = time.perf_counter()
        page = await caller.unary(stub.ListModelVersions, request, pb.ListModelVersionsResponse)
        taken.append((time.perf_counter() - began) * 1e3)
        if not page.next_page_token:
            return taken
        request.page_token = page.next_page_token
