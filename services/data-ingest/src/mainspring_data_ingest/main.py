"""Wires data-ingest."""

from __future__ import annotations

from dataclasses import dataclass

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
from mainspring_data_ingest.adapters.feedback import FeedbackAnswers
from mainspring_data_ingest.adapters.fetching import AllowedFetcher
from mainspring_data_ingest.adapters.lineage import RegistryLineage, RegistryTokenizers
from mainspring_data_ingest.adapters.plotter import ChildPlotter
from mainspring_data_ingest.adapters.previewer import ChildPreviewer
from mainspring_data_ingest.adapters.refiner import ChildRefiner
from mainspring_data_ingest.adapters.shard_tools import ChildShardTools
from mainspring_data_ingest.adapters.suites import EvaluatorSuites
from mainspring_data_ingest.application import deletions, erasures
from mainspring_data_ingest.application.annotations import AnnotationPorts, Annotations
from mainspring_data_ingest.application.deletions import Removals
from mainspring_data_ingest.application.erasure_reports import ErasureReports
from mainspring_data_ingest.application.erasures import Erasures
from mainspring_data_ingest.application.files import UploadPorts, Uploads
from mainspring_data_ingest.application.ingestions import WORK_KIND, Ingestions
from mainspring_data_ingest.application.measurements import Measurements
from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.application.reports import Reports
from mainspring_data_ingest.application.sources import Sources
from mainspring_data_ingest.application.step_files import StepFinder
from mainspring_data_ingest.application.traces import TracePorts, Traces
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
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import Unavailable, failure_of
from mainspring_svckit.grpc_server import GrpcServer
from mainspring_svckit.lifecycle import Process, run_main
from mainspring_svckit.scratch import Scratch
from mainspring_svckit.work import ExhaustedHandler, Handler, Lease, Worker, WorkQueue

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
        recipe_versions=postgres.recipe_versions(database),
        ingestions=postgres.ingestions(database),
        datasets=postgres.datasets(database),
        versions=postgres.versions(database),
        comparisons=postgres.comparisons(database),
        erasures=postgres.erasures(database),
        uploads=postgres.uploads(database),
        announcements=OutboxAnnouncements(events.outbox),
        files=files,
        work=WorkQueue(database),
        notifier=database,
        clock=SystemClock(),
    )
    scratch = Scratch("ingestion", settings.scratch_dir)
    scratch.sweep()
    plant = _Plant(process, settings, database, listener, process.grpc_server(database), ports, files, scratch)
    ingestions = plant.ingestions()
    events.consume("data-ingest-preferences", Reactions(ingestions).on_preferences_ready)
    tools = ChildShardTools(files, scratch)
    plant.versions(tools)
    plant.erasures(tools)
    plant.annotation(ingestions)
    plant.sources()
    return await process.run()


@dataclass(frozen=True)
class _Plant:
    """What every part is built from; each method builds one, with its workers and its door."""

    process: Process
    settings: DataIngestSettings
    database: Database
    listener: Listener
    server: GrpcServer
    ports: Ports
    files: ArtifactStore
    scratch: Scratch

    def ingestions(self) -> Ingestions:
        """Sources become versions."""
        ports = self.ports
        settings = self.settings
        address = settings.ray_address if settings.engine == "ray" else ""
        refiner = ChildRefiner(
            self.files, self.scratch, self.embeddings(), ray_address=address, memory_bytes=settings.process_memory_bytes
        )
        ingestions = Ingestions(ports, refiner, self.finder())

        async def ingest(lease: Lease) -> None:
            await ingestions.run(lease.item.key, lease)

        async def give_up(lease: Lease, error: Exception) -> None:
            await ingestions.give_up(lease.item.key, *failure_of(error))

        self._leased(WORK_KIND, ingest, give_up, "ingestions", concurrency=settings.ingestion_workers)
        servicer = DataServicer(ports, self.uploads(), ingestions, Reports(ports, ChildPlotter()), self.listener)
        self.server.add(NAME, pb_grpc.add_DataServiceServicer_to_server, servicer)
        return ingestions

    def finder(self) -> StepFinder:
        """What finds the files of steps."""
        registry, evaluator = self.settings.registry_address, self.settings.evaluation_address
        return StepFinder(
            self.ports,
            RegistryTokenizers(self.process.channel(registry), self.process.caller) if registry else None,
            EvaluatorSuites(self.process.channel(evaluator), self.process.caller) if evaluator else None,
        )

    def versions(self, tools: ChildShardTools) -> None:
        """What is published is read, compared, measured, and let go of."""
        ports, removals = self.ports, Removals(self.ports)

        async def remove(lease: Lease) -> None:
            await removals.run(lease.item.key, lease)

        async def remove_later(lease: Lease, error: Exception) -> None:
            del error  # Stands in the log. Bytes that should be gone are never given up.
            await ports.work.enqueue(deletions.WORK_KIND, lease.item.key, delay_s=60)

        remover = Worker(self.database, self.listener, deletions.WORK_KIND, remove, on_exhausted=remove_later)
        self.process.intake(remover.run(), "removals")
        servicer = DatasetVersionServicer(Versions(ports, tools), Measurements(ports, tools, self.embeddings()))
        self.server.add(VERSIONS, version_pb_grpc.add_DatasetVersionServiceServicer_to_server, servicer)

    def embeddings(self) -> EmbedderEmbeddings | None:
        """Vectors, where there is an embedder."""
        address = self.settings.embedder_address
        return EmbedderEmbeddings(self.process.channel(address), self.process.caller) if address else None

    def uploads(self) -> Uploads:
        """Files that come in."""
        ports = self.ports
        return Uploads(
            UploadPorts(ports.files, ports.transactions, ports.uploads, ports.clock), self.settings.max_upload_bytes
        )

    def feedback(self) -> FeedbackAnswers | None:
        """Judged answers, where there is feedback."""
        address = self.settings.feedback_address
        return FeedbackAnswers(self.process.channel(address), self.process.caller) if address else None

    def erasures(self, tools: ChildShardTools) -> None:
        """What a person or a document said leaves every version."""
        ports, address = self.ports, self.settings.registry_address
        lineage = RegistryLineage(self.process.channel(address), self.process.caller) if address else None
        queues, items = annotation_adapters.queues(self.database), annotation_adapters.PostgresItems(self.database)
        traces = Traces(ports, TracePorts(queues, items), tools, self.feedback())
        erasing = Erasures(
            ports, tools, traces, ErasureReports(ports, tools, self.finder(), self.embeddings()), lineage
        )

        async def erase(lease: Lease) -> None:
            await erasing.run(lease.item.key, lease)

        async def give_up(lease: Lease, error: Exception) -> None:
            if isinstance(error, Unavailable):
                await ports.work.enqueue(erasures.WORK_KIND, lease.item.key, delay_s=30)
            else:
                await erasing.give_up(lease.item.key, *failure_of(error))

        self._leased(erasures.WORK_KIND, erase, give_up, "erasures")
        servicer = ErasureServicer(ports, erasing, self.listener)
        self.server.add(ERASURES, erasure_pb_grpc.add_ErasureServiceServicer_to_server, servicer)

    def annotation(self, ingestions: Ingestions) -> None:
        """People label."""
        ports = AnnotationPorts(
            transactions=self.database,
            queues=annotation_adapters.queues(self.database),
            items=annotation_adapters.PostgresItems(self.database),
            diversity=annotation_adapters.HashedDiversity(),
            files=self.files,
            clock=SystemClock(),
        )
        servicer = AnnotationServicer(ports, Annotations(ports, ingestions))
        self.server.add(ANNOTATION, annotation_service_pb2_grpc.add_AnnotationServiceServicer_to_server, servicer)

    def sources(self) -> None:
        """What is out there is looked into and fetched."""
        connections = Connections.parse(self.settings.source_connections.get_secret_value())
        fetcher = AllowedFetcher(connections, self.settings.fetch_timeout_s, self.feedback())
        previewer = ChildPreviewer(self.files, self.scratch, memory_bytes=self.settings.process_memory_bytes)
        sources = Sources(previewer, fetcher, self.uploads())
        self.server.add(SOURCES, source_pb_grpc.add_SourceServiceServicer_to_server, SourceServicer(sources))

    def _leased(
        self, kind: str, handler: Handler, on_exhausted: ExhaustedHandler, name: str, *, concurrency: int = 1
    ) -> None:
        lease_s = self.settings.work_lease_s
        worker = Worker(
            self.database,
            self.listener,
            kind,
            handler,
            on_exhausted=on_exhausted,
            concurrency=concurrency,
            lease_s=lease_s,
            poll_s=lease_s / 6,
        )
        self.process.intake(worker.run(), name)


def main() -> None:
    """The command `mainspring-data-ingest`."""
    run_main("data-ingest", PACKAGE, DataIngestSettings, serve)


if __name__ == "__main__":
    main()
