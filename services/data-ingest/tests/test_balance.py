"""Balance: caps, samples, weights, and clusters by vectors."""

import hashlib
import json
from array import array
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from mainspring_data_ingest.adapters.jobs import Job, SourceFile
from mainspring_data_ingest.adapters.refiner import ChildRefiner
from mainspring_data_ingest.adapters.refining_process import refine
from mainspring_data_ingest.adapters.shard_rows import canonical
from mainspring_data_ingest.adapters.steps.balance import shared_out
from mainspring_data_ingest.adapters.vectors import embed_file, vectors_of
from mainspring_data_ingest.application import embedding
from mainspring_data_ingest.application.ports import Refined
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import Ingestion, Source, SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe, SplitShares
from mainspring_data_ingest.domain.steps import Balance, BalanceBy, BalanceClusters
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import InvalidInput, PreconditionFailed, Unavailable
from mainspring_svckit.scratch import Scratch
from mainspring_svckit.values import ArtifactRef, Progress

from .refining import PAIRS, kept, refined, refused, refused_in, refused_rows, rows_of

MODEL = "projects/p/models/m/versions/1"
CLUSTERS = BalanceClusters(MODEL, 3, 5)


def test_classes_are_capped_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = [{"mr": f"q{n}", "ref": "Yes" if n % 10 else "no"} for n in range(200)]
    made = refined(tmp_path, rows, Balance(BalanceBy.LABEL, max_ratio=2))
    assert Counter(kept(made).values()) == {"Yes": 40, "no": 20}
    assert made.report.refused == {"OVER_REPRESENTED": 140}
    (tmp_path / "again").mkdir()
    again = refined(tmp_path / "again", rows[::-1], Balance(BalanceBy.LABEL, max_ratio=2))
    assert {201 - line for line in kept(again)} == set(kept(made))
    (tmp_path / "most").mkdir()
    assert Counter(kept(refined(tmp_path / "most", rows, Balance(BalanceBy.LABEL, max_rows=7))).values()) == {
        "Yes": 7,
        "no": 7,
    }


def test_a_sample_keeps_the_parts_of_classes_and_loses_none(tmp_path: Path) -> None:
    rows = [{"mr": f"q{n}", "ref": "rare" if n == 0 else "few" if n < 40 else "many"} for n in range(200)]
    made = refined(tmp_path, rows, Balance(BalanceBy.LABEL, sample_rows=50))
    assert Counter(kept(made).values()) == {"many": 39, "few": 10, "rare": 1}
    assert made.report.refused == {"OVER_REPRESENTED": 150}
    assert {detail for _, detail in refused(made).values()} == {
        "its class (label) has more than 39 rows",
        "its class (label) has more than 10 rows",
    }
    assert kept(refined(tmp_path / "all", rows, Balance(BalanceBy.LABEL, sample_rows=500))).keys() == set(range(1, 201))


def of_sources(
    folder: Path, sources: dict[str, int], *steps: Balance, columns: ColumnMapping = PAIRS, all_train: bool = False
) -> Refined:
    """So many rows of each source; who wrote one says its column `who`."""
    folder.mkdir(exist_ok=True)
    files: list[SourceFile] = []
    for name, count in sources.items():
        path = folder / f"{name}.jsonl"
        rows = [{"mr": f"{name} {n}?", "ref": f"{name} {n % 7}", "who": "ab"[n % 5 == 0]} for n in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(SourceFile(path, name, SourceFormat.JSONL, None))
    split = SplitShares(100, 0, 0) if all_train else SplitShares()
    names = ("projects/p/ingestionRecipes/r", "projects/p/datasets/d")
    return refine(Job(IngestionRecipe(*names, columns, split=split, steps=steps), tuple(files)), folder)


def test_no_source_has_more_than_its_share_whatever_their_order(tmp_path: Path) -> None:
    sizes, step = {"few": 10, "many": 40, "some": 15}, Balance(BalanceBy.SOURCE, max_ratio=2)
    made = of_sources(tmp_path / "made", sizes, step)
    assert Counter(row["source_index"] for row in rows_of(made)) == {0: 10, 1: 20, 2: 15}
    assert {row["source_index"] for row in refused_rows(made)} == {1}
    assert set(refused(made).values()) == {("OVER_REPRESENTED", "its class (source) has more than 20 rows")}
    again = of_sources(tmp_path / "again", dict(reversed(sizes.items())), step)
    assert {row["row_id"] for row in rows_of(again)} == {row["row_id"] for row in rows_of(made)}


def test_rows_of_small_sources_are_seen_as_often_in_training_as_those_of_large_ones(tmp_path: Path) -> None:
    step = Balance(BalanceBy.SOURCE, min_weight=1)
    made = of_sources(tmp_path / "made", {"few": 10, "many": 40}, step, all_train=True)
    seen = Counter[int]()
    for row in rows_of(made):
        seen[row["source_index"]] += row["repeats"]
    assert seen == {0: 40, 1: 40}


def test_no_group_has_more_rows_than_the_recipe_wants(tmp_path: Path) -> None:
    step = Balance(BalanceBy.GROUP, max_rows=8)
    made = of_sources(tmp_path / "made", {"x": 20, "y": 10}, step, columns=replace(PAIRS, group_column="who"))
    assert Counter(row["group"] for row in rows_of(made)) == {"a": 8, "b": 6}
    assert made.report.refused == {"OVER_REPRESENTED": 16}
    assert {detail for _, detail in refused(made).values()} == {"its class (group) has more than 8 rows"}


def test_without_a_group_column_a_prompt_is_the_group(tmp_path: Path) -> None:
    rows = [{"mr": f"q{n % 3}", "ref": f"a{n}"} for n in range(15)]
    made = refined(tmp_path, rows, Balance(BalanceBy.GROUP, max_rows=2))
    assert Counter(row["messages"][0]["content"] for row in rows_of(made)) == {"q0": 2, "q1": 2, "q2": 2}


def test_b9_rows_that_two_balances_refuse_are_all_counted_each_in_its_step(tmp_path: Path) -> None:
    steps = Balance(BalanceBy.SOURCE, max_rows=12), Balance(BalanceBy.LENGTH, max_rows=15)
    made = of_sources(tmp_path / "made", {"x": 20, "y": 10}, *steps)
    assert [step.refused for step in made.report.steps] == [{"OVER_REPRESENTED": 8}, {"OVER_REPRESENTED": 7}]
    assert (made.tally.input_rows, made.report.refused) == (30, {"OVER_REPRESENTED": 15})
    assert Counter(row["step_number"] for row in refused_rows(made)) == {1: 8, 2: 7}
    assert {step for _, step, _ in refused_in(made).values()} == {"balance"}


@pytest.mark.parametrize(
    ("sizes", "total", "shares"),
    [([10, 10], 5, [3, 2]), ([1, 99], 10, [1, 9]), ([5, 3, 1], 2, [1, 1, 0]), ([1, 1, 8], 9, [1, 1, 7])],
)
def test_shares_add_up_and_none_is_more_than_there_is(sizes: list[int], total: int, shares: list[int]) -> None:
    assert shared_out(np.array(sizes), total).tolist() == shares


def test_rows_of_small_classes_are_seen_more_often_in_training_and_stand_once(tmp_path: Path) -> None:
    rows = [{"mr": f"q{n}", "ref": "rare" if n % 10 == 0 else "many"} for n in range(300)]
    made = refined(tmp_path, rows, Balance(BalanceBy.LABEL, min_weight=0.5, max_repeats=20))
    found = rows_of(made)
    assert len(found) == made.tally.input_rows == 300
    assert {row["repeats"] for row in found if row["split"] != "TRAIN"} == {1}
    seen: Counter[str] = Counter()
    learned = [row for row in found if row["split"] == "TRAIN"]
    for row in learned:
        seen[row["messages"][-1]["content"]] += row["repeats"]
    assert seen["rare"] == -(-seen["many"] // 2)
    assert len({row["repeats"] for row in learned if row["messages"][-1]["content"] == "rare"}) <= 2
    assert made.report.steps[0].found == {
        "classes": 2,
        "rows_of_largest_class": 270,
        "rows_of_smallest_class": 30,
        "rows_repeated": sum(row["repeats"] > 1 for row in found),
        "rows_seen_in_training": sum(seen.values()),
    }
    for shard in made.shards:
        lines = [
            canonical({key: value for key, value in row.items() if key != "split"}) + "\n"
            for row in found
            if row["split"] == shard.split
        ]
        assert hashlib.sha256("".join(lines).encode()).hexdigest() == shard.rows_sha256


def test_no_row_is_seen_more_often_than_the_recipe_allows(tmp_path: Path) -> None:
    rows = [{"mr": f"q{n}", "ref": "rare" if n < 20 else "many"} for n in range(400)]
    made = refined(tmp_path, rows, Balance(BalanceBy.LABEL, min_weight=1, max_repeats=3))
    assert {row["repeats"] for row in rows_of(made)} == {1, 3}


def test_versions_without_weights_are_what_they_were_before_there_were_any(tmp_path: Path) -> None:
    made = refined(tmp_path, [{"mr": f"q{n}", "ref": "a"} for n in range(30)], Balance(BalanceBy.LABEL, max_rows=20))
    assert all("repeats" not in row for row in rows_of(made))
    recipe = IngestionRecipe("r", "d", PAIRS, steps=(Balance(BalanceBy.LABEL, max_rows=20),))
    assert list(recipe.as_json()["steps"]) == [{"by": "LABEL", "kind": "balance", "max_ratio": 0.0, "max_rows": 20}]
    assert replace(recipe, steps=(Balance(BalanceBy.LABEL, min_weight=1),)).as_json()["steps"][0]["min_weight"] == 1


def themes(texts: Path, model: str) -> Path:
    """Stands for the embedder: the direction of a vector is what a text is about."""
    assert model == MODEL
    words = ("ship", "bread", "star")
    with vectors_of(texts).open("wb") as file:
        for number, line in enumerate(texts.read_text().splitlines()):
            text = json.loads(line)
            near = [1.0 if word in text else 0.01 * (number % 3) for word in words]
            file.write(array("f", near).tobytes())
    return vectors_of(texts)


def test_rows_that_are_about_the_same_are_one_class(tmp_path: Path) -> None:
    about = ["ship"] * 120 + ["bread"] * 40 + ["star"] * 10
    rows = [{"mr": f"what {n}?", "ref": f"a {word} of {n}"} for n, word in enumerate(about)]
    step = Balance(BalanceBy.CLUSTER, max_ratio=2, clusters=CLUSTERS)
    made = refined(tmp_path, rows, step, vectors=themes)
    assert Counter(text.split()[1] for text in kept(made).values()) == {"ship": 20, "bread": 20, "star": 10}
    assert made.report.steps[0].found["classes"] == 3
    again = refined(tmp_path / "again", rows[::-1], step, vectors=themes)
    assert {171 - line for line in kept(again)} == set(kept(made))


class Embedder:
    """`Embeddings` of texts up to a length."""

    def __init__(self, longest: int, failure: Exception | None = None) -> None:
        self.longest, self.failure = longest, failure

    async def embed(self, project: str, model: str, texts: list[str]) -> tuple[list[list[float]], str]:
        if self.failure is not None:
            raise self.failure
        if max(map(len, texts)) > self.longest:
            raise InvalidInput("a text is longer than the context of the model", reason=embedding.TOO_LONG)
        return [[float(len(text)), 1.0] for text in texts], model


async def test_texts_that_are_too_long_for_the_model_are_cut(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(text) + "\n" for text in ["a" * 900, "b", "", *["c"] * 100]))
    await embed_file(Embedder(300), "p", MODEL, texts)
    found = np.fromfile(vectors_of(texts), "<f4").reshape(-1, 2)
    assert found[:3].tolist() == [[225, 1], [1, 1], [1, 1]]
    assert len(found) == 103


async def test_a_model_that_is_being_loaded_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_LOOK_AGAIN_S", 0)
    texts, embedder, asked = tmp_path / "texts.jsonl", Embedder(10), 0
    texts.write_text('"a"\n')

    class Slow(Embedder):
        async def embed(self, project: str, model: str, texts: list[str]) -> tuple[list[list[float]], str]:
            nonlocal asked
            asked += 1
            if asked < 4:
                raise Unavailable("MODEL_LOADING", "it is being loaded")
            return await embedder.embed(project, model, texts)

    await embed_file(Slow(10), "p", MODEL, texts)
    assert np.fromfile(vectors_of(texts), "<f4").tolist() == [1, 1]
    monkeypatch.setattr(embedding, "LOADING_S", 0)
    asked = 0
    with pytest.raises(Unavailable) as caught:
        await embed_file(Slow(10), "p", MODEL, texts)
    assert caught.value.reason == "EMBEDDER_UNREACHABLE"


@pytest.mark.parametrize(
    ("failure", "kind", "reason"),
    [
        (Unavailable("UPSTREAM", "nobody answers"), Unavailable, "EMBEDDER_UNREACHABLE"),
        (PreconditionFailed("NO_SUCH", "no embedding model"), PreconditionFailed, "EMBEDDING_REFUSED"),
        (InvalidInput("never", reason=embedding.TOO_LONG), PreconditionFailed, "EMBEDDING_REFUSED"),
        (InvalidInput("not this model"), PreconditionFailed, "EMBEDDING_REFUSED"),
    ],
)
async def test_f15_an_embedder_that_cannot_be_asked_is_named_and_leaves_no_vectors(
    tmp_path: Path, failure: Exception, kind: type[Exception], reason: str
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps("a" * 500) + "\n")
    with pytest.raises(kind) as caught:
        await embed_file(Embedder(0, failure), "p", MODEL, texts)
    assert getattr(caught.value, "reason", "") == reason
    assert not vectors_of(texts).exists()


def clustered(tmp_path: Path, count: int = 30) -> tuple[ArtifactStore, Ingestion]:
    """A store with a source, and an ingestion of it that balances by clusters."""
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"mr": f"q{n}", "ref": "x" * (1 + n % 3 * 40)}) + "\n" for n in range(count)))
    step = Balance(BalanceBy.CLUSTER, max_rows=4, clusters=CLUSTERS)
    recipe = IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", PAIRS, steps=(step,))
    artifact = ArtifactRef(hashlib.sha256(source.read_bytes()).hexdigest(), source.stat().st_size)
    work = Ingestion("projects/p/ingestions/i", recipe, (Source(artifact, SourceFormat.JSONL),), "c", datetime.now(UTC))
    return ArtifactStore((tmp_path / "store").as_uri()), work


async def no_matter(_: Progress) -> None: ...


async def test_the_refining_process_has_the_service_ask_the_embedder(tmp_path: Path) -> None:
    store, work = clustered(tmp_path)
    await store.put_file("p", tmp_path / "rows.jsonl")
    refiner = ChildRefiner(store, Scratch("ingestion", tmp_path / "scratch"), Embedder(2_000))
    heard: list[Progress] = []

    async def told(progress: Progress) -> None:
        heard.append(progress)

    async with refiner.refine(work, {}, told) as made:
        assert len(kept(made)) == 12  # Three clusters of four.
        assert made.tally.input_rows == 30
    embedding = [progress for progress in heard if progress.phase == "embedding"]
    assert [(progress.done, progress.total, progress.remaining_s) for progress in embedding] == [(30, 30, None)]
    assert all(0 < progress.done <= progress.total == 30 for progress in heard[1:])


def test_the_report_follows_from_vectors_of_the_model_that_the_recipe_names(tmp_path: Path) -> None:
    about = ["ship"] * 12 + ["bread"] * 12
    rows = [{"mr": f"what {n}?", "ref": f"a {word} of {n}"} for n, word in enumerate(about)]
    plain = refined(tmp_path / "plain", rows)
    named = refined(tmp_path / "named", rows, vectors=themes, report_model=MODEL)
    assert [shard.rows_sha256 for shard in named.shards] == [shard.rows_sha256 for shard in plain.shards]
    for texts in (named.report.before, named.report.after):
        assert texts.diversity is not None
        assert texts.diversity.vectors == MODEL
        assert texts.diversity.vendi_score == pytest.approx(2, abs=0.01), "two themes, whatever the words"
    assert plain.report.after.diversity is not None
    assert plain.report.after.diversity.vectors == "lexical"
    assert plain.report.after.diversity.vendi_score > 3


@pytest.mark.parametrize(
    ("embedder", "reason"),
    [
        (None, "EMBEDDER_NOT_CONFIGURED"),
        (Embedder(2_000, Unavailable("UPSTREAM", "nobody answers")), "EMBEDDER_UNREACHABLE"),
    ],
)
async def test_f15_without_the_embedder_nothing_is_begun(
    tmp_path: Path, embedder: Embedder | None, reason: str
) -> None:
    store, work = clustered(tmp_path)
    with pytest.raises((PreconditionFailed, Unavailable)) as caught:
        async with ChildRefiner(store, Scratch("ingestion", tmp_path / "scratch"), embedder).refine(
            work, {}, no_matter
        ):
            pass
    assert caught.value.reason == reason
