"""Wires the trainer."""

from __future__ import annotations

from pathlib import Path

from mainspring.training.v1 import study_service_pb2_grpc
from mainspring.training.v1 import training_service_pb2_grpc as pb_grpc
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
from mainspring_trainer.adapters import postgres
from mainspring_trainer.adapters.announcements import OutboxAnnouncements
from mainspring_trainer.adapters.catalogues import IngestedDatasets, RegistryModels
from mainspring_trainer.adapters.child import ChildProcesses, Limits
from mainspring_trainer.adapters.cluster import Cluster
from mainspring_trainer.adapters.files import CachedFiles
from mainspring_trainer.adapters.mlflow import MlflowTracker
from mainspring_trainer.adapters.offline_trackers import OfflineTracker
from mainspring_trainer.adapters.optuna_search import OptunaSearch
from mainspring_trainer.adapters.wishes import StoredWishes
from mainspring_trainer.application.inputs import Compute
from mainspring_trainer.application.mirroring import Exporting, Mirroring
from mainspring_trainer.application.policy import Policy
from mainspring_trainer.application.ports import Ports
from mainspring_trainer.application.recipes import Recipes
from mainspring_trainer.application.runs import MIRROR_KIND, STUDY_KIND, TIDY_KIND, WISHES, WORK_KIND, Runs, export_kind
from mainspring_trainer.application.studies import Studies
from mainspring_trainer.application.training import Training
from mainspring_trainer.domain.tracking import Rates
from mainspring_trainer.settings import TrainerSettings
from mainspring_trainer.transport.events import Reactions
from mainspring_trainer.transport.grpc import NAME, TrainingServicer
from mainspring_trainer.transport.study_grpc import NAME as STUDY_NAME
from mainspring_trainer.transport.study_grpc import StudyServicer

PACKAGE = "mainspring_trainer"
_MIRROR_ATTEMPTS = 1500
"""With a minute between two, about a day."""
log = get_logger(__name__)


async def serve(process: Process, settings: TrainerSettings) -> int:
    """Builds everything and serves until told to stop."""
    database = await process.database(PACKAGE)
    listener = process.listener(OUTBOX_CHANNEL, work.CHANNEL, watching.CHANNEL, WISHES)
    events = await Events.connect(process, database, listener)
    runs_kept = postgres.runs(database)
    scratch = process.scratch(settings.scratch_dir)
    children = ChildProcesses(settings.worker_python, scratch, _limits(settings), _cluster(settings))
    if settings.spare_worker and settings.executor == "local":
        process.intake(children.keep_spare(settings.threads), "spare worker")
    ports = Ports(
        transactions=database,
        recipes=postgres.recipes(database),
        runs=runs_kept,
        metrics=postgres.metrics(database),
        studies=postgres.studies(database),
        trials=postgres.trials(database),
        mirrored=postgres.mirrored(database),
        announcements=OutboxAnnouncements(events.outbox),
        models=RegistryModels(process.channel(settings.registry_address), process.caller),
        datasets=IngestedDatasets(process.channel(settings.data_ingest_address), process.caller),
        files=CachedFiles(ArtifactStore(settings.artifact_url), settings.cache_dir, settings.cache_max_bytes),
        children=children,
        wishes=StoredWishes(database, listener, runs_kept),
        search=OptunaSearch(),
        work=WorkQueue(database),
        notifier=database,
        clock=SystemClock(),
        new_id=new_id,
    )
    runs = Runs(ports, _policy(settings))
    studies = Studies(ports, runs)
    _do_work(process, settings, database, listener, ports, runs)
    _search(process, database, listener, studies)
    if settings.mlflow_url:
        tracker = MlflowTracker(settings.mlflow_url, settings.mlflow_token.get_secret_value())
        _mirror(process, database, listener, Mirroring(ports, tracker))
    _export(process, settings, database, listener, ports)
    events.consume("trainer-datasets", Reactions(runs).on_dataset_version_published)
    servicer = TrainingServicer(ports, Recipes(ports), runs, listener)
    server = process.grpc_server(database)
    server.add(NAME, pb_grpc.add_TrainingServiceServicer_to_server, servicer)
    study_servicer = StudyServicer(ports, studies, listener)
    server.add(STUDY_NAME, study_service_pb2_grpc.add_StudyServiceServicer_to_server, study_servicer)
    return await process.run()


def _do_work(
    process: Process, settings: TrainerSettings, database: Database, listener: Listener, ports: Ports, runs: Runs
) -> None:
    """Takes runs, and removes the checkpoints of those that have ended."""
    training = Training(
        ports,
        Compute(
            threads=settings.threads,
            precision=settings.precision,
            device=settings.device,
            micro_batch_tokens=settings.micro_batch_tokens,
            max_validation_rows=settings.max_validation_rows,
        ),
        _policy(settings),
    )

    async def do_run(lease: Lease) -> None:
        await training.run(lease.item.key, lease)

    async def give_up_run(lease: Lease, error: Exception) -> None:
        await runs.give_up(lease.item.key, *failure_of(error))

    async def do_tidy(lease: Lease) -> None:
        await runs.tidy(lease.item.key, lease)

    async def give_up_tidy(lease: Lease, error: Exception) -> None:
        log.warning("checkpoints_left_behind", run=lease.item.key, error=str(error))

    runner = Worker(
        database,
        listener,
        WORK_KIND,
        do_run,
        on_exhausted=give_up_run,
        concurrency=settings.runs_at_a_time,
        lease_s=settings.run_lease_s,
        max_attempts=settings.run_attempts,
        max_per_project=settings.runs_per_project,
    )
    process.intake(runner.run(), "training runs")
    tidier = Worker(database, listener, TIDY_KIND, do_tidy, on_exhausted=give_up_tidy)
    process.intake(tidier.run(), "checkpoint removal")


def _search(process: Process, database: Database, listener: Listener, studies: Studies) -> None:
    """Takes studies as far as they can go, whenever something has happened to their runs."""

    async def advance(lease: Lease) -> None:
        await studies.advance(lease.item.key, lease)

    async def give_up(lease: Lease, error: Exception) -> None:
        await studies.give_up(lease.item.key, *failure_of(error))

    process.intake(Worker(database, listener, STUDY_KIND, advance, on_exhausted=give_up).run(), "studies")


def _mirror(process: Process, database: Database, listener: Listener, mirroring: Mirroring) -> None:
    """Sends runs to a tracker; what it refuses, or misses for a day, is not sent."""

    async def advance(lease: Lease) -> None:
        await mirroring.advance(lease.item.key, lease)

    async def give_up(lease: Lease, error: Exception) -> None:
        log.warning("run_not_mirrored", run=lease.item.key, error=str(error))

    worker = Worker(
        database, listener, MIRROR_KIND, advance, on_exhausted=give_up, max_attempts=_MIRROR_ATTEMPTS, concurrency=2
    )
    process.intake(worker.run(), "mirror")


def _export(process: Process, settings: TrainerSettings, database: Database, listener: Listener, ports: Ports) -> None:
    """Gives runs that have ended to trackers that take whole runs; each by itself, so that none holds up another."""
    for tracker, folder in _export_folders(settings).items():
        exporting = Exporting(ports, OfflineTracker(tracker, folder, settings.tracker_python))

        async def advance(lease: Lease, exporting: Exporting = exporting) -> None:
            await exporting.advance(lease.item.key, lease)

        async def give_up(lease: Lease, error: Exception, tracker: str = tracker) -> None:
            log.warning("run_not_mirrored", run=lease.item.key, tracker=tracker, error=str(error))

        worker = Worker(database, listener, export_kind(tracker), advance, on_exhausted=give_up, max_attempts=5)
        process.intake(worker.run(), f"{tracker} experiments")


def _export_folders(settings: TrainerSettings) -> dict[str, Path]:
    folders = {"comet": settings.comet_folder, "wandb": settings.wandb_folder}
    return {tracker: folder for tracker, folder in folders.items() if folder is not None}


def _policy(settings: TrainerSettings) -> Policy:
    return Policy(
        kept_checkpoints=settings.kept_checkpoints,
        checkpoint_retention_s=settings.checkpoint_retention_h * 3600,
        open_runs_per_project=settings.open_runs_per_project,
        rates=Rates(
            watts_per_core=settings.watts_per_core,
            per_core_hour=settings.cost_per_core_hour,
            per_gpu_hour=settings.cost_per_gpu_hour,
            per_kwh=settings.cost_per_kwh,
            currency=settings.currency,
        ),
        mirrors=((MIRROR_KIND,) if settings.mlflow_url else ()) + tuple(map(export_kind, _export_folders(settings))),
    )


def _cluster(settings: TrainerSettings) -> Cluster | None:
    if settings.executor == "local":
        return None
    return Cluster(
        address=settings.ray_address,
        token=settings.ray_token.get_secret_value(),
        workers=settings.ray_workers,
        wait_s=settings.ray_wait_s,
    )


def _limits(settings: TrainerSettings) -> Limits:
    return Limits(
        silence_s=settings.worker_silence_s,
        output_bytes=settings.worker_output_max_bytes,
        file_bytes=settings.worker_file_max_bytes,
        memory_bytes=settings.worker_memory_max_bytes,
        stop_s=settings.checkpoint_grace_s,
        processes=settings.worker_processes_max,
    )


def main() -> None:
    """The command `mainspring-trainer`."""
    run_main("trainer", PACKAGE, TrainerSettings, serve)


if __name__ == "__main__":
    main()
