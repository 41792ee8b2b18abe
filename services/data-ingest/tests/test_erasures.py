"""Erasures as their users meet them: a person leaves every version, bytes are gone, a kill costs nothing."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mainspring.data.v1 import (
    data_service_pb2,
    data_service_pb2_grpc,
    dataset_pb2,
    erasure_pb2,
    ingestion_pb2,
    recipe_pb2,
    version_service_pb2,
    version_service_pb2_grpc,
)
from mainspring.data.v1 import erasure_service_pb2 as pb
from mainspring.data.v1 import erasure_service_pb2_grpc as pb_grpc
from mainspring.registry.v1 import lineage_pb2, registry_service_pb2
from mainspring_data_ingest.domain.erasures import Selector
from mainspring_svckit.errors import InvalidInput, NotFound, PermissionDenied, PreconditionFailed
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.status import error_info
from mainspring_testkit.neighbours import ServeNeighbours
from mainspring_testkit.waiting import eventually

from .harness import DATASET, DataIngest, pairs

PERSON = "Ada.Lovelace@example.org"
Request = erasure_pb2.ErasureSelector


async def call(ingest: DataIngest, method: str, role: str = "admin", replica: int = 0, **fields: Any) -> Any:
    stub: Any = pb_grpc.ErasureServiceStub(ingest.replicas[replica].channel)
    request = getattr(pb, f"{method}Request")(**fields)
    response = getattr(pb, f"{method}Response")
    return await ingest.surroundings.caller(role).unary(getattr(stub, method), request, response, timeout_s=30)


async def erased(ingest: DataIngest, *, search_only: bool = False, **selector: Any) -> erasure_pb2.Erasure:
    wish = Request(**selector)
    made = await call(ingest, "CreateErasure", parent="projects/p", selector=wish, search_only=search_only)
    return await ended(ingest, made.erasure.name)


async def ended(ingest: DataIngest, name: str, replica: int = 0) -> erasure_pb2.Erasure:
    async def look() -> erasure_pb2.Erasure | None:
        found = (await call(ingest, "GetErasure", "viewer", replica, name=name)).erasure
        over = found.state in {erasure_pb2.Erasure.STATE_SUCCEEDED, erasure_pb2.Erasure.STATE_FAILED}
        return found if over else None

    found = await eventually(look, within_s=60, what="the erasure to end")
    assert found is not None
    assert found.state == erasure_pb2.Erasure.STATE_SUCCEEDED, error_info(found.error)
    return found


async def published(ingest: DataIngest, *files: bytes, **options: Any) -> dataset_pb2.DatasetVersion:
    return await ingest.version((await ingest.ingest(*files, **options)).dataset_version)


def about(person: str) -> bytes:
    # Once in a row, once with other case and spacing, once in a record that is refused.
    rows = [
        {"mr": "who wrote?", "ref": f"ask {person}"},
        {"mr": f"mail to {person.upper()}", "ref": "sent"},
        {"mr": "", "ref": person},
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def bytes_in(artifact_url: str) -> list[bytes]:
    return [path.read_bytes() for path in Path(artifact_url.removeprefix("file://")).rglob("*") if path.is_file()]


async def test_a_person_leaves_every_version_and_the_bytes_are_gone(ingest: DataIngest, artifact_url: str) -> None:
    await ingest.put_recipe()
    clean = await published(ingest, pairs(20))
    first = await published(ingest, pairs(20) + about(PERSON))
    second = await published(ingest, pairs(20) + about(PERSON), pairs(10, 100))
    done = await erased(ingest, text="  ada.LOVELACE@example.org ")

    assert [(v.dataset_version, v.erased_rows, v.erased_refused_rows) for v in done.versions] == [
        (first.name, 2, 1),
        (second.name, 2, 1),
    ]
    assert done.searched_versions >= 3
    assert not any(PERSON.encode().lower() in data.lower() for data in bytes_in(artifact_url))
    for old, erased_version, rows in ((first, done.versions[0], 20), (second, done.versions[1], 30)):
        gone = await ingest.version(old.name)
        assert gone.deletion.cause == dataset_pb2.DatasetVersionDeletion.CAUSE_ERASURE
        assert (gone.deletion.successor, gone.deletion.erasure) == (erased_version.successor, done.name)
        assert not await ingest.artifacts.exists("p", artifact_from_proto(old.manifest))
        successor = await ingest.version(erased_version.successor)
        assert successor.supersedes == old.name
        assert successor.root_sha256 == erased_version.successor_root_sha256
        kept = await ingest.rows(successor)
        assert len(kept) == rows
        assert successor.input_rows == old.input_rows
        refusals = {count.reason: count.rows for count in successor.refusals}
        assert refusals[dataset_pb2.REFUSAL_REASON_ERASED] == 3
    # The other rows are the same, in the same splits; the version that held nothing is untouched.
    left = {
        (row["row_id"], row["split"]) for row in await ingest.rows(await ingest.version(done.versions[0].successor))
    }
    assert left == {(row["row_id"], row["split"]) for row in await ingest.rows(clean)}
    with pytest.raises(PreconditionFailed, match="holds what is left"):
        await ingest.call("ListRefusedRows", parent=first.name)


async def test_a_person_in_a_column_that_no_row_took_leaves_the_source(ingest: DataIngest, artifact_url: str) -> None:
    await ingest.put_recipe()
    row = {"mr": "who wrote?", "ref": "somebody", "note": PERSON}
    version = await published(ingest, pairs(5) + json.dumps(row).encode() + b"\n")
    done = await erased(ingest, text=PERSON)
    assert [(v.dataset_version, v.erased_rows, v.erased_refused_rows) for v in done.versions] == [(version.name, 0, 0)]
    assert not any(PERSON.encode() in data for data in bytes_in(artifact_url))
    successor = await ingest.version(done.versions[0].successor)
    assert (successor.root_sha256, list(successor.refusals)) == (version.root_sha256, [])
    report = (await ingest.call("GetDatasetReport", name=successor.name)).dataset_report
    assert (report.input_rows, [list(step.refusals) for step in report.steps]) == (6, [[]])


async def test_the_proof_names_what_is_gone_but_not_whom(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    version = await published(ingest, pairs(5) + about(PERSON))
    done = await erased(ingest, text=PERSON)
    data = await ingest.artifacts.read("p", artifact_from_proto(done.proof))
    proof = json.loads(data)
    assert b"lovelace" not in data.lower()
    assert proof["selector_sha256"] == Selector(text=PERSON).digest(proof["selector_salt"])
    assert version.manifest.sha256 in proof["gone_sha256"]
    assert {version.sources[0].sha256} <= set(proof["gone_sha256"])
    assert (proof["lineage_known"], proof["model_versions"]) == (False, [])
    successor = await ingest.version(done.versions[0].successor)
    manifest = json.loads(await ingest.artifacts.read("p", artifact_from_proto(successor.manifest)))
    assert (manifest["erasure"], manifest["supersedes"]) == (done.name, version.name)
    assert manifest["report"]["sha256"] == successor.report.sha256
    answer = await ingest.call("GetDatasetReport", name=successor.name, plot=True)
    assert answer.plot_png.startswith(b"\x89PNG")
    assert [step.step for step in answer.dataset_report.steps] == ["erasure"]
    assert (answer.dataset_report.before.rows, answer.dataset_report.after.rows) == (7, 5)
    told = await ingest.call("ListRefusedRows", parent=successor.name)
    assert [(row.line, row.excerpt) for row in told.refused_rows] == [(6, ""), (7, ""), (8, "")]
    assert all(done.name in row.detail for row in told.refused_rows)
    assert "lovelace" not in str((told, answer.dataset_report)).lower()


async def test_a_successor_can_be_added_to_since_its_sources_can_be_read_again(ingest: DataIngest) -> None:
    await ingest.put_recipe(system_prompt="Be brief.")
    await published(ingest, pairs(20) + about(PERSON))
    done = await erased(ingest, text=PERSON)
    successor = await ingest.version(done.versions[0].successor)
    before = await ingest.rows(successor)
    sources = [
        ingestion_pb2.Source(
            artifact=successor.sources[0],
            format=ingestion_pb2.Source.FORMAT_JSONL,
            columns=recipe_pb2.ColumnMapping(messages_column="messages", group_column="group"),
        )
    ]
    wish = {"parent": "projects/p", "ingestion_recipe": "projects/p/ingestionRecipes/r", "sources": sources}
    again = await ingest.watch((await ingest.call("CreateIngestion", **wish)).ingestion.name)
    assert sorted(before, key=str) == sorted(await ingest.rows(await ingest.version(again.dataset_version)), key=str)


async def test_rows_and_documents_are_erased_by_their_digests(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    version = await published(ingest, pairs(6), pairs(4, 50))
    doomed = (await ingest.rows(version))[0]["row_id"]
    done = await erased(ingest, rows={"row_ids": [doomed]})
    (one,) = done.versions
    assert (one.erased_rows, one.erased_sources) == (1, 1)
    left = await ingest.version(one.successor)
    assert doomed not in {row["row_id"] for row in await ingest.rows(left)}
    done = await erased(ingest, source_sha256=left.sources[1].sha256)
    (one,) = done.versions
    rows = await ingest.rows(await ingest.version(one.successor))
    assert {row["source_index"] for row in rows} == {0}
    done = await erased(ingest, source_sha256=(await ingest.version(one.successor)).sources[0].sha256)
    assert done.versions[0].successor == ""
    assert not (await erased(ingest, text="nobody of that name")).versions


async def test_a_search_says_where_somebody_is_and_removes_nothing(ingest: DataIngest, artifact_url: str) -> None:
    await ingest.put_recipe()
    await published(ingest, pairs(20))
    versions = [await published(ingest, pairs(20) + about(PERSON), pairs(n, 100)) for n in (10, 11)]
    before = sorted(bytes_in(artifact_url))
    (row,) = [row["row_id"] for row in await ingest.rows(versions[1]) if "ask" in row["messages"][-1]["content"]]
    for selector, rows, refused in (({"text": PERSON}, 2, 1), ({"rows": {"row_ids": [row]}}, 1, 0)):
        found = await erased(ingest, search_only=True, **selector)
        assert [(v.dataset_version, v.erased_rows, v.erased_refused_rows, v.successor) for v in found.versions] == [
            (version.name, rows, refused, "") for version in versions
        ]
        assert found.search_only
        assert not found.HasField("proof")
    assert sorted(bytes_in(artifact_url)) == before
    assert not any(version.HasField("deletion") for version in [await ingest.version(v.name) for v in versions])


async def test_a_search_names_versions_that_held_it_and_that_nobody_can_look_into_any_more(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    old, new = [await published(ingest, pairs(20) + about(PERSON), pairs(n, 100)) for n in (10, 11)]
    (row,) = [row["row_id"] for row in await ingest.rows(old) if row["messages"][-1]["content"] == "sent"]
    kept = (await ingest.rows(new))[0]["row_id"]
    versions: Any = version_service_pb2_grpc.DatasetVersionServiceStub(ingest.replicas[0].channel)
    keep_one = version_service_pb2.SetDatasetRetentionRequest(dataset=DATASET, keep_newest=1)
    response = version_service_pb2.SetDatasetRetentionResponse
    await ingest.surroundings.caller("admin").unary(versions.SetDatasetRetention, keep_one, response)
    found = await erased(ingest, search_only=True, rows={"row_ids": [row]})
    assert [version.dataset_version for version in found.versions] == [new.name]
    assert list(found.presumed_versions) == [old.name]
    # What an erasure left has other sources, and was in the version that it left.
    done = await erased(ingest, text=PERSON)
    found = await erased(ingest, search_only=True, rows={"row_ids": [kept]})
    assert [version.dataset_version for version in found.versions] == [done.versions[0].successor]
    assert new.name in found.presumed_versions


async def test_an_erasure_and_a_search_name_the_models_that_learned_from_what_they_found(
    ingest: DataIngest, neighbours: ServeNeighbours
) -> None:
    model, release = "projects/p/models/m/versions/2", "projects/p/models/m/releases/1"
    learned: dict[str, list[str]] = {}

    async def lineage(request: Any, context: Any) -> Any:
        if request.name not in learned:
            raise NotFound("DatasetVersion", request.name)
        nodes = [lineage_pb2.LineageNode(name=name) for name in (request.name, *learned[request.name])]
        return registry_service_pb2.GetLineageResponse(nodes=nodes)

    registry = await neighbours(SimpleNamespace(GetLineage=lineage), "registry.v1.RegistryService")
    for replica in ingest.replicas:
        await replica.stop()
    ingest.replicas = ingest.replicas[:1]
    await ingest.replicas[0].start(MAINSPRING_REGISTRY_ADDRESS=registry.address)
    await ingest.put_recipe()
    clean = await published(ingest, pairs(20))
    version = await published(ingest, pairs(20) + about(PERSON))
    learned[clean.name] = ["projects/p/models/m/versions/1"]
    learned[version.name] = ["projects/p/trainingRuns/r", model, release]
    found = await erased(ingest, search_only=True, text=PERSON)
    done = await erased(ingest, text=PERSON)
    for told in (found, done):
        assert told.lineage_known
        assert (list(told.model_versions), list(told.releases)) == ([model], [release])
    proof = json.loads(await ingest.artifacts.read("p", artifact_from_proto(done.proof)))
    assert (proof["lineage_known"], proof["model_versions"]) == (True, [model])


async def test_a_tag_moves_to_the_successor_and_only_admins_erase(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    version = await published(ingest, pairs(5) + about(PERSON))
    with pytest.raises(PermissionDenied):
        await call(ingest, "CreateErasure", "contributor", parent="projects/p", selector=Request(text=PERSON))
    for text in ("ab", "   "):
        with pytest.raises(InvalidInput):
            await call(ingest, "CreateErasure", parent="projects/p", selector=Request(text=text))
    done = await erased(ingest, text=PERSON)
    dataset = (await ingest.call("GetDataset", name=DATASET)).dataset
    assert dataset.latest_version == done.versions[0].successor != version.name


@pytest.mark.parametrize(
    "point",
    [
        "erasure:after-search",
        "erasure:before-commit",
        "erasure:after-commit",
        "removal:after-file",
        "erasure:after-removal",
    ],
)
async def test_f1_an_erasure_that_is_killed_at_any_point_is_finished_by_another_replica(
    ingest: DataIngest, artifact_url: str, point: str
) -> None:
    await ingest.put_recipe()
    await published(ingest, pairs(8) + about(PERSON))
    doomed, other = ingest.replicas
    await other.stop()
    await doomed.stop()
    await doomed.start(MAINSPRING_CRASH_AT=point)
    made = await call(ingest, "CreateErasure", parent="projects/p", selector=Request(text=PERSON))
    assert await doomed.wait() == 137
    await other.start()
    done = await ended(ingest, made.erasure.name, replica=1)
    assert [version.erased_rows for version in done.versions] == [2]
    assert not any(PERSON.encode().lower() in data.lower() for data in bytes_in(artifact_url))
    stub: Any = data_service_pb2_grpc.DataServiceStub(other.channel)
    request = data_service_pb2.ListDatasetVersionsRequest(parent=DATASET)
    response = data_service_pb2.ListDatasetVersionsResponse
    listed = await ingest.caller.unary(stub.ListDatasetVersions, request, response)
    assert [version.HasField("deletion") for version in listed.dataset_versions] == [False, True]
