"""Wires the evaluator."""

from __future__ import annotations

from dataclasses import dataclass

from mainspring.evaluation.v1 import evaluation_service_pb2_grpc as pb_grpc
from mainspring_evaluator.adapters import postgres
from mainspring_evaluator.adapters.announcements import OutboxAnnouncements
from mainspring_evaluator.adapters.catalogue import RegistryCatalogue
from mainspring_evaluator.adapters.datasets import StoredDatasets
from mainspring_evaluator.adapters.embeddings import EmbedderEmbeddings
from mainspring_evaluator.adapters.inference import PlaneInference
from mainspring_evaluator.adapters.item_files import HostItemFiles
from mainspring_evaluator.adapters.scoring import ThreadScoring
from mainspring_evaluator.adapters.shards import PostgresShards
from mainspring_evaluator.adapters.traffic import PostgresReports, PostgresTraffic, monitors
from mainspring_evaluator.application.drift import DRIFT_WORK, DriftChecks, Traffic
from mainspring_evaluator.application.evaluation import Evaluation
from mainspring_evaluator.application.generation import Generation
from mainspring_evaluator.application.ports import Ports
from mainspring_evaluator.application.runs import RELEASE_WORK, RUN_WORK, Runs, Suites
from mainspring_evaluator.application.sharing import ANSWER_WORK, SHARDS_AT_A_TIME, Answering
from mainspring_evaluator.settings import EvaluatorSettings
from mainspring_evaluator.transport.events import Reactions
from mainspring_evaluator.transport.grpc import NAME, EvaluationServicer
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
from mainspring_svckit.work import ExhaustedHandler, Handler, Lease, Room, Worker, WorkQueue, no_bound

PACKAGE = "mainspring_evaluator"
# A model that nobody needs stays in memory until this succeeds, so it is tried for days.
_RELEASE_ATTEMPTS = 5_000
log = get_logger(__name__)


async def serve(process: Process, settings: EvaluatorSettings) -> int:
    """Builds everything and serves until told to stop."""
    database = await process.database(PACKAGE)
    listener = process.listener(OUTBOX_CHANNEL, work.CHANNEL, watching.CHANNEL)
    events = await Events.connect(process, database, listener)
    ports = _ports(process, settings, database, listener, events)
    generation = Generation(
        ports,
        concurrency=settings.answers_at_a_time,
        tries=settings.answer_tries,
        retry_wait_s=settings.answer_retry_wait_s,
    )
    plant = _Plant(process, settings, database, listener, ports, generation)
    runs = plant.runs()
    plant.answers()
    plant.releases(runs)
    plant.drift()
    reactions = Reactions(runs, Traffic(ports))
    events.consume("evaluator-versions", reactions.on_version_registered)
    events.consume("evaluator-traffic", reactions.on_answered)
    events.consume("evaluator-judgements", reactions.on_judged)
    return await process.run()


def _ports(
    process: Process, settings: EvaluatorSettings, database: Database, listener: Listener, events: Events
) -> Ports:
    """The outside, as the use cases see it."""
    store = ArtifactStore(settings.artifact_url)
    data_ingest = process.channel(settings.data_ingest_address)
    return Ports(
        transactions=database,
        suites=postgres.suites(database),
        suite_versions=postgres.suite_versions(database),
        runs=postgres.runs(database),
        items=postgres.PostgresItems(database),
        answers=postgres.PostgresAnswers(database),
        shards=PostgresShards(database, listener),
        catalogue=RegistryCatalogue(process.channel(settings.registry_address), process.caller),
        datasets=StoredDatasets(data_ingest, process.caller, store, process.scratch(settings.scratch_dir)),
        item_files=HostItemFiles(settings.task_roots),
        inference=PlaneInference(
            process.channel(settings.inference_address),
            process.caller,
            load_timeout_s=settings.load_timeout_s,
            answer_timeout_s=settings.answer_timeout_s,
        ),
        embeddings=EmbedderEmbeddings(process.channel(settings.embedder_address), process.caller),
        observations=postgres.PostgresObservations(database),
        traffic=PostgresTraffic(database),
        monitors=monitors(database),
        reports=PostgresReports(database),
        scoring=ThreadScoring(),
        files=store,
        announcements=OutboxAnnouncements(events.outbox),
        work=WorkQueue(database),
        notifier=database,
        clock=SystemClock(),
        new_id=new_id,
    )


@dataclass(frozen=True)
class _Plant:
    """What every part is built from; each method builds one, with its workers and its door."""

    process: Process
    settings: EvaluatorSettings
    database: Database
    listener: Listener
    ports: Ports
    generation: Generation

    def runs(self) -> Runs:
        """Versions are measured."""
        settings = self.settings
        runs = Runs(self.ports, release_delay_s=settings.lease_s / 2)  # It is renewed three times in lease_s.
        evaluation = Evaluation(self.ports, runs, self.generation)

        async def measure(lease: Lease) -> None:
            await evaluation.run(lease.item.key, lease)

        async def give_up(lease: Lease, error: Exception) -> None:
            await runs.give_up(lease.item.key, *failure_of(error))

        attempts, at_a_time = settings.run_attempts, settings.runs_at_a_time
        self._leased(RUN_WORK, measure, give_up, "evaluation runs", attempts=attempts, concurrency=at_a_time)
        servicer = EvaluationServicer(self.ports, Suites(self.ports), runs, self.listener)
        server = self.process.grpc_server(self.database)
        server.add(NAME, pb_grpc.add_EvaluationServiceServicer_to_server, servicer)
        return runs

    def answers(self) -> None:
        """Questions of runs are asked, whichever replica has the run."""
        answering = Answering(self.ports, self.generation)

        async def answer(lease: Lease) -> None:
            await answering.answer(lease.item.key, lease, again=lease.item.attempt > 1)

        async def give_up(lease: Lease, error: Exception) -> None:
            await answering.give_up(lease.item.key, *failure_of(error))

        self._leased(
            ANSWER_WORK,
            answer,
            give_up,
            "answers of runs",
            attempts=self.settings.run_attempts,
            concurrency=SHARDS_AT_A_TIME,
            room=answering.room,
            retries_first=True,  # A version that cannot be asked fails its run by the first shards, not by all.
        )

    def releases(self, runs: Runs) -> None:
        """Models that a run held are let go of."""

        async def release(lease: Lease) -> None:
            await runs.release(lease.item.key)
            async with lease.complete():
                pass

        async def give_up(lease: Lease, error: Exception) -> None:
            log.error("models_not_released", holder=lease.item.key, error=str(error))

        self._leased(RELEASE_WORK, release, give_up, "releases of models", attempts=_RELEASE_ATTEMPTS)

    def drift(self) -> None:
        """What serves is watched."""
        checks = DriftChecks(self.ports, self.generation)

        async def check(lease: Lease) -> None:
            await checks.check(lease.item.key, lease)

        async def put_off(lease: Lease, error: Exception) -> None:
            log.warning("drift_check_failed", monitor=lease.item.key, error=str(error))
            await checks.put_off(lease.item.key)

        self._leased(DRIFT_WORK, check, put_off, "drift checks", attempts=self.settings.run_attempts)

    def _leased(
        self,
        kind: str,
        handler: Handler,
        on_exhausted: ExhaustedHandler,
        name: str,
        *,
        attempts: int,
        concurrency: int = 1,
        room: Room = no_bound,
        retries_first: bool = False,
    ) -> None:
        worker = Worker(
            self.database,
            self.listener,
            kind,
            handler,
            on_exhausted=on_exhausted,
            concurrency=concurrency,
            lease_s=self.settings.lease_s,
            max_attempts=attempts,
            room=room,
            retries_first=retries_first,
        )
        self.process.intake(worker.run(), name)


def main() -> None:
    """The command `mainspring-evaluator`."""
    run_main("evaluator", PACKAGE, EvaluatorSettings, serve)


if __name__ == "__main__":
    main()
