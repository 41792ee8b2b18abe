"""Use cases over fakes: what is stored, what is announced."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mainspring.events.v1.data_events_pb2 import DatasetVersionPublished
from mainspring_data_ingest.adapters.announcements import OutboxAnnouncements
from mainspring_data_ingest.application.files import (
    ChangedRows,
    RefusedRows,
    UploadPorts,
    Uploads,
    changed_line,
    refused_line,
)
from mainspring_data_ingest.application.ingestions import WORK_KIND, CreateIngestion, Ingestions
from mainspring_data_ingest.application.ports import HeldOut, Ports, StepFiles
from mainspring_data_ingest.application.recipes import Recipes
from mainspring_data_ingest.application.reports import Reports
from mainspring_data_ingest.application.step_files import StepFinder
from mainspring_data_ingest.domain.columns import MESSAGES, ColumnMapping
from mainspring_data_ingest.domain.ingestions import SYNTHETIC, Ingestion, IngestionState, Source, SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import ChangedRow, RefusalReason, RefusedRow, StepPlace
from mainspring_data_ingest.domain.report import Report
from mainspring_data_ingest.domain.splits import Split
from mainspring_data_ingest.domain.steps import (
    Balance,
    BalanceBy,
    BalanceClusters,
    Decontamination,
    LanguageFilter,
    RecipeStep,
    ReferenceExamples,
    TokenStatistics,
)
from mainspring_data_ingest.domain.uploads import Upload
from mainspring_svckit.errors import (
    EtagMismatch,
    IllegalTransition,
    InvalidInput,
    MainspringError,
    NotFound,
)
from mainspring_svckit.names import project_name_of
from mainspring_svckit.pagination import Page
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.fakes import (
    FakeArtifacts,
    FakeClock,
    FakeLease,
    FakeNotifier,
    FakeOutbox,
    FakeRepository,
    FakeTransactions,
    FakeWork,
)

from .fakes import FakeRefiner, uploads

DATASET = "projects/p/datasets/d"
SUITE = "projects/p/evaluationSuites/s/versions/1"
RECIPE = IngestionRecipe("projects/p/ingestionRecipes/r", DATASET, ColumnMapping("in", "out"))


@dataclass
class World:
    ports: Ports
    ingestions: Ingestions
    refiner: FakeRefiner
    files: FakeArtifacts
    outbox: FakeOutbox
    work: FakeWork
    number: int = 0

    async def source(self, text: str) -> Source:
        return Source(await self.files.put_bytes("p", text.encode(), filename=f"{text}.jsonl"), SourceFormat.JSONL)

    async def asked(self, *texts: str) -> Ingestion:
        self.number += 1
        sources = tuple([await self.source(text) for text in texts])
        return await self.ingestions.create(
            CreateIngestion("p", f"i{self.number}", RECIPE.name, sources, f"cycle-{self.number}")
        )

    async def added(self, text: str) -> Ingestion:
        self.number += 1
        examples = (await self.source(text)).artifact
        return await self.ingestions.add_examples(RECIPE.name, examples, f"i{self.number}", f"cycle-{self.number}")

    async def ran(self, work: Ingestion) -> Ingestion:
        try:
            await self.ingestions.run(work.name, FakeLease())
        except MainspringError as err:
            await self.ingestions.give_up(work.name, err.reason, err.message)
        found = await self.ports.ingestions.get(work.name)
        assert found is not None
        return found.value

    def published(self) -> list[str]:
        return [event.dataset_version for event in self.outbox.emitted if isinstance(event, DatasetVersionPublished)]

    async def texts(self, version: str) -> list[str]:
        found = await self.ports.versions.get(version)
        assert found is not None
        return [source.artifact.filename.removesuffix(".jsonl") for source in found.value.sources]


@pytest.fixture
async def world(tmp_path: Path) -> World:
    def repository(parent: Any, key: Any = lambda value: value.name, newest_first: bool = False) -> Any:
        return FakeRepository(parent=parent, sort_key=key, newest_first=newest_first)

    def project(value: Any) -> str:
        return project_name_of(value.name)

    outbox, files, work = FakeOutbox(), FakeArtifacts(), FakeWork()
    refiner = FakeRefiner(tmp_path, files)
    ports = Ports(
        transactions=FakeTransactions(),
        recipes=repository(project),
        recipe_versions=repository(lambda v: v.recipe.name, lambda v: f"{v.recipe.version:09}", True),
        ingestions=repository(project),
        datasets=repository(project),
        versions=repository(lambda v: v.dataset, lambda v: f"{v.number:09}", True),
        comparisons=repository(project),
        erasures=repository(project, newest_first=True),
        uploads=repository(project),
        announcements=OutboxAnnouncements(outbox),  # type: ignore[arg-type]
        files=files,
        work=work,
        notifier=FakeNotifier(),
        clock=FakeClock(),
    )
    await ports.recipes.put(RECIPE)
    return World(ports, Ingestions(ports, refiner), refiner, files, outbox, work)


async def test_an_ingestion_publishes_a_version(world: World) -> None:
    asked = await world.asked("a", "b")
    assert (WORK_KIND, asked.name) in world.work.queued
    done = await world.ran(asked)
    assert (done.state, done.dataset_version) == (IngestionState.SUCCEEDED, f"{DATASET}/versions/1")
    (event,) = world.outbox.emitted
    assert isinstance(event, DatasetVersionPublished)
    assert (event.train_rows, event.refused_rows, world.outbox.cycles) == (2, 1, ["cycle-1"])
    found = await world.ports.versions.get(done.dataset_version)
    assert found is not None
    version = found.value
    assert (version.tally.input_rows, version.ingestion, version.cycle) == (3, asked.name, "cycle-1")
    manifest = json.loads(await world.files.read("p", version.manifest))
    assert manifest["root_sha256"] == version.root_sha256 == event.root_sha256
    assert [shard["rows"] for shard in manifest["splits"]["train"]] == [1, 1]
    for shard in manifest["splits"]["train"]:
        assert await world.files.exists("p", ArtifactRef(shard["sha256"], shard["size_bytes"]))


async def test_the_same_sources_and_recipe_give_the_version_that_is_there(world: World) -> None:
    first = await world.ran(await world.asked("a"))
    again = await world.ran(await world.asked("a"))
    assert again.dataset_version == first.dataset_version
    assert again.state is IngestionState.SUCCEEDED
    assert len(world.published()) == 1
    other = await world.ran(await world.asked("b"))
    assert other.dataset_version == f"{DATASET}/versions/2"
    back = await world.ran(await world.asked("a"))  # No longer the newest, so it is a version again.
    assert back.dataset_version == f"{DATASET}/versions/3"


async def test_an_ingestion_keeps_the_recipe_as_it_stood(world: World) -> None:
    asked = await world.asked("a")
    await world.ports.recipes.put(replace(RECIPE, system_prompt="later"))
    await world.ran(asked)
    assert world.refiner.seen[0].recipe == RECIPE


async def test_what_cannot_be_read_is_refused_at_once(world: World) -> None:
    missing = Source(ArtifactRef("0" * 64, 1), SourceFormat.CSV)
    with pytest.raises(NotFound):
        await world.ingestions.create(CreateIngestion("p", "i", RECIPE.name, (missing,), "c"))
    with pytest.raises(NotFound):
        await world.ingestions.create(
            CreateIngestion("p", "i", "projects/p/ingestionRecipes/x", (await world.source("a"),), "c")
        )


async def test_b9_a_useless_source_fails_with_its_reason(world: World) -> None:
    world.refiner.failure = InvalidInput("source 0 is empty", reason="SOURCE_EMPTY")
    failed = await world.ran(await world.asked("a"))
    assert (failed.state, failed.error_reason) == (IngestionState.FAILED, "SOURCE_EMPTY")
    assert world.outbox.emitted == []


async def test_b9_the_same_bytes_marked_as_synthetic_are_another_version(world: World) -> None:
    first = await world.ran(await world.asked("a"))
    source = await world.source("a")
    marked = replace(source, artifact=replace(source.artifact, media_type=SYNTHETIC))
    wish = CreateIngestion("p", "marked", RECIPE.name, (marked,), "cycle")
    done = await world.ran(await world.ingestions.create(wish))
    assert done.dataset_version != first.dataset_version
    found = await world.ports.versions.get(done.dataset_version)
    assert found is not None
    assert [source.synthetic for source in found.value.sources] == [True]


async def test_f9_a_full_store_fails_and_nothing_is_published(world: World) -> None:
    asked = await world.asked("a")
    world.files.full = True
    failed = await world.ran(asked)
    assert (failed.state, failed.error_reason) == (IngestionState.FAILED, "INSUFFICIENT_STORAGE")
    assert world.outbox.emitted == []
    assert await world.ports.datasets.get(DATASET) is None
    world.files.full = False
    assert (await world.ran(await world.asked("a"))).dataset_version == f"{DATASET}/versions/1"


async def test_examples_are_added_to_the_newest_version(world: World) -> None:
    await world.ran(await world.asked("a", "b"))
    added = await world.added("c")
    assert added.sources[-1].columns == MESSAGES
    assert added.base_version == f"{DATASET}/versions/1"
    done = await world.ran(added)
    assert await world.texts(done.dataset_version) == ["a", "b", "c"]
    assert world.outbox.cycles[-1] == "cycle-2"


async def test_examples_for_an_empty_dataset_are_its_first_version(world: World) -> None:
    done = await world.ran(await world.added("c"))
    assert await world.texts(done.dataset_version) == ["c"]


async def test_i2_examples_that_came_at_the_same_time_are_all_kept(world: World) -> None:
    await world.ran(await world.asked("a"))
    first, second, third = await world.added("x"), await world.added("y"), await world.added("z")

    async def meanwhile() -> None:
        await world.ran(third)

    world.refiner.meanwhile = meanwhile
    await world.ran(second)
    done = await world.ran(first)
    assert await world.texts(done.dataset_version) == ["a", "z", "y", "x"]
    assert world.published() == [f"{DATASET}/versions/{number}" for number in (1, 2, 3, 4)]


async def test_a_cancelled_ingestion_leaves_the_queue(world: World) -> None:
    asked = await world.asked("a")
    assert (await world.ingestions.cancel(asked.name)).state is IngestionState.CANCELLED
    assert world.work.queued == {}
    with pytest.raises(IllegalTransition):
        await world.ingestions.cancel(asked.name)
    with pytest.raises(NotFound):
        await world.ingestions.cancel("projects/p/ingestions/none")


async def test_recipes_are_written_under_their_etag(world: World) -> None:
    recipes = Recipes(world.ports)
    stored = await recipes.put(replace(RECIPE, system_prompt="s"), etag="", allow_missing=False)
    with pytest.raises(EtagMismatch):
        await recipes.put(RECIPE, etag="99", allow_missing=False)
    assert (await recipes.put(RECIPE, etag=stored.etag, allow_missing=False)).value == replace(RECIPE, version=2)
    new = replace(RECIPE, name="projects/p/ingestionRecipes/new")
    with pytest.raises(NotFound):
        await recipes.put(new, etag="", allow_missing=False)
    assert (await recipes.put(new, etag="", allow_missing=True)).value == replace(new, version=1)
    with pytest.raises(EtagMismatch):
        await recipes.put(replace(RECIPE, name="projects/p/ingestionRecipes/none"), etag="1", allow_missing=True)
    with pytest.raises(InvalidInput):
        await recipes.put(replace(RECIPE, dataset="projects/p/datasets/UPPER"), etag="", allow_missing=True)


async def test_a_recipe_that_an_older_release_wrote_gets_the_next_version_and_no_old_one_again(world: World) -> None:
    recipes = Recipes(world.ports)
    for prompt, version in (("a", 1), ("a", 1), ("b", 2)):
        written = await recipes.put(replace(RECIPE, system_prompt=prompt), etag="", allow_missing=False)
        assert written.value.version == version
    await world.ports.recipes.put(replace(RECIPE, system_prompt="b"))  # It counts nothing.
    assert (await world.asked("x")).recipe.version_name == ""
    written = await recipes.put(replace(RECIPE, system_prompt="b"), etag="", allow_missing=False)
    assert written.value.version == 3
    assert [version.recipe.version for version in await world.ports.recipe_versions.all()] == [3, 2, 1]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 20])
async def test_refused_rows_are_read_by_page(world: World, chunk_bytes: int) -> None:
    done = await world.ran(await world.asked("a"))
    step = StepPlace("markup_to_text", 2)
    rows = [RefusedRow(0, number, RefusalReason.EMPTY, "é" * (number % 5), "\n", step) for number in range(1, 24)]
    kept = await world.files.put_bytes("p", b"".join(map(refused_line, rows)))
    found = await world.ports.versions.get(done.dataset_version)
    assert found is not None
    await world.ports.versions.put(replace(found.value, refused=kept))
    world.files.chunk_bytes = chunk_bytes
    seen: list[RefusedRow] = []
    key: str | None = None
    while True:
        page, key = await RefusedRows(world.ports).page(done.dataset_version, Page(5, key))
        seen += page
        if key is None:
            break
        assert len(page) == 5
    assert seen == rows


async def test_refused_rows_that_an_older_release_wrote_are_read_without_a_step(world: World) -> None:
    done = await world.ran(await world.asked("a"))
    body = {"source_index": 0, "line": 2, "reason": "EMPTY", "detail": "is empty", "excerpt": "x"}
    kept = await world.files.put_bytes("p", json.dumps(body).encode() + b"\n")
    found = await world.ports.versions.get(done.dataset_version)
    assert found is not None
    await world.ports.versions.put(replace(found.value, refused=kept))
    rows, _ = await RefusedRows(world.ports).page(done.dataset_version, Page(5, None))
    assert rows == [RefusedRow(0, 2, RefusalReason.EMPTY, "is empty", "x", StepPlace("", 0))]


async def test_changed_rows_are_read_by_page_and_older_versions_have_none(world: World) -> None:
    done = await world.ran(await world.asked("a"))
    changes = ChangedRows(world.ports)
    assert await changes.page(done.dataset_version, Page(5, None)) == ([], None)
    steps = StepPlace("text_repair", 1), StepPlace("personal_data", 12)
    rows = [ChangedRow(0, number, f"{number:064x}", steps[: 1 + number % 2]) for number in range(1, 8)]
    kept = await world.files.put_bytes("p", b"".join(map(changed_line, rows)))
    found = await world.ports.versions.get(done.dataset_version)
    assert found is not None
    await world.ports.versions.put(replace(found.value, changed=kept))
    first, key = await changes.page(done.dataset_version, Page(5, None))
    rest, end = await changes.page(done.dataset_version, Page(5, key))
    assert (first + rest, end) == (rows, None)
    with pytest.raises(InvalidInput, match="leave it empty"):
        await changes.page(done.dataset_version, Page(5, "3"))


@pytest.mark.parametrize("key", ["3", "-1", "x", "9" * 30, "²"])
async def test_b1_tokens_that_we_did_not_give_are_refused(world: World, key: str) -> None:
    done = await world.ran(await world.asked("a"))
    with pytest.raises(InvalidInput, match="leave it empty"):
        await RefusedRows(world.ports).page(done.dataset_version, Page(5, key))


async def test_uploads_are_stored_with_their_kind(world: World) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    stored = await uploads(world.files, 10).store("p", "x.csv", chunks())
    assert (stored.filename, stored.media_type) == ("x.csv", "text/csv")
    assert await world.files.read("p", stored) == b"ab"


async def test_an_upload_is_remembered_before_its_bytes_are_there_and_after_an_erasure_that_came_between() -> None:
    uploaded = FakeRepository[Upload](parent=lambda u: f"projects/{u.project}", sort_key=lambda u: u.name)
    before: list[list[str]] = []

    class Erased(FakeArtifacts):
        async def put_bytes(self, *args: Any, **fields: Any) -> ArtifactRef:
            before.append([upload.value.artifact.filename for upload in uploaded.rows.values()])
            uploaded.rows.clear()
            return await super().put_bytes(*args, **fields)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"

    ports = UploadPorts(Erased(), FakeTransactions(), uploaded, FakeClock())
    stored = await Uploads(ports, 10).store("p", "x.csv", chunks())
    assert before == [["x.csv"]]
    assert [upload.value.artifact for upload in uploaded.rows.values()] == [stored]


class FakePlotter:
    async def draw(self, title: str, report: Report) -> bytes:
        return f"{title}: {report.input_rows}".encode()


async def test_a_version_has_a_report_that_the_manifest_names(world: World) -> None:
    done = await world.ran(await world.asked("a", "b"))
    reports = Reports(world.ports, FakePlotter())
    report, picture = await reports.read(done.dataset_version, plot=True)
    assert (report.input_rows, report.kept_unchanged, report.refused) == (3, 2, {RefusalReason.EMPTY: 1})
    assert picture == f"{done.dataset_version}: 3".encode()
    found = await world.ports.versions.get(done.dataset_version)
    assert found is not None
    assert found.value.report is not None
    manifest = json.loads(await world.files.read("p", found.value.manifest))
    assert manifest["report"] == {"sha256": found.value.report.sha256, "size_bytes": found.value.report.size_bytes}
    assert (await reports.read(done.dataset_version, plot=False))[1] == b""


async def test_a_version_from_before_there_were_reports_has_none(world: World) -> None:
    done = await world.ran(await world.asked("a"))
    found = await world.ports.versions.get(done.dataset_version)
    assert found is not None
    await world.ports.versions.put(replace(found.value, report=None))
    with pytest.raises(NotFound):
        await Reports(world.ports, FakePlotter()).read(done.dataset_version, plot=False)


async def test_the_refiner_gets_every_split_that_a_step_keeps_out(world: World) -> None:
    held_out = (await world.ran(await world.asked("held out"))).dataset_version
    found = await world.ports.versions.get(held_out)
    assert found is not None
    manifest = found.value.manifest

    class Suites:
        async def splits_of(self, suite_version: str) -> tuple[tuple[str, Split], ...]:
            assert suite_version == SUITE
            return ((held_out, Split.TRAIN),)

    steps = (
        Decontamination(dataset_version=held_out),
        Decontamination(dataset_version=held_out, splits=("VALIDATION", "TEST")),
        Decontamination(evaluation_suite_version=SUITE),
    )
    assert await StepFinder(world.ports, suites=Suites()).find(replace(RECIPE, steps=steps)) == {
        0: StepFiles(held_out=(HeldOut(held_out, Split.TEST, manifest),)),
        1: StepFiles(held_out=(HeldOut(held_out, Split.VALIDATION, manifest), HeldOut(held_out, Split.TEST, manifest))),
        2: StepFiles(held_out=(HeldOut(held_out, Split.TRAIN, manifest),)),
    }
    named = replace(RECIPE, steps=steps[:1], reference=ReferenceExamples(held_out, splits=("TRAIN",)))
    wanted = {1: StepFiles(held_out=(HeldOut(held_out, Split.TRAIN, manifest),))}
    assert await StepFinder(world.ports).reference(named) == wanted
    assert await StepFinder(world.ports).find(named) == {
        0: StepFiles(held_out=(HeldOut(held_out, Split.TEST, manifest),)),
        **wanted,
    }
    assert named.evaluation_versions == (held_out, held_out)
    recipe = replace(RECIPE, name="projects/p/ingestionRecipes/s", steps=steps[:1])
    await Recipes(world.ports).put(recipe, etag="", allow_missing=True)
    wish = CreateIngestion("p", "i9", recipe.name, (await world.source("a"),), "cycle-9")
    await world.ran(await world.ingestions.create(wish))
    assert world.refiner.step_files == {0: StepFiles(held_out=(HeldOut(held_out, Split.TEST, manifest),))}


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Decontamination(evaluation_suite_version=SUITE), "EVALUATOR_NOT_CONFIGURED"),
        (TokenStatistics(model_version="projects/p/models/m/versions/1"), "REGISTRY_NOT_CONFIGURED"),
    ],
)
async def test_an_ingestion_that_needs_somebody_who_is_not_there_fails_and_says_so(
    world: World, step: RecipeStep, reason: str
) -> None:
    recipe = replace(RECIPE, name="projects/p/ingestionRecipes/s", steps=(step,))
    await Recipes(world.ports).put(recipe, etag="", allow_missing=True)
    wish = CreateIngestion("p", "i9", recipe.name, (await world.source("a"),), "cycle-9")
    done = await world.ran(await world.ingestions.create(wish))
    assert (done.state, done.error_reason) == (IngestionState.FAILED, reason)


STRANGE = "projects/q/models/m/versions/1"


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, steps=(Decontamination(evaluation_suite_version="projects/q/evaluationSuites/s/versions/1"),)),
        replace(RECIPE, steps=(TokenStatistics(model_version=STRANGE),)),
        replace(RECIPE, steps=(Balance(BalanceBy.CLUSTER, max_rows=1, clusters=BalanceClusters(STRANGE)),)),
        replace(RECIPE, report_embedding_model_version=STRANGE),
    ],
)
async def test_a1_a_recipe_cannot_name_what_is_another_project_s(world: World, recipe: IngestionRecipe) -> None:
    with pytest.raises(NotFound):
        await Recipes(world.ports).put(recipe, etag="", allow_missing=True)


@pytest.mark.parametrize(
    "step",
    [
        Decontamination(dataset_version=f"{DATASET}/versions/7"),
        Decontamination(dataset_version="projects/q/datasets/d/versions/1"),
        Decontamination(file=ArtifactRef("0" * 64, 1)),
        LanguageFilter(("xx",)),
    ],
)
async def test_recipes_with_steps_that_cannot_be_are_not_stored(world: World, step: RecipeStep) -> None:
    recipe = replace(RECIPE, name="projects/p/ingestionRecipes/s", steps=(step,))
    with pytest.raises((NotFound, InvalidInput)):
        await Recipes(world.ports).put(recipe, etag="", allow_missing=True)
    assert await world.ports.recipes.get(recipe.name) is None


@pytest.mark.parametrize(
    "reference",
    [
        ReferenceExamples(f"{DATASET}/versions/7"),
        ReferenceExamples("projects/q/datasets/d/versions/1"),
        ReferenceExamples(file=ArtifactRef("0" * 64, 1)),
        ReferenceExamples(evaluation_suite_version="projects/q/evaluationSuites/s/versions/1"),
    ],
)
async def test_recipes_with_reference_examples_that_are_not_there_are_not_stored(
    world: World, reference: ReferenceExamples
) -> None:
    recipe = replace(RECIPE, name="projects/p/ingestionRecipes/s", reference=reference)
    with pytest.raises(NotFound):
        await Recipes(world.ports).put(recipe, etag="", allow_missing=True)
    assert await world.ports.recipes.get(recipe.name) is None


async def test_what_was_made_of_a_source_that_is_erased_meanwhile_is_neither_published_nor_kept(world: World) -> None:
    work = await world.asked("a")
    source = work.sources[0].artifact

    async def erase() -> None:
        await world.files.discard("p", source)

    world.refiner.meanwhile = erase
    before = set(world.files.files)
    done = await world.ran(work)
    assert (done.state, done.error_reason) == (IngestionState.FAILED, "SOURCE_ERASED")
    assert not world.published()
    assert set(world.files.files) == before - {("p", source.sha256)}
