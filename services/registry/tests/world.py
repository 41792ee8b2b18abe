"""The registry's use cases over fakes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring_registry.adapters.announcements import OutboxAnnouncements
from mainspring_registry.application.catalogue import Catalogue, TrainedAdapter
from mainspring_registry.application.imports import Imports
from mainspring_registry.application.ports import LineageGraph, Ports
from mainspring_registry.application.proofs import Proofs
from mainspring_registry.application.releases import Releases
from mainspring_registry.domain.catalogue import Lineage, ModelKind, ModelVersion, ServingSpec
from mainspring_registry.domain.gate import Evidence, ReleasePolicy
from mainspring_svckit.names import GateDecisionName, project_name_of
from mainspring_svckit.values import Estimate, Fidelity, ScorerResult
from mainspring_testkit.fakes import (
    FakeArtifacts,
    FakeClock,
    FakeNotifier,
    FakeOutbox,
    FakeRepository,
    FakeTransactions,
    FakeWork,
)

from .fakes import FakeImporter, FakeNotary

BASE = "projects/p/models/base/versions/1"
MODEL = "projects/p/models/m"
SUITE = "projects/p/evaluationSuites/s"
POLICY = ReleasePolicy("projects/p/releasePolicies/r", MODEL, SUITE, "rouge_l")


def by_name(value: Any) -> str:
    return value.name


def project(value: Any) -> str:
    return project_name_of(value.name)


@dataclass
class World:
    ports: Ports
    catalogue: Catalogue
    releases: Releases
    imports: Imports
    outbox: FakeOutbox
    files: FakeArtifacts
    work: FakeWork
    importer: FakeImporter
    notary: FakeNotary

    @property
    def proofs(self) -> Proofs:
        return Proofs(self.ports)

    def said(self, kind: Any) -> list[Any]:
        return [message for message in self.outbox.emitted if isinstance(message, kind)]

    async def base(self) -> ModelVersion:
        model = await self.catalogue.ensure_model("projects/p/models/base", ModelKind.FOUNDATION)
        return await self.catalogue.add_version(
            model, artifacts={}, serving=ServingSpec(2048, "template"), lineage=Lineage(), licence="MIT"
        )

    async def version(self, run: str = "r") -> ModelVersion:
        if not await self.ports.versions.get(BASE):
            await self.base()
        return await self.catalogue.register_adapter(await self.trained(run))

    async def trained(self, run: str) -> TrainedAdapter:
        artifact = await self.files.put_bytes("p", run.encode())
        lineage = Lineage(training_run=f"projects/p/trainingRuns/{run}", recipe_sha256="rr")
        return TrainedAdapter(MODEL, BASE, {"adapter.gguf": artifact}, lineage, "cycle")

    async def measure(self, version: ModelVersion, low: float, *, baseline: str = BASE, suite: str = SUITE) -> Any:
        return await self.releases.apply_gate(version.name, suite, evidence(version, low, baseline), "cycle")


def evidence(version: ModelVersion, low: float, baseline: str) -> Evidence:
    estimate = Estimate(0.5, 0.4, 0.6, 0.95)
    scored = ScorerResult("rouge_l", "sig", estimate, estimate, Estimate(low + 0.1, low, low + 0.2, 0.95))
    fidelity = Fidelity(0.01, 0.97, 64)
    return Evidence("projects/p/evaluationRuns/e", version.manifest.sha256, baseline, (scored,), 100, fidelity)


def make_world(folder: Path, lineage: LineageGraph) -> World:
    """Everything wired over fakes."""
    notary = FakeNotary()
    outbox, files, work = FakeOutbox(), FakeArtifacts(), FakeWork()

    def repository(parent: Any, key: Any = by_name, newest_first: bool = False) -> Any:
        return FakeRepository(parent=parent, sort_key=key, newest_first=newest_first)

    ports = Ports(
        transactions=FakeTransactions(),
        models=repository(project),
        versions=repository(lambda v: v.model, lambda v: f"{v.number:09}", True),
        imports=repository(project),
        policies=repository(project),
        decisions=repository(lambda d: d.model, lambda d: GateDecisionName.parse(d.name).decision.zfill(9), True),
        releases=repository(lambda r: r.model, lambda r: f"{r.number:09}", True),
        cycles=repository(project),
        lineage=lineage,
        announcements=OutboxAnnouncements(outbox),  # type: ignore[arg-type]
        notary=notary,
        files=files,
        work=work,
        notifier=FakeNotifier(),
        clock=FakeClock(),
    )
    catalogue, importer = Catalogue(ports), FakeImporter(folder / "import")
    imports = Imports(ports, catalogue, importer)
    return World(ports, catalogue, Releases(ports, catalogue), imports, outbox, files, work, importer, notary)
