"""The evaluator's own ports, each by one suite over the fake and over the real thing. Where the real thing is another
service, `plane.Plane` stands for that service behind real gRPC.
"""

import asyncio
import contextvars
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from mainspring.registry.v1 import model_pb2
from mainspring_evaluator.adapters.catalogue import RegistryCatalogue
from mainspring_evaluator.adapters.datasets import StoredDatasets
from mainspring_evaluator.adapters.inference import PlaneInference
from mainspring_evaluator.adapters.postgres import PostgresAnswers, PostgresItems, PostgresObservations
from mainspring_evaluator.application.ports import (
    AnswerCache,
    Datasets,
    Inference,
    ItemStore,
    ModelCatalogue,
    Observations,
    Units,
)
from mainspring_evaluator.domain.items import Answer, EvaluationItem, ItemFilter, Outcome
from mainspring_evaluator.domain.suites import Retrieval, Sampling, Split
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.database import Database
from mainspring_svckit.errors import NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_svckit.pagination import Page
from mainspring_svckit.values import Message, ServedUnit
from mainspring_testkit.fakes import FakeTransactions
from mainspring_testkit.neighbours import Neighbours, ServeNeighbours
from mainspring_testkit.plugin import DatabaseFor
from mainspring_testkit.waiting import eventually

from .fakes import (
    BASE,
    DATA,
    FIRST,
    MODEL,
    ROWS,
    FakeAnswers,
    FakeCatalogue,
    FakeDatasets,
    FakeInference,
    FakeItems,
    FakeObservations,
)
from .plane import SERVICES, Plane

RUN, OTHER_RUN = "projects/p/evaluationRuns/a", "projects/p/evaluationRuns/b"
DISTRIBUTION = {5: math.log(0.8), 6: math.log(0.1)}


class OnFakes:
    @pytest.fixture
    def transaction(self) -> Any:
        return FakeTransactions().transaction


class OnPostgres:
    @pytest.fixture
    async def database(self, database_for: DatabaseFor) -> Database:
        return await database_for("mainspring_evaluator")

    @pytest.fixture
    def transaction(self, database: Database) -> Any:
        return database.transaction


class OnPlane:
    @pytest.fixture
    def plane(self) -> Plane:
        made = Plane()
        for name, base in ((BASE, ""), (FIRST, BASE)):
            made.versions[name] = model_pb2.ModelVersion(name=name, base_model_version=base, cycle="cycle")
            made.versions[name].manifest.sha256 = ("cd" if base else "ab") * 32
            made.versions[name].lineage.dataset_version = DATA if base else ""
        return made

    @pytest.fixture
    async def around(self, plane: Plane, neighbours: ServeNeighbours) -> Neighbours:
        return await neighbours(plane, *SERVICES)


class AnswerCacheContract:
    """What every cache of answers does. Subclasses give `cache` and `transaction`."""

    async def test_what_was_kept_is_known_in_its_project_only(self, cache: AnswerCache, transaction: Any) -> None:
        odd = Answer('"\\\x00\U0001f600 é\n', 0.25)
        full = Answer("", 1.5, 0.25, 10, 20, ("one", "\x00two"))
        async with transaction():
            await cache.put("p", {"b": full, "a": odd})
            await cache.put("p", {})
        async with transaction():
            assert await cache.known("p", ["a", "b", "c"]) == {
                "a": odd,
                "b": full,
            }
            assert await cache.known("q", ["a"]) == {}
            assert await cache.known("p", []) == {}

    async def test_the_first_answer_stays(self, cache: AnswerCache, transaction: Any) -> None:
        async with transaction():
            await cache.put("p", {"a": Answer("first", 1)})
            await cache.put("p", {"b": Answer("third", 3), "a": Answer("second", 2)})
            assert await cache.known("p", ["a", "b"]) == {"a": Answer("first", 1), "b": Answer("third", 3)}


class TestFakeAnswers(OnFakes, AnswerCacheContract):
    @pytest.fixture
    def cache(self) -> AnswerCache:
        return FakeAnswers()


class TestPostgresAnswers(OnPostgres, AnswerCacheContract):
    @pytest.fixture
    def cache(self, database: Database) -> AnswerCache:
        return PostgresAnswers(database)

    async def test_two_who_keep_the_same_answers_do_not_wait_for_each_other(
        self, cache: AnswerCache, database: Database
    ) -> None:
        async def keep_both() -> None:
            async with database.transaction():
                await cache.put("p", {"b": Answer("theirs", 1), "a": Answer("theirs", 1)})

        async def somebody_waits() -> bool:
            for_us = "NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
            return bool(await connection.scalar(text(f"SELECT count(*) FROM pg_locks WHERE {for_us}")))

        async with database.transaction() as connection:
            await cache.put("p", {"a": Answer("ours", 1)})
            # In a context of its own, lest it joins this transaction.
            other = asyncio.create_task(keep_both(), context=contextvars.Context())
            await eventually(somebody_waits)
            await cache.put("p", {"b": Answer("ours", 1)})
        await other
        async with database.transaction():
            assert {answer.text for answer in (await cache.known("p", ["a", "b"])).values()} == {"ours"}


class ItemStoreContract:
    """What every store of items does. Subclasses give `items` and `transaction`."""

    async def test_a_runs_items_are_listed_by_index_and_no_others(self, items: ItemStore, transaction: Any) -> None:
        def item(run: str, index: int) -> EvaluationItem:
            name = f"{run}/items/{index}"
            question = (Message("user", f'"{index}" é\n'),)
            return EvaluationItem(name, run, index, question, ("r",), "one", "other\ufffd", {"bleu": 0.5}, {})

        async with transaction():
            await items.add_all([])
            await items.add_all([item(RUN, index) for index in (2, 10, 0, 1)])
            await items.add_all([item(OTHER_RUN, 0)])
        async with transaction():
            first = await items.list(RUN, Page(3, None))
            second = await items.list(RUN, Page(3, first.next_key))
        assert [row.value for row in [*first.items, *second.items]] == [item(RUN, n) for n in (0, 1, 2, 10)]
        assert second.next_key is None

    async def test_items_are_filtered_and_pages_are_of_what_is_left(self, items: ItemStore, transaction: Any) -> None:
        def item(index: int, own: float, other: float, parts: tuple[str, ...], said: str) -> EvaluationItem:
            return EvaluationItem(
                f"{RUN}/items/{index}", RUN, index, (Message("user", f"q{index}"),), ("Wanted",), said, "base",
                {"bleu": own}, {"bleu": other}, task="t" if index else "", slices=parts, prompt_sha256=f"{index}",
            )  # fmt: skip

        made = [
            item(0, 0.5, 0.2, ("long",), "100% sure"),
            item(1, 0.2, 0.2, (), "No"),
            item(2, 0.1, 0.9, ("long",), "n_o"),
        ]
        async with transaction():
            await items.add_all(made)

        async def found(wanted: ItemFilter) -> list[int]:
            async with transaction():
                return [row.value.index for row in (await items.list(RUN, Page(10, None), wanted)).items]

        assert await found(ItemFilter(slice="long")) == [0, 2]
        assert await found(ItemFilter(slice="task:t")) == [1, 2]
        assert await found(ItemFilter(contains="NO")) == [1], "an underscore is no wildcard"
        assert await found(ItemFilter(contains="0%")) == [0]
        assert await found(ItemFilter(contains="wanted")) == [0, 1, 2]
        for outcome, expected in ((Outcome.HIGHER, [0]), (Outcome.EQUAL, [1]), (Outcome.LOWER, [2])):
            assert await found(ItemFilter(scorer="bleu", outcome=outcome)) == expected
            assert await found(ItemFilter(scorer="chrf", outcome=outcome)) == []
        async with transaction():
            first = await items.list(RUN, Page(1, None), ItemFilter(slice="long"))
            rest = await items.list(RUN, Page(1, first.next_key), ItemFilter(slice="long"))
        assert [row.value.index for row in (*first.items, *rest.items)] == [0, 2]
        assert rest.next_key is None

    async def test_two_runs_are_paired_by_what_was_asked(self, items: ItemStore, transaction: Any) -> None:
        def item(run: str, index: int, asked: str) -> EvaluationItem:
            prompt = (Message("user", asked),)
            name = f"{run}/items/{index}"
            return EvaluationItem(name, run, index, prompt, (), f"{run} {asked}", "", {"x": index}, prompt_sha256=asked)

        async with transaction():
            await items.add_all([item(RUN, index, asked) for index, asked in enumerate("abcd")])
            await items.add_all([item(OTHER_RUN, index, asked) for index, asked in enumerate("dxba")])
        async with transaction():
            scores = await items.scores(OTHER_RUN)
            first = await items.pairs(RUN, OTHER_RUN, Page(2, None))
            rest = await items.pairs(RUN, OTHER_RUN, Page(2, first.next_key))
        assert scores == {"d": {"x": 0}, "x": {"x": 1}, "b": {"x": 2}, "a": {"x": 3}}
        pairs = [(one.candidate_text, other.candidate_text) for one, other in (*first.pairs, *rest.pairs)]
        assert pairs == [(f"{RUN} {asked}", f"{OTHER_RUN} {asked}") for asked in "abd"]
        assert rest.next_key is None


class TestFakeItems(OnFakes, ItemStoreContract):
    @pytest.fixture
    def items(self) -> ItemStore:
        return FakeItems()


class TestPostgresItems(OnPostgres, ItemStoreContract):
    @pytest.fixture
    def items(self, database: Database) -> ItemStore:
        return PostgresItems(database)


class ObservationsContract:
    """What every store of observations does. Subclasses give `observations` and `transaction`."""

    async def test_what_was_observed_is_known_in_its_project_and_the_first_stays(
        self, observations: Observations, transaction: Any
    ) -> None:
        async with transaction():
            await observations.put("p", {"a": 0.25, "b": -1.0})
            await observations.put("p", {"a": 0.5})
            assert await observations.known("p", ["a", "b", "c"]) == {"a": 0.25, "b": -1.0}
            assert await observations.known("q", ["a"]) == {}


class TestFakeObservations(OnFakes, ObservationsContract):
    @pytest.fixture
    def observations(self) -> Observations:
        return FakeObservations()


class TestPostgresObservations(OnPostgres, ObservationsContract):
    @pytest.fixture
    def observations(self, database: Database) -> Observations:
        return PostgresObservations(database)


class CatalogueContract:
    """What every catalogue does; fixtures `catalogue`, which knows `BASE` and `FIRST`, and `release`."""

    async def test_a_version_comes_with_what_it_was_made_of(self, catalogue: ModelCatalogue) -> None:
        base, tuned = await catalogue.version(BASE), await catalogue.version(FIRST)
        assert (tuned.name, tuned.model, tuned.base, tuned.dataset_version) == (FIRST, MODEL, BASE, DATA)
        assert (base.base, base.dataset_version, base.probe) == ("", "", None)
        assert base.manifest_sha256 != tuned.manifest_sha256
        with pytest.raises(NotFound):
            await catalogue.version(f"{MODEL}/versions/9")

    async def test_what_is_released_is_the_active_releases_version(
        self, catalogue: ModelCatalogue, release: Callable[[str], None]
    ) -> None:
        assert await catalogue.released_version(MODEL) == ""
        release(FIRST)
        assert await catalogue.released_version(MODEL) == FIRST
        assert await catalogue.units(MODEL) == Units(active_version=FIRST)
        for ask in (catalogue.released_version, catalogue.units):
            with pytest.raises(NotFound):
                await ask("projects/p/models/none")


class TestFakeCatalogue(CatalogueContract):
    @pytest.fixture
    def catalogue(self) -> FakeCatalogue:
        return FakeCatalogue()

    @pytest.fixture
    def release(self, catalogue: FakeCatalogue) -> Callable[[str], None]:
        return lambda version: setattr(catalogue, "released", version)


class TestRegistryCatalogue(OnPlane, CatalogueContract):
    @pytest.fixture
    def catalogue(self, around: Neighbours) -> ModelCatalogue:
        return RegistryCatalogue(around.channel, around.caller)

    @pytest.fixture
    def release(self, plane: Plane) -> Callable[[str], None]:
        return lambda version: setattr(plane, "released", version)


class DatasetsContract:
    """What every reader of datasets does; a fixture `datasets` with `ROWS` as the test split of `DATA`."""

    async def test_a_test_split_has_all_its_rows_in_order(self, datasets: Datasets) -> None:
        split = await datasets.read(DATA, Split.TEST)
        rows = [tuple(row.messages) async for batch in split.rows for row in batch]
        assert rows == [(Message("user", asked), Message("assistant", answer)) for asked, answer in ROWS]
        assert split.root_sha256
        other = await datasets.read(DATA, Split.TRAIN)
        assert [batch async for batch in other.rows if batch] == []

    async def test_b9_what_is_not_there_is_unreadable(self, datasets: Datasets) -> None:
        with pytest.raises(PreconditionFailed) as caught:
            await datasets.read("projects/p/datasets/d/versions/9", Split.TEST)
        assert caught.value.reason == "DATASET_UNREADABLE"


class TestFakeDatasets(DatasetsContract):
    @pytest.fixture
    def datasets(self) -> Datasets:
        return FakeDatasets()


class TestStoredDatasets(OnPlane, DatasetsContract):
    @pytest.fixture
    async def datasets(self, around: Neighbours, plane: Plane, artifact_url: str, tmp_path: Path) -> Datasets:
        store = ArtifactStore(artifact_url)
        shards: list[dict[str, Any]] = []
        for rows in (ROWS[:3], ROWS[3:]):
            turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in rows]
            file = io.BytesIO()
            pq.write_table(pa.table({"messages": turns}), file)
            shard = await store.put_bytes("p", file.getvalue())
            shards.append({"sha256": shard.sha256, "size_bytes": shard.size_bytes, "rows": len(rows)})
        manifest = {"schema": "mainspring.dataset.v1", "root_sha256": "ab" * 32, "splits": {"test": shards}}
        stored = await store.put_bytes("p", json.dumps(manifest).encode())
        plane.dataset.manifest.CopyFrom(artifact_to_proto(stored))
        return StoredDatasets(around.channel, around.caller, store, tmp_path)


class InferenceContract:
    """What every plane does; fixtures `inference`, `refuse` (a version cannot be loaded) and `held`: who holds what."""

    async def test_what_is_held_stays_until_its_holder_lets_go(
        self, inference: Inference, held: Callable[[], set[tuple[str, str]]]
    ) -> None:
        for version, holder in ((FIRST, RUN), (FIRST, RUN), (BASE, RUN), (FIRST, OTHER_RUN)):
            await inference.hold(version, holder)
        assert held() == {(FIRST, RUN), (BASE, RUN), (FIRST, OTHER_RUN)}
        for _ in range(2):
            await inference.let_go(RUN)
            assert held() == {(FIRST, OTHER_RUN)}

    async def test_exactly_the_version_that_is_asked_answers(self, inference: Inference) -> None:
        for version in (BASE, FIRST):
            await inference.hold(version, RUN)
        question = (Message("user", "red"),)
        base, tuned = [await inference.answer(version, question, Sampling()) for version in (BASE, FIRST)]
        assert base.text != tuned.text
        assert min(base.latency_s, tuned.latency_s) > 0
        assert await inference.next_tokens(FIRST, "a", 200) == pytest.approx(DISTRIBUTION)
        assert min((await inference.first_tokens(FIRST, question, 1)).values()) < 0
        assert await inference.score(FIRST, question, "two words") == pytest.approx([math.log(0.5)] * 2)

    async def test_a_timed_answer_knows_its_first_token_and_one_with_context_its_passages(
        self, inference: Inference
    ) -> None:
        await inference.hold(FIRST, RUN)
        question, context = (Message("user", "red"),), Retrieval("projects/p/collections/c", 2)
        plain = await inference.answer(FIRST, question, Sampling())
        timed = await inference.answer(FIRST, question, Sampling(), context=context, timed=True)
        assert (plain.first_token_s, plain.passages) == (0, ())
        assert 0 < timed.first_token_s < timed.latency_s
        assert timed.passages == ("a passage",)
        assert timed.output_tokens > 0

    async def test_f16_what_is_not_in_memory_may_be_asked_again_later(self, inference: Inference) -> None:
        with pytest.raises(Unavailable) as caught:
            await inference.answer(FIRST, (Message("user", "red"),), Sampling())
        assert caught.value.reason == "MODEL_NOT_SERVED"

    async def test_a_version_that_cannot_be_loaded_is_told(
        self, inference: Inference, refuse: Callable[[str], None]
    ) -> None:
        refuse(FIRST)
        with pytest.raises(PreconditionFailed) as caught:
            await inference.hold(FIRST, RUN)
        assert caught.value.reason == "DEPLOYMENT_FAILED"


class TestFakeInference(InferenceContract):
    @pytest.fixture
    def inference(self) -> FakeInference:
        made = FakeInference()
        made.tokens, made.passages = {"a": DISTRIBUTION}, ("a passage",)
        return made

    @pytest.fixture
    def held(self, inference: FakeInference) -> Callable[[], set[tuple[str, str]]]:
        return lambda: inference.held

    @pytest.fixture
    def refuse(self, inference: FakeInference) -> Callable[[str], None]:
        return inference.refused.add


class TestPlaneInference(OnPlane, InferenceContract):
    @pytest.fixture
    def inference(self, around: Neighbours) -> Inference:
        return PlaneInference(around.channel, around.caller, load_timeout_s=10, answer_timeout_s=10)

    @pytest.fixture
    def held(self, plane: Plane) -> Callable[[], set[tuple[str, str]]]:
        return lambda: {(d.model_version, holder) for d in plane.deployments.values() for holder in d.holders}

    @pytest.fixture
    def refuse(self, plane: Plane) -> Callable[[str], None]:
        return plane.refused.add

    async def test_first_tokens_and_texts_come_after_the_passages_that_answers_come_after(
        self, inference: Inference, plane: Plane
    ) -> None:
        await inference.hold(FIRST, RUN)
        question, context = (Message("user", "red"),), Retrieval("projects/p/collections/c", 7)
        unit = ServedUnit("projects/p/prompts/q/versions/1", collection="projects/p/collections/of-the-unit")
        await inference.first_tokens(FIRST, question, 1, context=context, unit=unit)
        await inference.score(FIRST, question, "words", context=context, unit=unit)
        await inference.score(FIRST, question, "words", unit=unit)
        tokens, text, alone = plane.requests
        for asked in (tokens, text):
            assert (asked.context.collection, asked.context.top_k) == (context.collection, 7)
            assert (asked.unit.prompt_version, asked.unit.collection) == (unit.prompt_version, unit.collection)
        assert not alone.HasField("context")
