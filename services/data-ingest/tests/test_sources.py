"""Sources are looked into before they are imported, over gRPC."""

import gzip
import json
from typing import Any

import pytest

from mainspring.common.v1 import artifact_pb2
from mainspring.data.v1 import ingestion_pb2, recipe_pb2, source_pb2
from mainspring.data.v1 import source_service_pb2 as pb
from mainspring.data.v1 import source_service_pb2_grpc as pb_grpc
from mainspring_svckit.errors import InvalidInput, NotFound, PermissionDenied

from .harness import DataIngest

PAIRS = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(50)]
BAD_LINES = (
    b'mr,ref\n"name[X]","fine row"\n"name[Y]","unterminated\nname[Z],too,many,columns\n'
    b'\xff\x80broken,bytes\n"name[W]","fine row two"\n'
)


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


async def preview(
    ingest: DataIngest, artifact: artifact_pb2.Artifact, *, role: str = "contributor", **fields: Any
) -> source_pb2.SourcePreview:
    stub: Any = pb_grpc.SourceServiceStub(ingest.replicas[0].channel)
    request = pb.PreviewSourceRequest(parent="projects/p", artifact=artifact, **fields)
    caller = ingest.surroundings.caller(role)
    return (await caller.unary(stub.PreviewSource, request, pb.PreviewSourceResponse, timeout_s=60)).preview


async def test_a_preview_proposes_columns_with_which_the_source_is_imported(ingest: DataIngest) -> None:
    data = gzip.compress(jsonl(PAIRS))
    artifact = await ingest.upload(data, "pairs.jsonl.gz")
    found = await preview(ingest, artifact, record_count=2)
    assert found.format == ingestion_pb2.Source.FORMAT_JSONL
    assert found.shape == source_pb2.RECORD_SHAPE_CHOSEN_REJECTED
    assert (found.read_records, found.whole, list(found.refusals)) == (50, True, [])
    assert list(found.column_names) == ["prompt", "chosen", "rejected"]
    assert [m.content for m in found.records[1].messages] == ["q1", "good 1"]
    assert (found.records[1].rejected, found.records[1].HasField("desirable")) == ("bad 1", False)
    await ingest.put_recipe(columns=found.columns)
    source = ingestion_pb2.Source(artifact=artifact, format=found.format, origin="a test")
    started = await ingest.call("CreateIngestion", **{**WISH, "sources": [source]})
    made = await ingest.watch(started.ingestion.name)
    assert made.sources[0].origin == "a test"
    rows = await ingest.rows(await ingest.version(made.dataset_version))
    assert {row["rejected"] for row in rows} == {row["rejected"] for row in PAIRS}


WISH = {"parent": "projects/p", "ingestion_recipe": "projects/p/ingestionRecipes/r"}


async def test_b9_a_preview_says_which_rows_would_be_refused_and_why(ingest: DataIngest) -> None:
    columns = recipe_pb2.ColumnMapping(input_column="mr", target_column="ref")
    artifact = await ingest.upload(BAD_LINES, "bad-lines.csv")
    found = await preview(ingest, artifact, columns=columns)
    assert [(row.line, row.detail.split(":")[0]) for row in found.refused] == [
        (3, "is not CSV"),
        (4, "has 4 fields; the header has 2"),
        (5, "is not UTF-8 text"),
    ]
    assert [record.messages[1].content for record in found.records if record.messages] == ["fine row", "fine row two"]
    plain = await preview(ingest, artifact)
    assert not plain.HasField("columns")
    assert list(plain.column_names) == ["mr", "ref"]


async def test_b1_sources_that_cannot_be_looked_into_have_a_reason(ingest: DataIngest) -> None:
    for data, name, reason in [
        (b"\x00\x01", "what", "SOURCE_FORMAT_UNKNOWN"),
        (gzip.compress(b"{}")[:-5], "x.jsonl.gz", "SOURCE_UNREADABLE"),
        (b"", "x.csv", "SOURCE_EMPTY"),
        (b"a,b\n1,2\n", "x.csv", "SOURCE_LACKS_COLUMN"),
    ]:
        columns = recipe_pb2.ColumnMapping(input_column="mr", target_column="ref") if "LACKS" in reason else None
        with pytest.raises(InvalidInput) as caught:
            await preview(ingest, await ingest.upload(data, name), columns=columns)
        assert caught.value.reason == reason
    with pytest.raises(NotFound):
        await preview(ingest, artifact_pb2.Artifact(sha256="0" * 64, size_bytes=1))
    with pytest.raises(PermissionDenied):
        await preview(ingest, await ingest.upload(b"{}", "x.jsonl"), role="viewer")
