"""What a model made is learned from, never measured on, and always marked; the service is real, the model scripted."""

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from mainspring.data.v1 import ingestion_pb2, recipe_pb2
from mainspring.inference.v1 import answer_pb2, inference_service_pb2, inference_service_pb2_grpc
from mainspring_client.client import Mainspring
from mainspring_client.synthesis import MEDIA_TYPE, Method, synthesize
from mainspring_data_ingest.domain.ingestions import SYNTHETIC
from mainspring_svckit.errors import InvalidInput

from .harness import DATASET, DataIngest, pairs

MODEL = "projects/p/models/m"
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
    assert {row["split"] for row in ours} == {"train"}
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
    addresses = {"data-ingest": f"127.0.0.1:{ingest.replicas[0].ports['grpc']}", "inference": writer[1]}
    async with Mainspring.connect(addresses, token=ingest.token("contributor")) as mainspring:
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
