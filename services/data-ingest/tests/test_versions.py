"""Published versions as their users meet them: rows, comparisons, exports, tags, retention; the service is real."""

import asyncio
import json
from pathlib import Path
from typing import Any

import mlcroissant
import pandas as pd
import pytest

from mainspring.data.v1 import comparison_pb2, dataset_pb2, recipe_pb2
from mainspring.data.v1 import version_service_pb2 as pb
from mainspring.data.v1 import version_service_pb2_grpc as pb_grpc
from mainspring_client.client import Mainspring
from mainspring_svckit.errors import InvalidInput, NotFound, PreconditionFailed
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.waiting import eventually

from .harness import DATASET, DataIngest, pairs

# Of what mlcroissant calls.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TRAINING_PYTHON = Path(__file__).resolve().parents[3] / ".venv-train" / "bin" / "python"
Change = comparison_pb2.RowChange
FORMATS = pb.ExportDatasetVersionRequest


async def call(ingest: DataIngest, method: str, role: str = "contributor", **fields: Any) -> Any:
    stub: Any = pb_grpc.DatasetVersionServiceStub(ingest.replicas[0].channel)
    caller = ingest.surroundings.caller(role)
    request = getattr(pb, f"{method}Request")(**fields)
    return await caller.unary(getattr(stub, method), request, getattr(pb, f"{method}Response"), timeout_s=60)


async def published(ingest: DataIngest, *files: bytes) -> dataset_pb2.DatasetVersion:
    return await ingest.version((await ingest.ingest(*files)).dataset_version)


def client(ingest: DataIngest) -> Mainspring:
    address = f"127.0.0.1:{ingest.replicas[0].ports['grpc']}"
    return Mainspring.connect({"data-ingest": address}, token=ingest.token("contributor"))


async def files_of(ingest: DataIngest, version: dataset_pb2.DatasetVersion) -> list[ArtifactRef]:
    manifest = json.loads(await ingest.artifacts.read("p", artifact_from_proto(version.manifest)))
    found = [shard for shards in manifest["splits"].values() for shard in shards]
    found += [file for file in (manifest["refused"], manifest["report"]) if file is not None]
    return [ArtifactRef(file["sha256"], file["size_bytes"]) for file in found]


async def test_rows_are_listed_page_by_page_in_the_order_of_the_shards(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    version = await published(ingest, pairs(120))
    listed: list[comparison_pb2.DatasetRow] = []
    token = ""
    while True:
        page = await call(ingest, "ListDatasetRows", parent=version.name, page_size=50, page_token=token)
        listed += page.rows
        if not (token := page.next_page_token):
            break
    expected = sorted(await ingest.rows(version), key=lambda row: ["train", "validation", "test"].index(row["split"]))
    assert [row.row_id for row in listed] == [row["row_id"] for row in expected]
    assert len(listed) == 120
    test = await call(ingest, "ListDatasetRows", parent=version.name, split=dataset_pb2.SPLIT_TEST, page_size=500)
    assert [row.row_id for row in test.rows] == [r.row_id for r in listed if r.split == dataset_pb2.SPLIT_TEST]
    with pytest.raises(InvalidInput, match="page_token"):
        await call(ingest, "ListDatasetRows", parent=version.name, page_token="bm9uZQ==")
    with pytest.raises(NotFound):
        await call(ingest, "ListDatasetRows", parent=f"{DATASET}/versions/9")


async def test_versions_are_compared_row_by_row_and_page_by_page(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    first = await published(ingest, pairs(100))
    changed = pairs(100).replace(b'"a7"', b'"seven"').replace(b'{"mr": "q8", "ref": "a8"}\n', b"") + pairs(30, 200)
    second = await published(ingest, changed)
    page = await call(ingest, "CompareDatasetVersions", base=first.name, target=second.name, page_size=20)
    found = page.comparison
    assert (found.same_rows, found.changed_rows, found.added_rows, found.removed_rows) == (98, 1, 30, 1)
    assert (found.base_rows, found.target_rows, found.moved_rows) == (100, 129, 0)
    assert (found.base_texts.rows, found.target_texts.rows) == (100, 129)
    change = page.changes[0]
    assert (change.kind, change.base.messages[-1].content) == (Change.KIND_CHANGED, "a7")
    assert change.target.messages[-1].content == "seven"
    rest = await call(
        ingest,
        "CompareDatasetVersions",
        base=first.name,
        target=second.name,
        page_size=500,
        page_token=page.next_page_token,
    )
    kinds = [change.kind for change in (*page.changes, *rest.changes)]
    assert kinds == [Change.KIND_CHANGED, *[Change.KIND_ADDED] * 30, Change.KIND_REMOVED]
    assert not rest.next_page_token
    same = await call(ingest, "CompareDatasetVersions", base=first.name, target=first.name)
    assert (same.comparison.same_rows, list(same.changes)) == (100, [])


async def test_an_export_opens_unchanged_in_pandas_and_in_croissant_readers(ingest: DataIngest, tmp_path: Path) -> None:
    await ingest.put_recipe(system_prompt="Be brief.")
    version = await published(ingest, pairs(60) + b"not json\n")
    folder = tmp_path / "out"
    async with client(ingest) as mainspring:
        files = await mainspring.dataset_versions.export(version.name, folder)
        card = await mainspring.dataset_versions.card(version.name)
        with pytest.raises(InvalidInput, match="not an empty folder"):
            await mainspring.dataset_versions.export(version.name, folder)
    assert {file.relative_to(folder).parts[0] for file in files} == {
        "data",
        "README.md",
        "croissant.json",
        "manifest.json",
        "report.json",
    }
    frame = pd.read_parquet(folder / "data")
    assert len(frame) == 60
    assert set(frame.columns) == {"row_id", "messages", "group", "source_index", "line"}
    assert next(iter(frame.messages.iloc[0])) == {"role": "system", "content": "Be brief."}
    text = (folder / "README.md").read_text()
    assert text == card.markdown
    assert "path: data/train-*.parquet" in text
    assert "| refused, unreadable | 1 |" in text
    assert not any(f"`{column}`" in text for column in ("rejected", "desirable", "synthetic", "repeats"))
    assert (folder / "croissant.json").read_text() == card.croissant_json
    described = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    assert not described.metadata.issues.errors
    rows = [row for part in described.metadata.record_sets for row in described.records(part.uuid)]
    assert len(rows) == 60
    assert {column.rpartition("/")[2] for row in rows for column in row} == set(frame.columns)
    conversations = [value for row in rows for column, value in row.items() if column.endswith("/messages")]
    assert all(b"Be brief." in conversation[0].values() for conversation in conversations)


async def test_an_export_as_json_lines_holds_the_canonical_rows(ingest: DataIngest, tmp_path: Path) -> None:
    await ingest.put_recipe()
    version = await published(ingest, pairs(60))
    async with client(ingest) as mainspring:
        await mainspring.dataset_versions.export(version.name, tmp_path / "out", FORMATS.FORMAT_JSONL)
    files = sorted((tmp_path / "out/data").glob("*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    assert {line["row_id"]: line["messages"] for line in lines} == {
        row["row_id"]: row["messages"] for row in await ingest.rows(version)
    }
    described = mlcroissant.Dataset(jsonld=tmp_path / "out/croissant.json")
    assert not described.metadata.issues.errors


@pytest.mark.parametrize("form", [FORMATS.FORMAT_PARQUET, FORMATS.FORMAT_JSONL])
async def test_an_export_describes_the_columns_that_only_some_versions_have(
    ingest: DataIngest, tmp_path: Path, form: Any
) -> None:
    balance = recipe_pb2.Balance(by=recipe_pb2.BALANCE_BY_LABEL, min_weight=0.5)
    columns = recipe_pb2.ColumnMapping(
        messages_column="messages", rejected_column="rejected", desirable_column="desirable"
    )
    await ingest.put_recipe(columns=columns, steps=[recipe_pb2.RecipeStep(balance=balance)])
    records = [
        {
            "messages": [
                {"role": "user", "content": f"question {n}"},
                {"role": "assistant", "content": "often" if n % 10 else "seldom"},
            ],
            "rejected": f"worse {n}" if n % 2 else None,
            "desirable": n % 3 == 0 if n % 4 else None,
            "synthetic": n % 5 == 0,
        }
        for n in range(80)
    ]
    version = await published(ingest, b"".join(json.dumps(record).encode() + b"\n" for record in records))
    folder = tmp_path / "out"
    async with client(ingest) as mainspring:
        await mainspring.dataset_versions.export(version.name, folder, form)
    described = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    assert not described.metadata.issues.errors
    found = [
        {column.rpartition("/")[2]: value for column, value in row.items()}
        for part in described.metadata.record_sets
        for row in described.records(part.uuid)
    ]
    extras = ("rejected", "desirable", "synthetic", "repeats")
    expected = {row["row_id"].encode(): [row[column] for column in extras] for row in await ingest.rows(version)}
    assert len(expected) == 80
    assert any(repeats > 1 for *_, repeats in expected.values())
    assert {
        row["row_id"]: [row["rejected"] and row["rejected"].decode(), *(row.get(column) for column in extras[1:])]
        for row in found
    } == expected
    text = (folder / "README.md").read_text()
    assert all(f"`{column}` " in text.partition("## Columns")[2] for column in extras)
    assert "`synthetic` tells which they are" in text


async def test_an_export_opens_unchanged_in_hugging_faces_datasets(ingest: DataIngest, tmp_path: Path) -> None:
    if not TRAINING_PYTHON.exists():
        pytest.skip("no training environment; 'make setup' makes it, and datasets is in it")
    await ingest.put_recipe()
    version = await published(ingest, pairs(60))
    folder = tmp_path / "out"
    async with client(ingest) as mainspring:
        await mainspring.dataset_versions.export(version.name, folder)
    program = (
        "import datasets, json, sys\n"
        "whole = datasets.load_dataset(sys.argv[1])\n"
        "shards = datasets.load_dataset('parquet', data_files=sys.argv[1] + '/data/train-*.parquet')\n"
        "sizes = {split: len(rows) for split, rows in whole.items()}\n"
        "print(json.dumps([sizes, len(shards['train']), whole['train'][0]['messages']]))"
    )
    child = await asyncio.create_subprocess_exec(
        TRAINING_PYTHON,
        "-c",
        program,
        str(folder),
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()[-2000:]
    counts, train, messages = json.loads(out)
    assert counts == {
        dataset_pb2.Split.Name(c.split).removeprefix("SPLIT_").lower(): c.rows for c in version.splits if c.rows
    }
    assert train == counts["train"]
    assert [message["role"] for message in messages] == ["user", "assistant"]


async def test_f10_an_export_of_a_damaged_shard_ends_with_an_error_and_leaves_no_such_file(
    ingest: DataIngest, tmp_path: Path, artifact_url: str
) -> None:
    await ingest.put_recipe()
    version = await published(ingest, pairs(60))
    shard = (await files_of(ingest, version))[0]
    path = Path(artifact_url.removeprefix("file://")) / "projects/p/sha256" / shard.sha256[:2] / shard.sha256
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    async with client(ingest) as mainspring:
        with pytest.raises(PreconditionFailed) as failure:
            await mainspring.dataset_versions.export(version.name, tmp_path / "out")
    assert failure.value.reason == "ARTIFACT_CORRUPT"
    assert [file.name for file in tmp_path.glob("out/data/*")] == ["train-00000-of-00001.parquet"]


async def test_a_tag_names_one_version_at_a_time(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    first, second = [(await published(ingest, pairs(count))).name for count in (20, 30)]
    await call(ingest, "SetDatasetTag", dataset=DATASET, tag="reviewed", dataset_version=first)
    changed = await call(ingest, "SetDatasetTag", dataset=DATASET, tag="reviewed", dataset_version=second)
    assert [(tag.tag, tag.dataset_version) for tag in changed.dataset.tags] == [("reviewed", second)]
    for tag in ("latest", "12", "Reviewed", "a/b"):
        with pytest.raises(InvalidInput):
            await call(ingest, "SetDatasetTag", dataset=DATASET, tag=tag, dataset_version=second)
    removed = await call(ingest, "SetDatasetTag", dataset=DATASET, tag="reviewed")
    assert not removed.dataset.tags


async def test_retention_removes_the_bytes_of_old_versions_but_not_those_that_others_share(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    versions = [await published(ingest, pairs(count)) for count in (20, 30, 40)]
    doomed, kept = await files_of(ingest, versions[1]), await files_of(ingest, versions[2])
    await call(ingest, "SetDatasetTag", dataset=DATASET, tag="reviewed", dataset_version=versions[0].name)
    await call(ingest, "CompareDatasetVersions", base=versions[0].name, target=versions[1].name)
    changed = await call(ingest, "SetDatasetRetention", role="admin", dataset=DATASET, keep_newest=1)
    assert changed.dataset.keep_newest == 1

    async def gone() -> bool:
        shared = {file.sha256 for file in (*kept, *await files_of(ingest, versions[0]))}
        there = [await ingest.artifacts.exists("p", file) for file in doomed if file.sha256 not in shared]
        return not any(there) and not await ingest.artifacts.exists("p", artifact_from_proto(versions[1].manifest))

    await eventually(gone, within_s=30, what="the bytes to be removed")
    assert all([await ingest.artifacts.exists("p", file) for file in kept])
    deleted = await ingest.version(versions[1].name)
    assert deleted.deletion.cause == dataset_pb2.DatasetVersionDeletion.CAUSE_RETENTION
    assert deleted.root_sha256 == versions[1].root_sha256
    for method, fields in (
        ("ListDatasetRows", {"parent": deleted.name}),
        ("CompareDatasetVersions", {"base": versions[0].name, "target": deleted.name}),
        ("GetDatasetCard", {"name": deleted.name}),
    ):
        with pytest.raises(PreconditionFailed) as failure:
            await call(ingest, method, **fields)
        assert failure.value.reason == "DATASET_VERSION_DELETED"
    assert len(await ingest.rows(await ingest.version(versions[0].name))) == 20
    # The next version pushes the one before out.
    newest = await published(ingest, pairs(50))
    assert (await ingest.version(versions[2].name)).HasField("deletion")
    assert not newest.HasField("deletion")


async def test_a_version_is_measured_against_the_use_case(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    version = await published(ingest, pairs(60))
    found = (await call(ingest, "MeasureDatasetVersion", name=version.name, reference=version.name)).measurement
    assert found.vectors == "lexical"
    assert found.sample_rows == sum(c.rows for c in version.splits if c.split == dataset_pb2.SPLIT_TRAIN)
    assert 1 < found.vendi_score <= found.sample_rows
    assert 0 < found.alignment.row_to_nearest <= found.alignment.reference_to_nearest <= 1
    again = (await call(ingest, "MeasureDatasetVersion", name=version.name, reference=version.name)).measurement
    assert again == found
    alone = (await call(ingest, "MeasureDatasetVersion", name=version.name)).measurement
    assert not alone.HasField("alignment")
    with pytest.raises(PreconditionFailed) as failure:
        model = "projects/p/models/minilm"
        await call(ingest, "MeasureDatasetVersion", name=version.name, embedding_model_version=model)
    assert failure.value.reason == "EMBEDDER_NOT_CONFIGURED"
