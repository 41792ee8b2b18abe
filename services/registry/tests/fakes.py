"""The fakes of this service's own ports; each passes the contract suite of its port."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

from mainspring_registry.application.ports import ImportedFiles
from mainspring_registry.application.quantizations import CompressedFiles
from mainspring_registry.domain.catalogue import Model, ModelQuery, ModelVersion, ServingSpec
from mainspring_registry.domain.data import DatasetFacts, Search, Sought, SourcedRow, TracedVersion
from mainspring_registry.domain.imports import ModelImport
from mainspring_registry.domain.quantizations import EngineMeasure, Format, Lost, Sample
from mainspring_registry.domain.reconciling import Heard
from mainspring_registry.domain.records import ReleaseRecord
from mainspring_svckit.errors import InvalidInput, MainspringError, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.names import project_name_of
from mainspring_svckit.pagination import Page, next_page_token
from mainspring_svckit.repository import Listed
from mainspring_svckit.values import Progress
from mainspring_testkit.fakes import FakeRepository


class FakeModels(FakeRepository[Model]):
    """`Models` in memory."""

    def __init__(self) -> None:
        super().__init__(parent=lambda m: project_name_of(m.name), sort_key=lambda m: m.name)

    async def search(self, parent: str, query: ModelQuery, page: Page) -> Listed[Model]:
        narrowed = FakeModels()
        narrowed.rows = {name: row for name, row in self.rows.items() if query.matches(row.value)}
        return await narrowed.list(parent, page)


class FakeNotary:
    """Signs with a word."""

    def __init__(self) -> None:
        self.releases: list[ReleaseRecord] = []
        self.failure: MainspringError | None = None

    async def sign_version(self, manifest: bytes) -> bytes:
        if self.failure is not None:
            raise self.failure
        return b"signed " + manifest

    async def sign_release(self, record: ReleaseRecord) -> bytes:
        if self.failure is not None:
            raise self.failure
        self.releases.append(record)
        return b"signed " + record.release.encode()


class FakeNumbers:
    """Lets numbers be given out until told otherwise."""

    def __init__(self) -> None:
        self.failure: MainspringError | None = None

    async def require_current(self) -> None:
        if self.failure is not None:
            raise self.failure


class FakeMemory:
    """`Memory` of what a test says that the bus has heard."""

    def __init__(self, *heard: Heard, promoted: Sequence[tuple[str, str]] = ()) -> None:
        self.heard, self.promoted = list(heard), promoted
        self.failure: MainspringError | None = None

    async def unknown(self, *, whole: bool) -> AsyncIterator[Heard]:
        del whole
        if self.failure is not None:
            raise self.failure
        for one in list(self.heard):
            yield one

    async def remember(self, heard: Heard) -> None:
        self.heard.remove(heard)

    async def promotions(self, after: int) -> AsyncIterator[tuple[str, str]]:
        del after
        for one in self.promoted:
            yield one


class FakeData:
    """`DataCatalogue` of what a test puts in; counts who asks how versions came to be."""

    def __init__(self, *known: DatasetFacts, rows: Sequence[SourcedRow] = ()) -> None:
        self.known, self.of_rows = {facts.version: facts for facts in known}, list(rows)
        self.found: tuple[TracedVersion, ...] = ()
        self.deleted: set[str] = set()
        self.failure: MainspringError | None = None
        self.asked: list[str] = []

    async def facts(self, dataset_version: str) -> DatasetFacts:
        self.asked.append(dataset_version)
        if self.failure is not None:
            raise self.failure
        if dataset_version not in self.known:
            raise NotFound("DatasetVersion", dataset_version)
        return self.known[dataset_version]

    async def rows(self, dataset_version: str, page_size: int, page_token: str) -> tuple[Sequence[SourcedRow], str]:
        if self.failure is not None:
            raise self.failure
        if dataset_version in self.deleted:
            raise PreconditionFailed("DATASET_VERSION_DELETED", "its rows are deleted")
        begin = Page.of(page_size, page_token, dataset_version).after or "0"
        end = int(begin) + page_size
        return self.of_rows[int(begin) : end], next_page_token(
            str(end) if end < len(self.of_rows) else None, dataset_version
        )

    async def search(self, project: str, sought: Sought) -> AsyncGenerator[Search]:
        if self.failure is not None:
            raise self.failure
        if sought.text and len(sought.text) < 3:
            raise InvalidInput("it would be found everywhere")
        name = f"projects/{project}/erasures/e"
        yield Search(name, Progress(0, 2, "versions", "searching"))
        yield Search(name, Progress(2, 2, "versions", "searched"), ended=True, searched=2, versions=self.found)


class FakeImporter:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failure: Exception | None = None
        self.refused: set[str] = set()

    async def run(self, work: ModelImport) -> ImportedFiles:
        if self.failure is not None:
            raise self.failure
        if work.path in self.refused:
            raise InvalidInput("no model", reason="NO_MODEL")
        self.folder.mkdir(exist_ok=True)
        (self.folder / "w").write_bytes(b"weights")
        return ImportedFiles(self.folder, {"gguf": self.folder / "w"}, ServingSpec(2048), "MIT", "somewhere")


class FakeQuantizer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused: set[str] = set()
        self.lost: set[str] = set()

    async def run(
        self, source: ModelVersion, base: ModelVersion, format_: Format, samples: Sequence[Sample] = ()
    ) -> CompressedFiles:
        if source.name in self.refused:
            raise InvalidInput("no model", reason="NO_MODEL")
        if source.name in self.lost:
            raise Unavailable("QUANTIZER_FAILED", "killed")
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "small.gguf"
        path.write_bytes(f"{format_} of {source.name} on {base.name}".encode())
        if format_.for_gpus:
            lost = Lost(0.01, 0.98, 48, 2.0, 2.1, len(samples))
            files = {"hf/config.json": path, "hf/model.safetensors": path}
            return CompressedFiles(self.folder, files, {format_.value: 1}, EngineMeasure(100), EngineMeasure(60), lost)
        before, after = EngineMeasure(100, 200, 30.0, 10.0), EngineMeasure(60, 120, 45.0, 15.0)
        return CompressedFiles(self.folder, {"gguf": path}, {format_.value: 1}, before, after)
