"""Wires the embedder."""

from __future__ import annotations

from mainspring.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from mainspring_answers.holding import DeploymentHolder
from mainspring_answers.readiness import answering
from mainspring_answers.routing import RoutingFollower
from mainspring_answers.triton import TritonClient
from mainspring_embedder.adapters import postgres
from mainspring_embedder.adapters.announcements import OutboxAnnouncements
from mainspring_embedder.adapters.catalogue import RegistryCatalogue
from mainspring_embedder.adapters.chunks import PgvectorChunks
from mainspring_embedder.adapters.embeddings import TritonEmbeddings
from mainspring_embedder.adapters.files import StoredFiles
from mainspring_embedder.application.building import BUILD_WORK, DROP_WORK, BuildOptions, Builds
from mainspring_embedder.application.collections import HOLD_WORK, Collections
from mainspring_embedder.application.ports import Ports
from mainspring_embedder.settings import EmbedderSettings
from mainspring_embedder.transport.grpc import NAME, EmbeddingServicer
from mainspring_eventkit.outbox import CHANNEL as OUTBOX_CHANNEL
from mainspring_eventkit.service import Events
from mainspring_svckit import watching, work
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.clock import SystemClock
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import failure_of
from mainspring_svckit.ids import new_id
from mainspring_svckit.lifecycle import Process, run_main
from mainspring_svckit.logs import get_logger
from mainspring_svckit.work import Lease, Worker, WorkQueue

PACKAGE = "mainspring_embedder"
# What is only a matter of time: that inference can be asked, and that Postgres removes a table.
_PATIENT_ATTEMPTS = 5_000
log = get_logger(__name__)


async def serve(process: Process, settings: EmbedderSettings) -> int:
    """Builds everything and serves until told to stop."""
    database = await process.database(PACKAGE)
    patient = Database(
        settings.database_url.get_secret_value(),
        service=process.name,
        pool_size=settings.builds_at_a_time,
        statement_timeout_s=settings.index_timeout_s,
    )
    process.on_close(patient.close)
    listener = process.listener(OUTBOX_CHANNEL, work.CHANNEL, watching.CHANNEL)
    events = await Events.connect(process, database, listener)
    routes = RoutingFollower(events.bus)
    process.support(routes.run(), "routing")
    process.health.add_probe("routing", routes.check)
    triton = TritonClient(settings.triton_url)
    process.on_close(triton.close)
    process.health.add_probe("triton", answering(triton, routes, embeddings=True))
    inference = process.channel(settings.inference_address)
    ports = Ports(
        transactions=database,
        collections=postgres.collections(database),
        builds=postgres.builds(database),
        chunks=PgvectorChunks(database, patient, exact_up_to=settings.exact_up_to),
        embeddings=TritonEmbeddings(triton, routes),
        serving=DeploymentHolder(inference, process.caller, load_timeout_s=settings.load_timeout_s),
        catalogue=RegistryCatalogue(process.channel(settings.registry_address), process.caller),
        files=StoredFiles(ArtifactStore(settings.artifact_url), process.scratch(settings.scratch_dir)),
        announcements=OutboxAnnouncements(events.outbox),
        work=WorkQueue(database),
        notifier=database,
        clock=SystemClock(),
        new_id=new_id,
    )
    options = BuildOptions(
        batch=settings.embed_batch,
        tries=settings.embed_tries,
        retry_wait_s=settings.embed_retry_wait_s,
        drop_delay_s=settings.drop_delay_s,
    )
    collections, builds = Collections(ports), Builds(ports, options)
    for name, worker in _workers(database, listener, settings, collections, builds).items():
        process.intake(worker.run(), name)

    servicer = EmbeddingServicer(ports, collections, builds, listener)
    process.grpc_server(database).add(NAME, pb_grpc.add_EmbeddingServiceServicer_to_server, servicer)
    return await process.run()


def _workers(
    database: Database, listener: Listener, settings: EmbedderSettings, collections: Collections, builds: Builds
) -> dict[str, Worker]:
    async def do_build(lease: Lease) -> None:
        await builds.run(lease.item.key, lease)

    async def give_up_build(lease: Lease, error: Exception) -> None:
        await builds.give_up(lease.item.key, *failure_of(error))

    async def do_hold(lease: Lease) -> None:
        await collections.hold(lease.item.key)
        async with lease.complete():
            pass

    async def do_drop(lease: Lease) -> None:
        await builds.drop(lease.item.key, lease)

    async def give_up_chore(lease: Lease, error: Exception) -> None:
        log.error("work_given_up", kind=lease.item.kind, key=lease.item.key, error=str(error))

    return {
        "index builds": Worker(
            database,
            listener,
            BUILD_WORK,
            do_build,
            on_exhausted=give_up_build,
            concurrency=settings.builds_at_a_time,
            lease_s=settings.lease_s,
            max_attempts=settings.build_attempts,
        ),
        "models of collections": Worker(
            database, listener, HOLD_WORK, do_hold, on_exhausted=give_up_chore, max_attempts=_PATIENT_ATTEMPTS
        ),
        "old indexes": Worker(
            database, listener, DROP_WORK, do_drop, on_exhausted=give_up_chore, max_attempts=_PATIENT_ATTEMPTS
        ),
    }


def main() -> None:
    """The command `mainspring-embedder`."""
    run_main("embedder", PACKAGE, EmbedderSettings, serve)


if __name__ == "__main__":
    main()
