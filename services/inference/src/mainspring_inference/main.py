"""Wires inference."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager

from mainspring.inference.v1 import deployment_service_pb2_grpc, inference_service_pb2_grpc
from mainspring_answers.context import EmbedderContext
from mainspring_answers.ledger import OutboxLedger
from mainspring_answers.path import AnswerPath
from mainspring_answers.readiness import answering
from mainspring_answers.routing import RoutingFollower, RoutingPublisher
from mainspring_answers.templates import JinjaTemplates
from mainspring_answers.triton import TritonClient
from mainspring_eventkit.outbox import CHANNEL as OUTBOX_CHANNEL
from mainspring_eventkit.service import Events
from mainspring_inference.adapters import postgres
from mainspring_inference.adapters.announcements import OutboxAnnouncements
from mainspring_inference.adapters.catalogue import RegistryCatalogue
from mainspring_inference.adapters.triton_server import TritonServer
from mainspring_inference.application import deployments as deployments_module
from mainspring_inference.application import rollouts as rollouts_module
from mainspring_inference.application.deployments import Deployments
from mainspring_inference.application.ports import Ports
from mainspring_inference.application.rollouts import Rollouts
from mainspring_inference.settings import InferenceSettings
from mainspring_inference.transport.events import Reactions
from mainspring_inference.transport.grpc import DEPLOYMENT, INFERENCE, DeploymentServicer, InferenceServicer
from mainspring_proof.keys import TrustedKeys
from mainspring_svckit import watching, work
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.clock import SystemClock
from mainspring_svckit.database import Database, Listener, Subscription
from mainspring_svckit.errors import MainspringError
from mainspring_svckit.lifecycle import Process, run_main
from mainspring_svckit.logs import get_logger
from mainspring_svckit.work import Lease, Worker, WorkQueue

PACKAGE = "mainspring_inference"
log = get_logger(__name__)


class ListenerChanges:
    """`Changes` by Postgres notifications."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def watch(self, name: str) -> AbstractContextManager[Subscription]:
        """Changes of a resource from now on."""
        return self._listener.subscribe(watching.CHANNEL, name)


async def serve(process: Process, settings: InferenceSettings) -> int:
    """Builds everything and serves until told to stop."""
    database = await process.database(PACKAGE)
    listener = process.listener(OUTBOX_CHANNEL, work.CHANNEL, watching.CHANNEL)
    events = await Events.connect(process, database, listener)
    files, trusted = ArtifactStore(settings.artifact_url), TrustedKeys.from_file(settings.signing_keys)
    triton = TritonClient(settings.triton_url)
    process.on_close(triton.close)
    ports = Ports(
        transactions=database,
        deployments=postgres.deployments(database),
        policies=postgres.policies(database),
        rollouts=postgres.rollouts(database),
        traffic=postgres.traffic(database),
        announcements=OutboxAnnouncements(events.outbox),
        catalogue=RegistryCatalogue(
            process.channel(settings.registry_address), process.caller, files, trusted, settings.engine
        ),
        server=TritonServer(
            triton,
            files,
            repository=settings.model_repository,
            cache=settings.cache_dir,
            slots=settings.engine_slots,
            threads=settings.engine_threads,
            load_timeout_s=settings.load_timeout_s,
            gpu_memory_share=settings.gpu_memory_share,
        ),
        board=RoutingPublisher(events.bus),
        work=WorkQueue(database),
        notifier=database,
        changes=ListenerChanges(listener),
        clock=SystemClock(),
    )
    deployments = Deployments(ports)
    rollouts = Rollouts(ports, deployments)
    _start_workers(process, database, listener, deployments, rollouts)
    process.intake(_reconcile(deployments, settings.reconcile_s), "reconcile")

    reactions = Reactions(rollouts)
    events.consume("inference-releases", reactions.on_released)
    events.consume("inference-revocations", reactions.on_revoked)
    events.consume("inference-answers", reactions.on_answered, concurrency=4)

    routes = RoutingFollower(events.bus)
    process.support(routes.run(), "routing")
    path = AnswerPath(
        engine=triton,
        routes=routes,
        templates=JinjaTemplates(),
        context=EmbedderContext(process.channel(settings.embedder_address), process.caller),
        ledger=OutboxLedger(database, events.outbox, keep_content=settings.keep_content),
        clock=SystemClock(),
    )
    process.health.add_probe("routing", routes.check)
    process.health.add_probe("triton", answering(triton, routes))
    server = process.grpc_server(database)
    server.add(
        INFERENCE,
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server,
        InferenceServicer(path, routes),
    )
    server.add(
        DEPLOYMENT,
        deployment_service_pb2_grpc.add_DeploymentServiceServicer_to_server,
        DeploymentServicer(ports, deployments, rollouts, listener),
    )
    return await process.run()


def _start_workers(
    process: Process, database: Database, listener: Listener, deployments: Deployments, rollouts: Rollouts
) -> None:
    async def settle(lease: Lease) -> None:
        await deployments.settle(lease.item.key, lease)

    async def give_up_deployment(lease: Lease, error: Exception) -> None:
        await deployments.give_up(lease.item.key, error)

    async def roll_out(lease: Lease) -> None:
        await rollouts.run(lease.item.key, lease)

    async def give_up_rollout(lease: Lease, error: Exception) -> None:
        await rollouts.give_up(lease.item.key, error)

    # A model server that restarts needs some patience; two versions may load at a time.
    loading = Worker(
        database,
        listener,
        deployments_module.WORK_KIND,
        settle,
        on_exhausted=give_up_deployment,
        concurrency=2,
        max_attempts=12,
    )
    # The registry is asked for the release's signature; a restart of it must not roll a release back.
    rolling = Worker(
        database,
        listener,
        rollouts_module.WORK_KIND,
        roll_out,
        on_exhausted=give_up_rollout,
        concurrency=8,
        max_attempts=12,
    )
    process.intake(loading.run(), "deployments")
    process.intake(rolling.run(), "roll-outs")


async def _reconcile(deployments: Deployments, period_s: float) -> None:
    while True:
        try:
            await deployments.reconcile()
        except MainspringError as err:
            log.warning("reconcile_postponed", reason=err.reason)
        await asyncio.sleep(period_s)


def main() -> None:
    """The command `mainspring-inference`."""
    run_main("inference", PACKAGE, InferenceSettings, serve)


if __name__ == "__main__":
    main()
