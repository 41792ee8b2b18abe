"""Wires the registry."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from functools import partial
from typing import Protocol

from mainspring.registry.v1 import (
    compression_service_pb2_grpc,
    guard_policy_service_pb2_grpc,
    merging_service_pb2_grpc,
    webhook_service_pb2_grpc,
)
from mainspring.registry.v1 import prompt_service_pb2_grpc as prompt_pb_grpc
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.memory import StreamMemory
from mainspring_eventkit.outbox import CHANNEL as OUTBOX_CHANNEL
from mainspring_eventkit.outbox import Outbox
from mainspring_eventkit.service import Events, connect_bus
from mainspring_proof.keys import TrustedKeys, open_signer
from mainspring_registry.adapters import postgres
from mainspring_registry.adapters import webhooks as webhook_adapters
from mainspring_registry.adapters.announcements import OutboxAnnouncements
from mainspring_registry.adapters.comparing import Comparing
from mainspring_registry.adapters.data import DataIngestCatalogue
from mainspring_registry.adapters.importer import ChildImporter
from mainspring_registry.adapters.lineage import PostgresLineage
from mainspring_registry.adapters.memory import BusMemory, TrustedSeals
from mainspring_registry.adapters.merger import ChildMerger
from mainspring_registry.adapters.notary import SigningNotary
from mainspring_registry.adapters.quantizer import ChildQuantizer
from mainspring_registry.application import merges as merging
from mainspring_registry.application import quantizations as quantizing
from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.currency import Currency
from mainspring_registry.application.cycles import Cycles
from mainspring_registry.application.gate import Gate
from mainspring_registry.application.guards import Guards
from mainspring_registry.application.imports import WORK_KIND, Imports
from mainspring_registry.application.lineage import Lineages
from mainspring_registry.application.merges import Merges
from mainspring_registry.application.ports import Numbers, Ports
from mainspring_registry.application.prompts import Prompts
from mainspring_registry.application.proofs import WORK_KIND as SIGNATURES
from mainspring_registry.application.proofs import Proofs
from mainspring_registry.application.quantizations import Quantizations
from mainspring_registry.application.reconciling import Reconciliation
from mainspring_registry.application.releases import Releases
from mainspring_registry.application.webhooks import WORK_KIND as WEBHOOK_WORK
from mainspring_registry.application.webhooks import WebhookPorts, Webhooks
from mainspring_registry.domain.reconciling import Outcome
from mainspring_registry.settings import RegistrySettings
from mainspring_registry.transport import compression_grpc, guards_grpc, merging_grpc
from mainspring_registry.transport.compression_grpc import CompressionServicer
from mainspring_registry.transport.events import Reactions
from mainspring_registry.transport.grpc import REGISTRY, RegistryServicer, UseCases
from mainspring_registry.transport.guards_grpc import GuardPolicyServicer
from mainspring_registry.transport.merging_grpc import MergingServicer
from mainspring_registry.transport.prompts_grpc import PROMPTS, PromptServicer
from mainspring_registry.transport.webhook_events import WebhookReactions
from mainspring_registry.transport.webhook_grpc import NAME as WEBHOOK_NAME
from mainspring_registry.transport.webhook_grpc import WebhookServicer
from mainspring_svckit import watching, work
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.clock import SystemClock
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import MainspringError, failure_of
from mainspring_svckit.grpc_server import GrpcServer
from mainspring_svckit.lifecycle import Process, run_main
from mainspring_svckit.logs import configure_logging, get_logger
from mainspring_svckit.migrations import check, migrate
from mainspring_svckit.reading import Reader
from mainspring_svckit.work import Lease, Worker, WorkQueue

SERVICE = "registry"
PACKAGE = "mainspring_registry"
AREA = "mainspring.registry"
HOUSEKEEPING_S = 3600.0
log = get_logger(__name__)


async def serve(process: Process, settings: RegistrySettings) -> int:
    """Builds everything and serves until told to stop."""
    signer = open_signer(settings.signing_key_url, TrustedKeys.from_file(settings.signing_keys))
    database = await process.database(PACKAGE)
    listener = process.listener(OUTBOX_CHANNEL, work.CHANNEL, watching.CHANNEL)
    bus = await connect_bus(process)
    currency = Currency(database, BusMemory(StreamMemory(database, bus, SERVICE, AREA)))
    await currency.verify()
    process.health.add_probe("numbers", currency.probe)
    events = Events(process, database, listener, bus, currency)
    notary = SigningNotary(signer)
    ports = _ports(database, settings, events.outbox, notary, currency)
    importer = ChildImporter(
        settings.modelfiles_python,
        settings.import_roots,
        process.scratch(settings.scratch_dir),
        settings.import_timeout_s,
    )
    catalogue = Catalogue(ports)
    imports, releases = Imports(ports, catalogue, importer), Releases(ports, catalogue)

    _take(process, database, listener, WORK_KIND, imports, "model imports", notary)
    proofs = Proofs(ports)

    async def sign_older(lease: Lease) -> None:
        for name in await proofs.sign_older(lease):
            log.warning("not_signed", name=name, reason="its manifest is not in the artifact store")

    async def give_up_signatures(lease: Lease, error: Exception) -> None:
        del lease
        log.error("signatures_given_up", error=str(error))

    signing = Worker(
        database,
        listener,
        SIGNATURES,
        sign_older,
        on_exhausted=give_up_signatures,
        max_attempts=20,
        room=notary.usable,
    )
    process.intake(signing.run(), "signatures")

    lineages = Lineages(ports, catalogue, _data(process, settings.data_ingest_address))
    gate = Gate(ports, releases)
    reactions = Reactions(catalogue, gate, releases, Cycles(ports), lineages)
    events.consume("registry-runs", reactions.on_run_succeeded, hold=notary.usable)
    events.consume("registry-evaluations", reactions.on_evaluation_completed, hold=notary.usable)
    events.consume("registry-evaluation-failures", reactions.on_evaluation_failed)
    events.consume("registry-promotions", reactions.on_promoted)
    events.consume("registry-rollbacks", reactions.on_rolled_back)
    events.consume("registry-answers", reactions.on_answered)
    events.consume("registry-datasets", reactions.on_dataset_published)
    events.consume("registry-cycles", reactions.on_any)

    cases = UseCases(catalogue, imports, gate, releases, lineages, Prompts(ports))
    server = process.grpc_server(database)
    server.add(REGISTRY, pb_grpc.add_RegistryServiceServicer_to_server, RegistryServicer(ports, cases, listener))
    server.add(PROMPTS, prompt_pb_grpc.add_PromptServiceServicer_to_server, PromptServicer(ports, cases.prompts))
    guards = GuardPolicyServicer(ports, Guards(ports))
    server.add(guards_grpc.NAME, guard_policy_service_pb2_grpc.add_GuardPolicyServiceServicer_to_server, guards)
    compressor = _compress(process, settings, database, listener, ports, catalogue, notary)
    server.add(compression_grpc.NAME, compression_service_pb2_grpc.add_CompressionServiceServicer_to_server, compressor)
    merger = _merge(process, settings, database, listener, ports, catalogue, notary)
    server.add(merging_grpc.NAME, merging_service_pb2_grpc.add_MergingServiceServicer_to_server, merger)
    _webhooks(process, settings, database, listener, events, server)
    return await process.run()


def _data(process: Process, address: str) -> DataIngestCatalogue | None:
    """Who knows of rows; nobody without an address."""
    return DataIngestCatalogue(process.channel(address), process.caller) if address else None


def _ports(
    database: Database, settings: RegistrySettings, outbox: Outbox, notary: SigningNotary, numbers: Numbers
) -> Ports:
    """Everything that the use cases need."""
    files = ArtifactStore(settings.artifact_url)
    return Ports(
        transactions=database,
        models=postgres.PostgresModels(database),
        versions=postgres.versions(database),
        imports=postgres.imports(database),
        policies=postgres.policies(database),
        evidence=postgres.evidence(database),
        decisions=postgres.decisions(database),
        approvals=postgres.approvals(database),
        releases=postgres.releases(database),
        history=postgres.history(database),
        prompts=postgres.prompts(database),
        prompt_versions=postgres.prompt_versions(database),
        guards=postgres.guards(database),
        guard_versions=postgres.guard_versions(database),
        cycles=postgres.cycles(database),
        lineage=PostgresLineage(database),
        announcements=OutboxAnnouncements(outbox),
        notary=notary,
        numbers=numbers,
        files=files,
        comparisons=Comparing(files, wait_s=settings.file_comparison_wait_s),
        work=WorkQueue(database),
        notifier=database,
        clock=SystemClock(),
    )


class _Raised:
    """`Numbers` for the job that raises them: it gives none out."""

    async def require_current(self) -> None:
        pass


async def reconcile(settings: RegistrySettings, *, repair: bool) -> int:
    """The job after a restore: a report on stdout, as JSON; 1 when something is left to be repaired."""
    configure_logging(SERVICE, settings.log_level, sys.stderr)
    trusted, url = TrustedKeys.from_file(settings.signing_keys), settings.database_url.get_secret_value()
    await (migrate if settings.migrate_on_start else check)(url, PACKAGE)
    async with AsyncExitStack() as stack:
        database = Database(url, service=f"{SERVICE}-reconcile")
        stack.push_async_callback(database.close)
        bus = await Bus.connect(settings.nats_url.get_secret_value(), name=f"mainspring-{SERVICE}-reconcile")
        stack.push_async_callback(bus.close)
        notary = SigningNotary(open_signer(settings.signing_key_url, trusted))
        ports = _ports(database, settings, Outbox(database, SERVICE), notary, _Raised())
        catalogue = Catalogue(ports)
        memory = BusMemory(StreamMemory(database, bus, SERVICE, AREA))
        job = Reconciliation(ports, catalogue, Releases(ports, catalogue), memory, TrustedSeals(trusted))
        findings = await job.run(repair=repair)
    counts = {outcome.value: sum(one.outcome is outcome for one in findings) for outcome in Outcome}
    report = {"repaired": repair, "counts": counts, "findings": [asdict(one) for one in findings]}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if repair or not findings else 1


class _Making(Protocol):
    """Use cases that make a version, one piece of work after the other."""

    async def run(self, name: str, lease: Lease) -> None: ...

    async def give_up(self, name: str, reason: str, message: str) -> None: ...


def _take(
    process: Process,
    database: Database,
    listener: Listener,
    kind: str,
    making: _Making,
    name: str,
    notary: SigningNotary,
) -> None:
    """Takes work of a kind, three times at most, while what it makes can be signed."""

    async def run(lease: Lease) -> None:
        await making.run(lease.item.key, lease)

    async def give_up(lease: Lease, error: Exception) -> None:
        await making.give_up(lease.item.key, *failure_of(error))

    worker = Worker(database, listener, kind, run, on_exhausted=give_up, max_attempts=3, room=notary.usable)
    process.intake(worker.run(), name)


def _compress(
    process: Process,
    settings: RegistrySettings,
    database: Database,
    listener: Listener,
    ports: Ports,
    catalogue: Catalogue,
    notary: SigningNotary,
) -> CompressionServicer:
    """Takes quantizations, one at a time, and makes the door to them."""
    repository = postgres.quantizations(database)
    quantizer = ChildQuantizer(
        ArtifactStore(settings.artifact_url),
        settings.modelfiles_python,
        process.scratch(settings.scratch_dir),
        settings.quantization_timeout_s,
    )
    quantizations = Quantizations(ports, repository, catalogue, quantizer)

    _take(process, database, listener, quantizing.WORK_KIND, quantizations, "quantizations", notary)
    return CompressionServicer(Reader(database), repository, quantizations, listener)


def _merge(
    process: Process,
    settings: RegistrySettings,
    database: Database,
    listener: Listener,
    ports: Ports,
    catalogue: Catalogue,
    notary: SigningNotary,
) -> MergingServicer:
    """Takes merges, one at a time, and makes the door to them."""
    repository = postgres.merges(database)
    merger = ChildMerger(
        ArtifactStore(settings.artifact_url),
        settings.modelfiles_python,
        process.scratch(settings.scratch_dir),
        settings.merge_timeout_s,
    )
    merges = Merges(ports, repository, catalogue, merger)

    _take(process, database, listener, merging.WORK_KIND, merges, "merges", notary)
    return MergingServicer(Reader(database), repository, merges, listener, ports.clock)


def _webhooks(
    process: Process,
    settings: RegistrySettings,
    database: Database,
    listener: Listener,
    events: Events,
    server: GrpcServer,
) -> None:
    """Wires what tells programs outside by HTTP."""
    ports = WebhookPorts(
        transactions=database,
        endpoints=webhook_adapters.endpoints(database),
        deliveries=webhook_adapters.PostgresDeliveries(database),
        sender=webhook_adapters.HttpSender(allow_private=settings.webhooks_to_private_addresses),
        new_secret=webhook_adapters.new_secret,
        work=WorkQueue(database),
        clock=SystemClock(),
        retry_delays_s=settings.webhook_retry_delays_s,
    )
    webhooks = Webhooks(ports)

    async def deliver(lease: Lease) -> None:
        await webhooks.deliver(lease.item.key, lease)

    async def give_up(lease: Lease, error: Exception) -> None:
        await webhooks.give_up(lease.item.key, failure_of(error)[1])

    async def forget() -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            with suppress(MainspringError):  # It is tried again in an hour.
                await webhooks.forget_old()

    worker = Worker(
        database, listener, WEBHOOK_WORK, deliver, on_exhausted=give_up, concurrency=4, lease_s=10, max_attempts=20
    )
    process.intake(worker.run(), "webhook deliveries")
    process.support(forget(), "webhook housekeeping")
    events.consume("registry-webhooks", WebhookReactions(webhooks).on_any)
    server.add(
        WEBHOOK_NAME,
        webhook_service_pb2_grpc.add_WebhookServiceServicer_to_server,
        WebhookServicer(ports, webhooks),
    )


def main() -> None:
    """The command `mainspring-registry`."""
    jobs = {"reconcile": partial(reconcile, repair=False), "reconcile --repair": partial(reconcile, repair=True)}
    run_main(SERVICE, PACKAGE, RegistrySettings, serve, jobs)


if __name__ == "__main__":
    main()
