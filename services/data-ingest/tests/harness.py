"""Data-ingest as two replicas, and somebody who calls them."""

import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pyarrow.parquet as pq

from mainspring.common.v1 import artifact_pb2
from mainspring.data.v1 import data_service_pb2 as pb
from mainspring.data.v1 import data_service_pb2_grpc as pb_grpc
from mainspring.data.v1 import dataset_pb2, ingestion_pb2, recipe_pb2
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.status import from_rpc_error
from mainspring_testkit.plugin import Token
from mainspring_testkit.service import ServiceProcess, Surroundings

DATASET = "projects/p/datasets/d"
RECIPE = "projects/p/ingestionRecipes/r"
JSONL, CSV = ingestion_pb2.Source.FORMAT_JSONL, ingestion_pb2.Source.FORMAT_CSV
ENDED = {
    ingestion_pb2.Ingestion.STATE_SUCCEEDED,
    ingestion_pb2.Ingestion.STATE_FAILED,
    ingestion_pb2.Ingestion.STATE_CANCELLED,
}
LONG = 120_000
"""Rows that take a few seconds, so that something can happen meanwhile."""


def pairs(count: int, start: int = 0) -> bytes:
    return b"".join(b'{"mr": "q%d", "ref": "a%d"}\n' % (number, number) for number in range(start, start + count))


async def assert_accounted(call: Callable[..., Any], version: dataset_pb2.DatasetVersion) -> None:
    """Each input row of a version is kept, changed or refused, and each changed or refused one is told of."""
    report = (await call("GetDatasetReport", name=version.name)).dataset_report
    kept = sum(split.rows for split in version.splits)
    refusals = {count.reason: count.rows for count in report.refusals}
    assert refusals == {count.reason: count.rows for count in version.refusals}
    assert report.kept_unchanged_rows + report.kept_changed_rows == kept == report.after.rows
    assert report.input_rows == version.input_rows == kept + sum(refusals.values())
    for texts in (report.before, report.after):
        assert texts.rows == sum(bucket.rows for bucket in texts.answer.buckets)
        assert len(texts.distinct) == 3
        assert texts.HasField("diversity")
    refused = await listed(call, "ListRefusedRows", "refused_rows", version)
    assert all(row.detail and row.line and row.step for row in refused)
    assert Counter(row.reason for row in refused) == refusals
    changed = await listed(call, "ListChangedRows", "changed_rows", version)
    assert len({row.row_id for row in changed}) == len(changed) == report.kept_changed_rows


async def listed(call: Callable[..., Any], method: str, field: str, version: dataset_pb2.DatasetVersion) -> list[Any]:
    """All that a method lists of a version."""
    found, token = list[Any](), ""
    while True:
        page = await call(method, parent=version.name, page_size=500, page_token=token)
        found += getattr(page, field)
        token = page.next_page_token
        if not token:
            return found


class DataIngest:
    """Two replicas and somebody who calls them."""

    def __init__(
        self, surroundings: Surroundings, replicas: list[ServiceProcess], artifacts: ArtifactStore, token: Token
    ) -> None:
        self.surroundings, self.replicas, self.artifacts, self.token = surroundings, replicas, artifacts, token
        self.caller = surroundings.caller("contributor")
        self.turn = 0

    async def call(self, method: str, **fields: Any) -> Any:
        self.turn += 1
        replica = self.replicas[self.turn % len(self.replicas)]
        request = getattr(pb, f"{method}Request")(**fields)
        stub: Any = pb_grpc.DataServiceStub(replica.channel)
        return await self.caller.unary(getattr(stub, method), request, getattr(pb, f"{method}Response"))

    async def upload(
        self, data: bytes, filename: str = "x.jsonl", parent: str = "projects/p", chunk_bytes: int = 1 << 20
    ) -> artifact_pb2.Artifact:
        async def messages() -> AsyncIterator[pb.UploadArtifactRequest]:
            yield pb.UploadArtifactRequest(parent=parent, filename=filename, chunk=data[:chunk_bytes])
            for start in range(chunk_bytes, len(data), chunk_bytes):
                yield pb.UploadArtifactRequest(chunk=data[start : start + chunk_bytes])

        stub: Any = pb_grpc.DataServiceStub(self.replicas[0].channel)
        metadata = (("authorization", f"Bearer {self.token('contributor')}"),)
        try:
            answer = await stub.UploadArtifact(messages(), metadata=metadata, timeout=30)
        except grpc.RpcError as err:
            raise from_rpc_error(err) from err
        return answer.artifact

    async def put_recipe(self, **fields: Any) -> Any:
        columns = recipe_pb2.ColumnMapping(input_column="mr", target_column="ref")
        values: dict[str, Any] = {"name": RECIPE, "dataset": DATASET, "columns": columns, **fields}
        recipe = recipe_pb2.IngestionRecipe(**values)
        return await self.call("UpdateIngestionRecipe", ingestion_recipe=recipe, allow_missing=True)

    async def start(self, *files: bytes, format: Any = JSONL, **fields: Any) -> ingestion_pb2.Ingestion:  # noqa: A002
        sources = [ingestion_pb2.Source(artifact=await self.upload(data), format=format) for data in files]
        wish = {"parent": "projects/p", "ingestion_recipe": RECIPE, "sources": sources, **fields}
        return (await self.call("CreateIngestion", **wish)).ingestion

    async def watch(
        self, name: str, until: Callable[[ingestion_pb2.Ingestion], bool] = lambda _: False
    ) -> ingestion_pb2.Ingestion:
        stub: Any = pb_grpc.DataServiceStub(self.replicas[0].channel)
        request = pb.WatchIngestionRequest(name=name)
        found = ingestion_pb2.Ingestion()
        async for answer in self.caller.stream(stub.WatchIngestion, request, pb.WatchIngestionResponse, timeout_s=60):
            found = answer.ingestion
            if until(found):
                break
        return found

    async def ingest(self, *files: bytes, **options: Any) -> ingestion_pb2.Ingestion:
        return await self.watch((await self.start(*files, **options)).name)

    async def version(self, name: str) -> dataset_pb2.DatasetVersion:
        """A version; that its report accounts for every row is seen here, however it was made."""
        version = (await self.call("GetDatasetVersion", name=name)).dataset_version
        if not version.HasField("deletion"):
            await assert_accounted(self.call, version)
        return version

    async def version_names(self) -> list[str]:
        listed = await self.call("ListDatasetVersions", parent=DATASET)
        return [version.name.rsplit("/", 1)[-1] for version in listed.dataset_versions]

    async def rows(self, version: dataset_pb2.DatasetVersion) -> list[dict[str, Any]]:
        """All rows, read as a subscriber would: manifest, shards."""
        manifest = json.loads(await self.artifacts.read("p", artifact_from_proto(version.manifest)))
        rows: list[dict[str, Any]] = []
        for split, shards in manifest["splits"].items():
            for shard in shards:
                address = artifact_pb2.Artifact(sha256=shard["sha256"], size_bytes=shard["size_bytes"])
                data = await self.artifacts.read("p", artifact_from_proto(address))
                rows += [{**row, "split": split} for row in pq.read_table(io.BytesIO(data)).to_pylist()]
        return rows
