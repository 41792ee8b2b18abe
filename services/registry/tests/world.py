"""The registry's use cases over fakes."""

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

from mainspring_registry.adapters.announcements import OutboxAnnouncements
from mainspring_registry.adapters.comparing import Comparing
from mainspring_registry.application.catalogue import Catalogue, TrainedAdapter
from mainspring_registry.application.gate import Gate
from mainspring_registry.application.imports import Imports
from mainspring_registry.application.ports import LineageGraph, Ports
from mainspring_registry.application.proofs import Proofs
from mainspring_registry.application.releases import Releases
from mainspring_registry.domain.approvals import Actor
from mainspring_registry.domain.catalogue import Lineage, ModelKind, ModelVersion, ServingSpec
from mainspring_registry.domain.gate import Evidence
from mainspring_registry.domain.policies import ReleasePolicy
from mainspring_svckit.names import GateDecisionName, project_name_of
from mainspring_svckit.ports import Transactions
from mainspring_svckit.repository import Stored
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

from .fakes import FakeImporter, FakeModels, FakeNotary, FakeNumbers

BASE = "projects/p/models/base/versions/1"
MODEL = "projects/p/models/m"
SUITE = "projects/p/evaluationSuites/s"
_RUNS = count(1)
ANNA, BEN, CARL = (Actor(name, frozenset({"releaser"})) for name in ("anna", "ben", "carl"))
ADA = Actor("ada", frozenset({"admin"}))
POLICY = ReleasePolicy("projects/p/releasePolicies/r", MODEL, SUITE, "rouge_l")


def by_name(value: Any) -> str:
    return value.name


def project(value: Any) -> str:
    return project_name_of(value.name)


@dataclass
class World:
    ports: Ports
    catalogue: Catalogue
    gate: Gate
    releases: Releases
    imports: Imports
    outbox: FakeOutbox
    files: FakeArtifacts
    work: FakeWork
    importer: FakeImporter
    notary: FakeNotary
    clock: FakeClock

    @property
    def proofs(self) -> Proofs:
        return Proofs(self.ports)

    def said(self, kind: Any) -> list[Any]:
        return [message for message in self.outbox.emitted if isinstance(message, kind)]

    async def put_policy(
        self, policy: ReleasePolicy, *, etag: str = "", allow_missing: bool = True
    ) -> Stored[ReleasePolicy]:
        return await self.gate.put_policy(policy, etag=etag, allow_missing=allow_missing, actor=ANNA)

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
        return await self.gate.apply(version.name, suite, evidence(version, low, baseline), "cycle")


def evidence(version: ModelVersion, low: float, baseline: str) -> Evidence:
    estimate = Estimate(0.5, 0.4, 0.6, 0.95)
    scored = ScorerResult("rouge_l", "sig", estimate, estimate, Estimate(low + 0.1, low, low + 0.2, 0.95))
    fidelity = Fidelity(0.01, 0.97, 64)
    return Evidence(
        f"projects/p/evaluationRuns/e{next(_RUNS):06}", version.manifest.sha256, baseline, (scored,), 100, fidelity
    )


def fake_ports(lineage: LineageGraph, outbox: FakeOutbox, transactions: Transactions | None = None) -> Ports:
    """Every port over a fake; with `transactions` those of the database that `lineage` lies in."""

    files = FakeArtifacts()

    def repository(parent: Any, key: Any = by_name, newest_first: bool = False) -> Any:
        return FakeRepository(parent=parent, sort_key=key, newest_first=newest_first)

    return Ports(
        transactions=transactions or FakeTransactions(),
        models=FakeModels(),
        versions=repository(lambda v: v.model, lambda v: f"{v.number:09}", True),
        imports=repository(project),
        policies=repository(project),
        evidence=repository(lambda e: e.model_version),
        approvals=repository(lambda a: a.model, by_name, True),
        history=repository(lambda h: h.model, lambda h: f"{h.number:09}"),
        prompts=repository(project),
        prompt_versions=repository(lambda v: v.prompt, lambda v: f"{v.number:09}", True),
        guards=repository(project),
        guard_versions=repository(lambda v: v.guard_policy, lambda v: f"{v.number:09}", True),
        decisions=repository(lambda d: d.model, lambda d: GateDecisionName.parse(d.name).decision.zfill(9), True),
        releases=repository(lambda r: r.model, lambda r: f"{r.number:09}", True),
        cycles=repository(project),
        lineage=lineage,
        announcements=OutboxAnnouncements(outbox),  # type: ignore[arg-type]
        notary=FakeNotary(),
        numbers=FakeNumbers(),
        files=files,
        comparisons=Comparing(files, wait_s=10),
        work=FakeWork(),
        notifier=FakeNotifier(),
        clock=FakeClock(),
    )


def make_world(folder: Path, lineage: LineageGraph, transactions: Transactions | None = None) -> World:
    """Everything wired over fakes."""
    outbox = FakeOutbox()
    ports = fake_ports(lineage, outbox, transactions)
    files, work, notary, clock = (cast("Any", port) for port in (ports.files, ports.work, ports.notary, ports.clock))
    catalogue, importer = Catalogue(ports), FakeImporter(folder / "import")
    imports = Imports(ports, catalogue, importer)
    releases = Releases(ports, catalogue)
    return World(
        ports, catalogue, Gate(ports, releases), releases, imports, outbox, files, work, importer, notary, clock
    )
