"""Wires data-ingest."""

from __future__ import annotations

from mainspring.data.v1 import annotation_service_pb2_grpc
from mainspring.data.v1 import data_service_pb2_grpc as pb_grpc
from mainspring.data.v1 import erasure_service_pb2_grpc as erasure_pb_grpc
from mainspring.data.v1 import source_service_pb2_grpc as source_pb_grpc
from mainspring.data.v1 import version_service_pb2_grpc as version_pb_grpc
from mainspring_data_ingest.adapters import annotations as annotation_adapters
from mainspring_data_ingest.adapters import postgres
from mainspring_data_ingest.adapters.announcements import OutboxAnnouncements
from mainspring_data_ingest.adapters.connections import Connections
from mainspring_data_ingest.adapters.embeddings import EmbedderEmbeddings
from mainspring_data_ingest.adapters.fetching import AllowedFetcher
from mainspring_data_ingest.adapters.lineage import RegistryLineage
from mainspring_data_ingest.adapters.plotter import ChildPlotter
from mainspring_data_ingest.adapters.previewer import ChildPreviewer
from mainspring_data_ingest.adapters.refiner import ChildRefiner
from mainspring_data_ingest.adapters.scratch import Scratch
from mainspring_data_ingest.adapters.shard_tools import ChildShardTools
from mainspring_data_ingest.application import deletions, erasures
from mainspring_data_ingest.application.annotations import AnnotationPorts, Annotations
from mainspring_data_ingest.application.deletions import Removals
from mainspring_data_ingest.application.erasures import Erasures
from mainspring_data_ingest.application.files import Uploads
from mainspring_data_ingest.application.ingestions import WORK_KIND, Ingestions
from mainspring_data_ingest.application.measurements import Measurements
from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.application.reports import Reports
from mainspring_data_ingest.application.sources import Sources
from mainspring_data_ingest.application.versions import Versions
from mainspring_data_ingest.settings import DataIngestSettings
from mainspring_data_ingest.transport.annotation_grpc import NAME as ANNOTATION
from mainspring_data_ingest.transport.annotation_grpc import AnnotationServicer
from mainspring_data_ingest.transport.erasures_grpc import NAME as ERASURES
from mainspring_data_ingest.transport.erasures_grpc import ErasureServicer
from mainspring_data_ingest.transport.events import Reactions
from mainspring_data_ingest.transport.grpc import NAME, DataServicer
from mainspring_data_ingest.transport.sources_grpc import NAME as SOURCES
from mainspring_data_ingest.transport.sources_grpc import SourceServicer
from mainspring_data_ingest.transport.versions_grpc import NAME as VERSIONS
from mainspring_data_ingest.transport.versions_grpc import DatasetVersionServicer
from mainspring_eventkit.outbox import CHANNEL as OUTBOX_CHANNEL
from mainspring_eventkit.service import Events
from mainspring_svckit import watching, work
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.clock import SystemClock
from mainspring_svckit.errors import Unavailable, failure_of
from mainspring_svckit.lifecycle import Process, run_main
from mainspring_svckit.work import Lease, Worker, WorkQueue

PACKAGE = "mainspring_data_ingest"


async def serve(process: Process, settings: DataIngestSettings) -> int:
    """Builds everything and serves until told to stop."""
    database = await process.database(PACKAGE)
    listener = process.listener(OUTBOX_CHANNEL, work.CHANNEL, watching.CHANNEL)
    events = await Events.connect(process, database, listener)
    files = ArtifactStore(settings.artifact_url)
    ports = Ports(
        transactions=database,
        recipes=postgres.recipes(database),
        ingestions=postgres.ingestions(database),
        datasets=postgres.datasets(database),
        versions=postgres.versions(database),
        comparisons=postgres.comparisons(database),
        erasures=postgres.erasures(database),
        announcements=OutboxAnnouncements(events.outbox),
        files=files,
        work=WorkQueue(database),
        notifier=database,
        clock=SystemClock(),
    )
    scratch = Scratch(settings.scratch_dir)
    scratch.sweep()
    ingestions = Ingestions(ports, ChildRefiner(files, scratch))

    async def ingest(lease: Lease) -> None:
        await ingestions.run(lease.item.key, lease)

    async def give_up(lease: Lease, error: Exception) -> None:
        await ingestions.give_up(lease.item.key, *failure_of(error))

    worker = Worker(
        database,
        listener,
        WORK_KIND,
        ingest,
        on_exhausted=give_up,
        concurrency=settings.ingestion_workers,
        lease_s=settings.work_lease_s,
        poll_s=settings.work_lease_s / 6,
    )
    process.intake(worker.run(), "ingestions")
    removals = Removals(ports)

    async def remove(lease: Lease) -> None:
        await removals.run(lease.item.key, lease)

    async def remove_later(lease: Lease, error: Exception) -> None:
        del error  # Stands in the log. Bytes that should be gone are never given up.
        await ports.work.enqueue(deletions.WORK_KIND, lease.item.key, delay_s=60)

    remover = Worker(database, listener, deletions.WORK_KIND, remove, on_exhausted=remove_later)
    process.intake(remover.run(), "removals")
    events.consume("data-ingest-preferences", Reactions(ingestions).on_preferences_ready)

    uploads = Uploads(files, settings.max_upload_bytes)
    servicer = DataServicer(ports, uploads, ingestions, Reports(ports, ChildPlotter()), listener)
    server = process.grpc_server(database)
    server.add(NAME, pb_grpc.add_DataServiceServicer_to_server, servicer)
    tools = ChildShardTools(files, scratch)
    embeddings = (
        EmbedderEmbeddings(process.channel(settings.embedder_address), process.caller)
        if settings.embedder_address
        else None
    )
    server.add(
        VERSIONS,
        version_pb_grpc.add_DatasetVersionServiceServicer_to_server,
        DatasetVersionServicer(Versions(ports, tools), Measurements(ports, tools, embeddings)),
    )
    lineage = (
        RegistryLineage(process.channel(settings.registry_address), process.caller)
        if settings.registry_address
        else None
    )
    erasing = Erasures(ports, tools, lineage)
    server.add(
        ERASURES,
        erasure_pb_grpc.add_ErasureServiceServicer_to_server,
        ErasureServicer(ports, erasing, listener),
    )

    async def erase(lease: Lease) -> None:
        await erasing.run(lease.item.key, lease)

    async def give_up_erasing(lease: Lease, error: Exception) -> None:
        if isinstance(error, Unavailable):
            await ports.work.enqueue(erasures.WORK_KIND, lease.item.key, delay_s=30)
        else:
            await erasing.give_up(lease.item.key, *failure_of(error))

    eraser = Worker(
        database,
        listener,
        erasures.WORK_KIND,
        erase,
        on_exhausted=give_up_erasing,
        lease_s=settings.work_lease_s,
        poll_s=settings.work_lease_s / 6,
    )
    process.intake(eraser.run(), "erasures")
    annotation = AnnotationPorts(
        transactions=database,
        queues=annotation_adapters.queues(database),
        items=annotation_adapters.PostgresItems(database),
        diversity=annotation_adapters.HashedDiversity(),
        files=files,
        clock=SystemClock(),
    )
    server.add(
        ANNOTATION,
        annotation_service_pb2_grpc.add_AnnotationServiceServicer_to_server,
        AnnotationServicer(annotation, Annotations(annotation, ingestions)),
    )
    connections = Connections.parse(settings.source_connections.get_secret_value())
    fetcher = AllowedFetcher(connections, settings.fetch_timeout_s)
    sources = Sources(ChildPreviewer(files, scratch), fetcher, files, settings.max_upload_bytes)
    server.add(SOURCES, source_pb_grpc.add_SourceServiceServicer_to_server, SourceServicer(sources))
    return await process.run()


def main() -> None:
    """The command `mainspring-data-ingest`."""
    run_main("data-ingest", PACKAGE, DataIngestSettings, serve)


if __name__ == "__main__":
    main()
