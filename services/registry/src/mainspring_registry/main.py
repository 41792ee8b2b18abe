"""Wires the registry."""

from __future__ import annotations

from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_eventkit.outbox import CHANNEL as OUTBOX_CHANNEL
from mainspring_eventkit.service import Events
from mainspring_proof.keys import TrustedKeys, open_signer
from mainspring_registry.adapters import postgres
from mainspring_registry.adapters.announcements import OutboxAnnouncements
from mainspring_registry.adapters.importer import ChildImporter
from mainspring_registry.adapters.lineage import PostgresLineage
from mainspring_registry.adapters.notary import SigningNotary
from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.cycles import Cycles
from mainspring_registry.application.imports import WORK_KIND, Imports
from mainspring_registry.application.lineage import Lineages
from mainspring_registry.application.ports import Ports
from mainspring_registry.application.proofs import WORK_KIND as SIGNATURES
from mainspring_registry.application.proofs import Proofs
from mainspring_registry.application.releases import Releases
from mainspring_registry.settings import RegistrySettings
from mainspring_registry.transport.events import Reactions
from mainspring_registry.transport.grpc import NAME, RegistryServicer
from mainspring_svckit import watching, work
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.clock import SystemClock
from mainspring_svckit.errors import failure_of
from mainspring_svckit.lifecycle import Process, run_main
from mainspring_svckit.logs import get_logger
from mainspring_svckit.work import Lease, Worker, WorkQueue

PACKAGE = "mainspring_registry"
log = get_logger(__name__)


async def serve(process: Process, settings: RegistrySettings) -> int:
    """Builds everything and serves until told to stop."""
    signer = open_signer(settings.signing_key_url, TrustedKeys.from_file(settings.signing_keys))
    database = await process.database(PACKAGE)
    listener = process.listener(OUTBOX_CHANNEL, work.CHANNEL, watching.CHANNEL)
    events = await Events.connect(process, database, listener)
    ports = Ports(
        transactions=database,
        models=postgres.models(database),
        versions=postgres.versions(database),
        imports=postgres.imports(database),
        policies=postgres.policies(database),
        decisions=postgres.decisions(database),
        releases=postgres.releases(database),
        cycles=postgres.cycles(database),
        lineage=PostgresLineage(database),
        announcements=OutboxAnnouncements(events.outbox),
        notary=SigningNotary(signer),
        files=ArtifactStore(settings.artifact_url),
        work=WorkQueue(database),
        notifier=database,
        clock=SystemClock(),
    )
    importer = ChildImporter(
        settings.modelfiles_python, settings.import_roots, settings.scratch_dir, settings.import_timeout_s
    )
    catalogue = Catalogue(ports)
    imports, releases = Imports(ports, catalogue, importer), Releases(ports, catalogue)

    async def do_import(lease: Lease) -> None:
        await imports.run(lease.item.key, lease)

    async def give_up_import(lease: Lease, error: Exception) -> None:
        await imports.give_up(lease.item.key, *failure_of(error))

    worker = Worker(database, listener, WORK_KIND, do_import, on_exhausted=give_up_import, max_attempts=3)
    process.intake(worker.run(), "model imports")

    proofs = Proofs(ports)

    async def sign_older(lease: Lease) -> None:
        for name in await proofs.sign_older(lease):
            log.warning("not_signed", name=name, reason="its manifest is not in the artifact store")

    async def give_up_signatures(lease: Lease, error: Exception) -> None:
        del lease
        log.error("signatures_given_up", error=str(error))

    signing = Worker(database, listener, SIGNATURES, sign_older, on_exhausted=give_up_signatures, max_attempts=20)
    process.intake(signing.run(), "signatures")

    lineages = Lineages(ports, catalogue)
    reactions = Reactions(catalogue, releases, Cycles(ports), lineages)
    events.consume("registry-runs", reactions.on_run_succeeded)
    events.consume("registry-evaluations", reactions.on_evaluation_completed)
    events.consume("registry-evaluation-failures", reactions.on_evaluation_failed)
    events.consume("registry-promotions", reactions.on_promoted)
    events.consume("registry-rollbacks", reactions.on_rolled_back)
    events.consume("registry-answers", reactions.on_answered)
    events.consume("registry-cycles", reactions.on_any)

    servicer = RegistryServicer(ports, catalogue, imports, releases, lineages, listener)
    process.grpc_server(database).add(NAME, pb_grpc.add_RegistryServiceServicer_to_server, servicer)
    return await process.run()


def main() -> None:
    """The command `mainspring-registry`."""
    run_main("registry", PACKAGE, RegistrySettings, serve)


if __name__ == "__main__":
    main()
