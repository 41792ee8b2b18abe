"""What the registry's use cases need from outside."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mainspring_registry.domain.approvals import Approval
from mainspring_registry.domain.catalogue import Model, ModelQuery, ModelVersion, ServingSpec
from mainspring_registry.domain.cycles import Cycle
from mainspring_registry.domain.data import DatasetFacts, Search, Sought, SourcedRow
from mainspring_registry.domain.gate import EvidenceRecord, GateDecision
from mainspring_registry.domain.guards import GuardPolicy, GuardPolicyVersion
from mainspring_registry.domain.history import HistoryEntry
from mainspring_registry.domain.imports import ModelImport
from mainspring_registry.domain.lineage import Direction, Edge, Walk
from mainspring_registry.domain.policies import ReleasePolicy
from mainspring_registry.domain.prompts import Prompt, PromptVersion
from mainspring_registry.domain.reconciling import Heard, SignedManifest, SignedRelease
from mainspring_registry.domain.records import ReleaseRecord
from mainspring_registry.domain.releases import Release
from mainspring_svckit.clock import Clock
from mainspring_svckit.pagination import Page
from mainspring_svckit.ports import Artifacts, Notifier, Transactions, Work
from mainspring_svckit.repository import Listed, Repository
from mainspring_svckit.values import ArtifactRef


class Announcements(Protocol):
    """Tells other services what happened; joins the ambient transaction."""

    async def version_registered(self, version: ModelVersion) -> None:
        """The catalogue has a new version."""
        ...

    async def released(self, release: Release, version: ModelVersion, decision: GateDecision) -> None:
        """A version may serve from now on. Announcements of one model go out in the order in which they are made."""
        ...

    async def release_revoked(self, release: Release, reason: str, restored: Release | None) -> None:
        """A release was taken back; `restored` is active again."""
        ...

    async def release_refused(
        self, version: str, model: str, decision: str, reasons: tuple[str, ...], cycle: str
    ) -> None:
        """The gate did not let a version through."""
        ...


@dataclass(frozen=True)
class ImportedFiles:
    """What an importer made of a source.

    Attributes:
        folder: Holds the files; the caller removes it.
        files: File below `folder` by role.
        serving: How to serve the model.
        licence: SPDX expression, or empty when the source names none.
        origin: Where it came from, in words.
    """

    folder: Path
    files: Mapping[str, Path]
    serving: ServingSpec
    licence: str
    origin: str


class ModelImporter(Protocol):
    """Reads, checks and converts a model's files, in a process of its own."""

    async def run(self, work: ModelImport) -> ImportedFiles:
        """Makes the files of a version.

        Raises:
            InvalidInput: The source is not a model that may come in; the reason says why.
            Unavailable: It could not be tried now.
        """
        ...


class LineageGraph(Protocol):
    """What was made from what; every edge belongs to the project of its target. Joins the ambient transaction."""

    async def add(self, edges: Sequence[Edge]) -> None:
        """Adds edges of one project; those that are there are fine."""
        ...

    async def walk(self, names: Sequence[str], direction: Direction, *, max_hops: int, max_nodes: int) -> Walk:
        """What can be reached from names of one project, themselves first; they need not be known."""
        ...

    async def knows(self, name: str) -> bool:
        """Whether any edge begins or ends there."""
        ...


class DataCatalogue(Protocol):
    """What data-ingest knows of dataset versions.

    Raises:
        NotFound: There is no such version.
        Unavailable: It cannot be asked now.
    """

    async def facts(self, dataset_version: str) -> DatasetFacts:
        """How a version came to be; also of one whose rows are deleted."""
        ...

    async def rows(self, dataset_version: str, page_size: int, page_token: str) -> tuple[Sequence[SourcedRow], str]:
        """One page of rows, and the token of the next.

        Raises:
            InvalidInput: The token is not of this version.
            PreconditionFailed: DATASET_VERSION_DELETED.
        """
        ...

    def search(self, project: str, sought: Sought) -> AsyncGenerator[Search]:
        """Looks into every version; the search now and after each change, at last as it ended.

        Raises:
            InvalidInput: The text would be found everywhere.
            PreconditionFailed: The search failed, for its own reason.
        """
        ...


class Models(Repository[Model], Protocol):
    """All models."""

    async def search(self, parent: str, query: ModelQuery, page: Page) -> Listed[Model]:
        """The models of a project that a query matches, a page at a time."""
        ...


class Memory(Protocol):
    """What the bus remembers of the registry. Joins the ambient transaction."""

    def unknown(self, *, whole: bool) -> AsyncIterator[Heard]:
        """Events of the registry that its database does not know, oldest first.

        Args:
            whole: Whether to look at everything that the bus holds, or only at what came last.
        """
        ...

    async def remember(self, heard: Heard) -> None:
        """Marks an event that `unknown` gave as known, and as told."""
        ...

    def promotions(self, after: int) -> AsyncIterator[tuple[str, str]]:
        """Releases that got all traffic behind a place of the bus, each with its version."""
        ...


class Numbers(Protocol):
    """Whether numbers of versions, decisions and releases may be given out."""

    async def require_current(self) -> None:
        """Raises unless they may.

        Raises:
            PreconditionFailed: DATABASE_IS_OLDER_THAN_THE_BUS, they would be given out a second time.
            Unavailable: It cannot be seen now.
        """
        ...


class Seals(Protocol):
    """Reads what a trusted key signed."""

    async def version(self, bundle: bytes) -> SignedManifest:
        """A version's manifest.

        Raises:
            PreconditionFailed: PROOF_INVALID or PROOF_UNTRUSTED.
        """
        ...

    async def release(self, bundle: bytes) -> SignedRelease:
        """A release's record.

        Raises:
            PreconditionFailed: PROOF_INVALID or PROOF_UNTRUSTED.
        """
        ...


class Notary(Protocol):
    """Signs what the registry answers for."""

    async def sign_version(self, manifest: bytes) -> bytes:
        """The signed manifest of a version.

        Raises:
            Unavailable: The key cannot be used now.
        """
        ...

    async def sign_release(self, record: ReleaseRecord) -> bytes:
        """The signed manifest of a release.

        Raises:
            Unavailable: The key cannot be used now.
        """
        ...


class FileStore(Artifacts, Protocol):
    """The artifact store, files included."""

    async def put_file(self, project: str, path: Path, *, media_type: str = "", filename: str = "") -> ArtifactRef:
        """Stores a file."""
        ...

    def stream(self, project: str, artifact: ArtifactRef) -> AsyncIterator[bytes]:
        """The bytes in order; one that is corrupt raises after its last chunk."""
        ...


class Comparisons(Protocol):
    """What is known of large files, whose bytes nobody can wait for while he decides."""

    async def look(self, project: str, files: Collection[ArtifactRef]) -> None:
        """Has files compared with their digests, and waits for that, but not for long."""
        ...

    def is_damaged(self, project: str, file: ArtifactRef) -> bool:
        """Whether a file held other bytes when it was last read whole."""
        ...


@dataclass(frozen=True)
class Ports:
    """Everything the use cases need; made once, in `main.py`."""

    transactions: Transactions
    models: Models
    versions: Repository[ModelVersion]
    imports: Repository[ModelImport]
    policies: Repository[ReleasePolicy]
    evidence: Repository[EvidenceRecord]
    decisions: Repository[GateDecision]
    approvals: Repository[Approval]
    releases: Repository[Release]
    history: Repository[HistoryEntry]
    prompts: Repository[Prompt]
    prompt_versions: Repository[PromptVersion]
    guards: Repository[GuardPolicy]
    guard_versions: Repository[GuardPolicyVersion]
    cycles: Repository[Cycle]
    lineage: LineageGraph
    announcements: Announcements
    notary: Notary
    numbers: Numbers
    files: FileStore
    comparisons: Comparisons
    work: Work
    notifier: Notifier
    clock: Clock
