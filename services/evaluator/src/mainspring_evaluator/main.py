"""Wires the evaluator."""

from __future__ import annotations

from mainspring.evaluation.v1 import evaluation_service_pb2_grpc as pb_grpc
from mainspring_evaluator.adapters import postgres
from mainspring_evaluator.adapters.announcements import OutboxAnnouncements
from mainspring_evaluator.adapters.catalogue import RegistryCatalogue
from mainspring_evaluator.adapters.datasets import StoredDatasets
from mainspring_evaluator.adapters.embeddings import EmbedderEmbeddings
from mainspring_evaluator.adapters.inference import PlaneInference
from mainspring_evaluator.adapters.item_files import HostItemFiles
from mainspring_evaluator.adapters.scoring import ThreadScoring
from mainspring_evaluator.adapters.traffic import PostgresReports, PostgresTraffic, monitors
from mainspring_evaluator.application.drift import DRIFT_WORK, DriftChecks, Traffic
from mainspring_evaluator.application.evaluation import Evaluation
from mainspring_evaluator.application.generation import Generation
from mainspring_evaluator.application.ports import Ports
from mainspring_evaluator.application.runs import RELEASE_WORK, RUN_WORK, Runs, Suites
from mainspring_evaluator.settings import EvaluatorSettings
from mainspring_evaluator.transport.events import Reactions
from mainspring_evaluator.transport.grpc import NAME, EvaluationServicer
from mainspring_eventkit.outbox import CHANNEL as OUTBOX_CHANNEL
from mainspring_eventkit.service import Events
from mainspring_svckit import watching, work
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.clock import SystemClock
from mainspring_svckit.errors import failure_of
from mainspring_svckit.ids import new_id
from mainspring_svckit.lifecycle import Process, run_main
from mainspring_svckit.logs import get_logger
from mainspring_svckit.work import Lease, Worker, WorkQueue

PACKAGE = "mainspring_evaluator"
# A model that nobody needs stays in memory until this succeeds, so it is tried for days.
_RELEASE_ATTEMPTS = 5_000
log = get_logger(__name__)


async def serve(process: Process, settings: EvaluatorSettings) -> int:
    """Builds everything and serves until told to stop."""
    database = await process.database(PACKAGE)
    listener = process.listener(OUTBOX_CHANNEL, work.CHANNEL, watching.CHANNEL)
    events = await Events.connect(process, database, listener)
    store = ArtifactStore(settings.artifact_url)
    data_ingest = process.channel(settings.data_ingest_address)
    ports = Ports(
        transactions=database,
        suites=postgres.suites(database),
        suite_versions=postgres.suite_versions(database),
        runs=postgres.runs(database),
        items=postgres.PostgresItems(database),
        answers=postgres.PostgresAnswers(database),
        catalogue=RegistryCatalogue(process.channel(settings.registry_address), process.caller),
        datasets=StoredDatasets(data_ingest, process.caller, store, settings.scratch_dir),
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
    runs = Runs(ports, cancel_release_delay_s=settings.lease_s / 2)  # It is renewed three times in lease_s.
    generation = Generation(
        ports,
        concurrency=settings.answers_at_a_time,
        tries=settings.answer_tries,
        retry_wait_s=settings.answer_retry_wait_s,
    )
    evaluation, checks = Evaluation(ports, runs, generation), DriftChecks(ports, generation)

    async def do_run(lease: Lease) -> None:
        await evaluation.run(lease.item.key, lease)

    async def give_up_run(lease: Lease, error: Exception) -> None:
        await runs.give_up(lease.item.key, *failure_of(error))

    async def do_release(lease: Lease) -> None:
        await runs.release(lease.item.key)
        async with lease.complete():
            pass

    async def give_up_release(lease: Lease, error: Exception) -> None:
        log.error("models_not_released", holder=lease.item.key, error=str(error))

    async def do_check(lease: Lease) -> None:
        await checks.check(lease.item.key, lease)

    async def put_off_check(lease: Lease, error: Exception) -> None:
        log.warning("drift_check_failed", monitor=lease.item.key, error=str(error))
        await checks.put_off(lease.item.key)

    worker = Worker(
        database,
        listener,
        RUN_WORK,
        do_run,
        on_exhausted=give_up_run,
        concurrency=settings.runs_at_a_time,
        lease_s=settings.lease_s,
        max_attempts=settings.run_attempts,
    )
    process.intake(worker.run(), "evaluation runs")
    releaser = Worker(
        database,
        listener,
        RELEASE_WORK,
        do_release,
        on_exhausted=give_up_release,
        lease_s=settings.lease_s,
        max_attempts=_RELEASE_ATTEMPTS,
    )
    process.intake(releaser.run(), "releases of models")
    checker = Worker(
        database,
        listener,
        DRIFT_WORK,
        do_check,
        on_exhausted=put_off_check,
        lease_s=settings.lease_s,
        max_attempts=settings.run_attempts,
    )
    process.intake(checker.run(), "drift checks")
    reactions = Reactions(runs, Traffic(ports))
    events.consume("evaluator-versions", reactions.on_version_registered)
    events.consume("evaluator-traffic", reactions.on_answered)
    events.consume("evaluator-judgements", reactions.on_judged)

    servicer = EvaluationServicer(ports, Suites(ports), runs, listener)
    process.grpc_server(database).add(NAME, pb_grpc.add_EvaluationServiceServicer_to_server, servicer)
    return await process.run()


def main() -> None:
    """The command `mainspring-evaluator`."""
    run_main("evaluator", PACKAGE, EvaluatorSettings, serve)


if __name__ == "__main__":
    main()
