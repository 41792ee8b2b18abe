"""What a model made is learned from, never measured on, and always marked; the service is real, the model scripted."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mainspring.data.v1 import annotation_pb2, dataset_pb2, ingestion_pb2, recipe_pb2, version_service_pb2
from mainspring.inference.v1 import answer_pb2, inference_service_pb2, inference_service_pb2_grpc
from mainspring_client.cli import annotate as cli
from mainspring_client.client import Mainspring
from mainspring_client.synthesis import MEDIA_TYPE, Method, synthesize
from mainspring_data_ingest.domain.ingestions import SYNTHETIC
from mainspring_svckit.errors import InvalidInput

from .harness import DATASET, JSONL, RECIPE, DataIngest, pairs
from .test_traces import QUEUE, TEXT, annotate

MODEL = "projects/p/models/m"
AGAIN = "projects/p/ingestionRecipes/again"
EXPORTS = version_service_pb2.ExportDatasetVersionRequest
COLUMNS = recipe_pb2.ColumnMapping(messages_column="messages", group_column="group")


class Writer(inference_service_pb2_grpc.InferenceServiceServicer):
    """Answers as a model that does what it is asked, or nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.silent = False

    async def GenerateAnswer(self, request: Any, context: Any) -> inference_service_pb2.GenerateAnswerResponse:
        prompt = request.messages[-1].content
        self.asked.append(prompt)
        text = "" if self.silent else f"in other words: {prompt.splitlines()[-1]}"
        return inference_service_pb2.GenerateAnswerResponse(answer=answer_pb2.Answer(text=text))

    def ScoreText(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def StreamAnswer(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def ListServedModels(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
async def writer() -> AsyncIterator[tuple[Writer, str]]:
    server, writer = grpc.aio.server(), Writer()
    inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(writer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield writer, f"127.0.0.1:{port}"
    await server.stop(None)


def synthetic(prompt: str, answer: str) -> bytes:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, "group": prompt}).encode() + b"\n"


def client(ingest: DataIngest, **addresses: str) -> Mainspring:
    ours = {"data-ingest": f"127.0.0.1:{ingest.replicas[0].ports['grpc']}"}
    return Mainspring.connect({**ours, **addresses}, token=ingest.token("contributor"))


async def half_synthetic(ingest: DataIngest) -> dataset_pb2.DatasetVersion:
    """A version of 60 rows that people brought, and of 60 that a model made."""
    await ingest.put_recipe()
    real = await ingest.upload(pairs(60))
    made = await ingest.upload(b"".join(synthetic(f"new {number}", "made") for number in range(60)))
    made.media_type = SYNTHETIC
    sources = [
        ingestion_pb2.Source(artifact=real, format=JSONL),
        ingestion_pb2.Source(artifact=made, format=JSONL, columns=COLUMNS),
    ]
    wish = {"parent": "projects/p", "ingestion_recipe": RECIPE, "sources": sources}
    done = await ingest.watch((await ingest.call("CreateIngestion", **wish)).ingestion.name)
    return await ingest.version(done.dataset_version)


async def another_dataset(ingest: DataIngest) -> None:
    """A recipe of messages, most of which are measured on."""
    columns = recipe_pb2.ColumnMapping(messages_column="messages")
    split = recipe_pb2.SplitShares(train_percent=20, validation_percent=40, test_percent=40)
    await ingest.put_recipe(name=AGAIN, dataset="projects/p/datasets/again", columns=columns, split=split)


async def assert_marked(ingest: DataIngest, version: dataset_pb2.DatasetVersion) -> None:
    """What a model made is marked, and learned from only; the rest is neither."""
    rows = await ingest.rows(version)
    made = [row for row in rows if row["messages"][0]["content"].startswith("new ")]
    assert (len(made), len(rows)) == (60, 120)
    assert {(row["split"], row["synthetic"]) for row in made} == {("train", True)}
    others = [row for row in rows if row not in made]
    assert {row["synthetic"] for row in others} == {None}
    assert {row["split"] for row in others} == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("form", "read_as"),
    [
        (EXPORTS.FORMAT_PARQUET, ingestion_pb2.Source.FORMAT_PARQUET),
        (EXPORTS.FORMAT_JSONL, JSONL),
    ],
)
async def test_b9_rows_that_are_taken_out_and_brought_in_again_keep_their_mark(
    ingest: DataIngest, tmp_path: Path, form: Any, read_as: Any
) -> None:
    version = await half_synthetic(ingest)
    await another_dataset(ingest)
    async with client(ingest) as mainspring:
        await mainspring.dataset_versions.export(version.name, tmp_path / "out", form)
        listed = [row async for row in mainspring.dataset_versions.rows(version.name)]
    assert {row.messages[0].content for row in listed if row.synthetic} == {f"new {n}" for n in range(60)}
    sources = [
        ingestion_pb2.Source(artifact=await ingest.upload(path.read_bytes(), path.name), format=read_as)
        for path in sorted((tmp_path / "out/data").iterdir())
    ]
    assert len(sources) == 3
    wish = {"parent": "projects/p", "ingestion_recipe": AGAIN, "sources": sources}
    done = await ingest.watch((await ingest.call("CreateIngestion", **wish)).ingestion.name)
    await assert_marked(ingest, await ingest.version(done.dataset_version))


async def test_b9_what_people_say_of_synthetic_rows_keeps_their_mark(ingest: DataIngest) -> None:
    version = await half_synthetic(ingest)
    await another_dataset(ingest)
    queue = annotation_pb2.AnnotationQueue(name=QUEUE, label_schema=TEXT)
    await annotate(ingest, "UpdateAnnotationQueue", annotation_queue=queue, allow_missing=True)
    async with client(ingest) as mainspring:
        items = await cli._rows(mainspring, "p", version.name, 1000)  # pyright: ignore[reportPrivateUsage] - `annotate add --dataset`.
        # Half of them were there without the mark, which they get; and none loses it.
        unmarked = [annotation_pb2.AnnotationItem(messages=item.messages) for item in items]
        assert await mainspring.annotation.add(QUEUE, unmarked[:60]) == (60, 0)
        assert await mainspring.annotation.add(QUEUE, items) == (60, 60)
        assert await mainspring.annotation.add(QUEUE, unmarked) == (0, 120)
        while (item := await mainspring.annotation.claim(QUEUE)) is not None:
            assert not item.synthetic, "annotators judge what it says"
            answer = annotation_pb2.Label(text=f"said of {item.messages[0].content}")
            await mainspring.annotation.submit(item.name, answer)
        published, rows = await mainspring.annotation.publish(QUEUE, AGAIN)
    assert rows == 120
    done = await ingest.watch(published.name)
    await assert_marked(ingest, await ingest.version(done.dataset_version))


async def test_b9_synthetic_rows_are_never_in_validation_or_test(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    real = await ingest.version((await ingest.ingest(pairs(200))).dataset_version)
    rows = await ingest.rows(real)
    held_out = [row["messages"][0]["content"] for row in rows if row["split"] != "train"]
    assert len(held_out) > 10
    made = b"".join(synthetic(f"new {number}", "made") for number in range(200))
    made += b"".join(synthetic(prompt, "another answer") for prompt in held_out)
    artifact = await ingest.upload(made)
    artifact.media_type = MEDIA_TYPE
    assert MEDIA_TYPE == SYNTHETIC
    sources = [
        ingestion_pb2.Source(artifact=real.sources[0], format=ingestion_pb2.Source.FORMAT_JSONL),
        ingestion_pb2.Source(artifact=artifact, format=ingestion_pb2.Source.FORMAT_JSONL, columns=COLUMNS),
    ]
    wish = {"parent": "projects/p", "ingestion_recipe": "projects/p/ingestionRecipes/r", "sources": sources}
    done = await ingest.watch((await ingest.call("CreateIngestion", **wish)).ingestion.name)
    version = await ingest.version(done.dataset_version)
    after = await ingest.rows(version)
    ours = [row for row in after if row["source_index"] == 1]
    assert {(row["split"], row["synthetic"]) for row in ours} == {("train", True)}
    assert len(ours) == 200
    # Those with the prompt of a held-out row are refused, and no real row has moved.
    listed = (await ingest.call("ListRefusedRows", parent=version.name, page_size=500)).refused_rows
    assert len(listed) == len(held_out)
    assert all("synthetic" in row.detail for row in listed)
    assert {(r["row_id"], r["split"]) for r in after if r["source_index"] == 0} == {
        (r["row_id"], r["split"]) for r in rows
    }
    assert version.sources[1].media_type == SYNTHETIC
    assert version.input_rows == sum(c.rows for c in (*version.splits, *version.refusals))


@pytest.mark.parametrize("method", list(Method))
async def test_a_model_writes_rows_that_the_recipe_filters_and_the_card_marks(
    ingest: DataIngest, writer: tuple[Writer, str], method: Method
) -> None:
    await ingest.put_recipe()
    first = await ingest.version((await ingest.ingest(pairs(40))).dataset_version)
    async with client(ingest, inference=writer[1]) as mainspring:
        work = await synthesize(mainspring, first.name, MODEL, method, 5)
        done = await ingest.watch(work.name)
        version = await ingest.version(done.dataset_version)
        card = (await mainspring.dataset_versions.card(version.name)).markdown
        # More than there are examples: each is taken several times, and what the model wrote is none.
        real, tries = next(split.rows for split in first.splits), list[int]()
        writer[0].asked.clear()
        more = real + 3
        await synthesize(mainspring, version.name, MODEL, method, more, on_progress=lambda done, _: tries.append(done))
        assert tries[-1] == more
        examples = [prompt for prompt in writer[0].asked if prompt.startswith(("Rewrite", "Here are"))]
        assert len(examples) == more
        assert not any("in other words:" in prompt for prompt in examples)
        writer[0].silent = True
        with pytest.raises(InvalidInput) as failure:
            await synthesize(mainspring, first.name, MODEL, method, 2)
    assert failure.value.reason == "NOTHING_SYNTHESIZED"
    assert "(synthetic: made by a model)" in card
    rows = [row for row in await ingest.rows(version) if row["source_index"] == 1]
    assert rows
    assert {row["split"] for row in rows} == {"train"}
    assert all(row["messages"][0]["content"].startswith("in other words") for row in rows)
    assert version.name == f"{DATASET}/versions/2"
