"""Erasures beyond dataset versions: annotation queues, and files that no version is made of."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import annotation_pb2, annotation_service_pb2, annotation_service_pb2_grpc, ingestion_pb2
from mainspring_data_ingest.application.annotations import Items
from mainspring_data_ingest.application.traces import TracePorts, Traces
from mainspring_data_ingest.domain.annotation import AnnotationItem, AnnotationQueue
from mainspring_data_ingest.domain.erasures import Erasure, ForgottenFeedback, Selector
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_testkit.fakes import FakeClock, FakeLease, FakeRepository

from .harness import DATASET, JSONL, DataIngest, pairs
from .test_erasures import PERSON, about, bytes_in, erased, published
from .test_use_cases import World, world

__all__ = ["world"]  # A fixture.
QUEUE = "projects/p/annotationQueues/q"
TEXT = annotation_pb2.LabelSchema(text=annotation_pb2.LabelSchema.Text())


async def annotate(ingest: DataIngest, method: str, role: str = "contributor", **fields: Any) -> Any:
    stub: Any = annotation_service_pb2_grpc.AnnotationServiceStub(ingest.replicas[0].channel)
    request = getattr(annotation_service_pb2, f"{method}Request")(**fields)
    response = getattr(annotation_service_pb2, f"{method}Response")
    return await ingest.surroundings.caller(role).unary(getattr(stub, method), request, response)


async def ask(ingest: DataIngest, *prompts: str, origin: str = "") -> None:
    queue = annotation_pb2.AnnotationQueue(name=QUEUE, label_schema=TEXT)
    await annotate(ingest, "UpdateAnnotationQueue", annotation_queue=queue, allow_missing=True)
    role = chat_pb2.ChatMessage.ROLE_USER
    items = [
        annotation_pb2.AnnotationItem(messages=[chat_pb2.ChatMessage(role=role, content=prompt)], origin=origin)
        for prompt in prompts
    ]
    await annotate(ingest, "AddAnnotationItems", parent=QUEUE, annotation_items=items, request_id=new_id())


async def asked(ingest: DataIngest) -> list[str]:
    listed = await annotate(ingest, "ListAnnotationItems", parent=QUEUE)
    return [item.messages[0].content for item in listed.annotation_items]


async def proof_of(ingest: DataIngest, done: Any) -> dict[str, Any]:
    return json.loads(await ingest.artifacts.read("p", artifact_from_proto(done.proof)))


async def test_a_person_leaves_annotation_queues_and_uploads_that_nobody_imported(
    ingest: DataIngest, artifact_url: str
) -> None:
    await ingest.put_recipe()
    version = await published(ingest, pairs(5))
    kept = await ingest.upload(pairs(3, 90))
    brought = [
        await ingest.upload(about(PERSON)),
        await ingest.upload(gzip.compress(about(PERSON)), "packed.jsonl.gz"),
        await ingest.upload(f"Notes.\n\nMail to {PERSON.upper()} again.".encode(), "notes.md"),
        await ingest.upload(b"\x00\x01" + PERSON.encode() + b"\xff", "odd.bin"),
    ]
    unreadable = await ingest.upload(b"\x00\x01\xff\xfe nothing", "other.bin")
    failed = await ingest.start(json.dumps({"other": PERSON}).encode() + b"\n")
    assert (await ingest.watch(failed.name)).state == ingestion_pb2.Ingestion.STATE_FAILED
    await ask(ingest, f"who is {PERSON}?", "how are you?", "what is it?")
    for _ in range(2):
        item = (await annotate(ingest, "ClaimAnnotationItem", "annotator", parent=QUEUE)).annotation_item
        label = annotation_pb2.Label(text=f"ask {PERSON}" if "how" in item.messages[0].content else "nothing")
        await annotate(ingest, "SubmitAnnotation", "annotator", name=item.name, label=label)
    done = await erased(ingest, text=PERSON)
    assert [(queue.annotation_queue, queue.erased_items) for queue in done.queues] == [(QUEUE, 2)]
    assert await asked(ingest) == ["what is it?"]
    assert (done.erased_uploads, done.unreadable_uploads, done.feedback_known) == (5, 1, False)
    assert not done.versions
    assert not any(PERSON.encode().lower() in data.lower() for data in bytes_in(artifact_url))
    proof = await proof_of(ingest, done)
    assert proof["annotation_queues"] == [{"items": 2, "queue": QUEUE}]
    gone = {artifact.sha256 for artifact in brought}
    assert gone < set(proof["uploads_sha256"]) <= set(proof["gone_sha256"])
    assert proof["unreadable_uploads_sha256"] == [unreadable.sha256]
    for artifact in (kept, unreadable, version.sources[0]):
        assert await ingest.artifacts.exists("p", artifact_from_proto(artifact))
    again = await erased(ingest, text=PERSON)
    assert (again.erased_uploads, len(again.queues)) == (0, 0)


async def test_items_that_were_made_of_erased_rows_go_with_them(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    version = await published(ingest, pairs(4), pairs(2, 50))
    rows = await ingest.rows(version)
    doomed = next(row for row in rows if row["source_index"] == 0)
    await ask(ingest, "of the row", origin=f"{version.name}#{doomed['row_id']}")
    await ask(ingest, "of the source", origin=f"{version.name}#{next(r for r in rows if r['source_index'])['row_id']}")
    await ask(ingest, "of nothing")
    done = await erased(ingest, rows={"row_ids": [doomed["row_id"]]})
    assert [queue.erased_items for queue in done.queues] == [1]
    assert await asked(ingest) == ["of the source", "of nothing"]
    done = await erased(ingest, source_sha256=version.sources[1].sha256)
    assert [queue.erased_items for queue in done.queues] == [1]
    assert await asked(ingest) == ["of nothing"]


async def test_a_document_that_was_never_imported_is_erased_by_its_digest(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    brought = await ingest.upload(pairs(3))
    done = await erased(ingest, source_sha256=brought.sha256)
    assert (done.erased_uploads, len(done.versions)) == (1, 0)
    assert not await ingest.artifacts.exists("p", artifact_from_proto(brought))
    assert DATASET not in str(await proof_of(ingest, done))
    source = ingestion_pb2.Source(artifact=brought, format=JSONL)
    wish = {"parent": "projects/p", "ingestion_recipe": "projects/p/ingestionRecipes/r", "sources": [source]}
    again = await ingest.upload(pairs(3))  # Whoever has it may bring it again.
    assert again.sha256 == brought.sha256
    made = await ingest.watch((await ingest.call("CreateIngestion", **wish)).ingestion.name)
    assert made.state == ingestion_pb2.Ingestion.STATE_SUCCEEDED


async def test_f1_a_file_whose_upload_was_killed_when_its_bytes_were_there_is_erased(
    ingest: DataIngest, artifact_url: str
) -> None:
    doomed, other = ingest.replicas
    await doomed.stop()
    await doomed.start(MAINSPRING_CRASH_AT="artifacts:after-put")
    with pytest.raises(Unavailable):
        await ingest.upload(about(PERSON))
    assert await doomed.wait() == 137
    assert any(PERSON.encode() in data for data in bytes_in(artifact_url))
    ingest.replicas = [other]
    done = await erased(ingest, text=PERSON)
    assert (done.erased_uploads, done.unreadable_uploads) == (1, 0)
    assert not any(PERSON.encode().lower() in data.lower() for data in bytes_in(artifact_url))


async def test_f1_what_an_ingestion_had_stored_before_it_was_killed_and_cancelled_is_erased(
    ingest: DataIngest, artifact_url: str
) -> None:
    doomed, other = ingest.replicas
    await ingest.put_recipe()
    source = ingestion_pb2.Source(artifact=await ingest.upload(about(PERSON)), format=JSONL)
    wish = {"parent": "projects/p", "ingestion_recipe": "projects/p/ingestionRecipes/r", "sources": [source]}
    await other.stop()
    await doomed.stop()
    await doomed.start(MAINSPRING_CRASH_AT="artifacts:after-put")
    started = (await ingest.call("CreateIngestion", **wish)).ingestion
    assert await doomed.wait() == 137
    assert len(bytes_in(artifact_url)) == 2  # The source, and a shard that is nobody's.
    await other.start()
    ingest.replicas = [other]
    cancelled = (await ingest.call("CancelIngestion", name=started.name)).ingestion
    assert cancelled.state == ingestion_pb2.Ingestion.STATE_CANCELLED
    done = await erased(ingest, text=PERSON)
    assert (done.erased_uploads, done.unreadable_uploads, len(done.versions)) == (2, 0, 0)
    assert len(await proof_of(ingest, done)) > 0
    assert len(bytes_in(artifact_url)) == 1  # The proof.


class Forgetful:
    """Feedback that forgets."""

    async def erase(self, project: str, text: str) -> tuple[int, int]:
        assert (project, text) == ("p", "Ada")
        return 2, 1


async def test_feedback_forgets_too_and_the_proof_says_how_much(world: World, tmp_path: Path) -> None:
    queues = FakeRepository[AnnotationQueue](parent=lambda q: "projects/p", sort_key=lambda q: q.name)
    items: Items = FakeRepository[AnnotationItem](parent=lambda i: i.queue, sort_key=lambda i: i.name)  # pyright: ignore[reportAssignmentType] - nobody claims any.
    tools: Any = None  # There is no file to read.
    traces = Traces(world.ports, TracePorts(queues, items), tools, Forgetful())
    name = "projects/p/erasures/e"
    await world.ports.erasures.put(Erasure(name, Selector("Ada"), "salt", FakeClock().now()))
    await traces.erase(name, "p", Selector("Ada"), FakeLease())
    found = await world.ports.erasures.get(name)
    assert found is not None
    assert found.value.feedback == ForgottenFeedback(2, 1)
