"""A version as a folder of files: their names, and Croissant metadata that describes them.

Croissant: a metadata format for machine-learning datasets, MLCommons 2024, version 1.0.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mainspring_data_ingest.domain.datasets import DatasetVersion, Shard
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.names import DatasetVersionName

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_COLUMNS = (
    ("row_id", "sc:Text", "SHA-256 of the row's canonical messages."),
    ("messages", "sc:Text", "The conversation, a list of {role, content}; the last message is the answer to learn."),
    ("group", "sc:Text", "What keeps rows in one split."),
    ("source_index", "sc:Integer", "Position of the row's source in the manifest, from 0."),
    ("line", "sc:Integer", "Line of the source on which the record begins, from 1."),
    ("rejected", "sc:Text", "A worse answer to the same prompt; nothing where there is none."),
    ("desirable", "sc:Boolean", "The thumb on the answer; nothing where there is none."),
    ("synthetic", "sc:Boolean", "True where a model made the row; nothing elsewhere."),
    ("repeats", "sc:Integer", "How often one pass of training sees the row."),
)
"""All columns that versions have; which of the last four a version has follows from its rows."""


class ExportFormat(StrEnum):
    """How rows are written."""

    PARQUET = "PARQUET"
    JSONL = "JSONL"

    @property
    def media_type(self) -> str:
        """Its media type as Croissant names it."""
        return "application/x-parquet" if self is ExportFormat.PARQUET else "application/jsonlines"


@dataclass(frozen=True)
class ExportedFile:
    """One file of rows in the folder; of JSON lines, `columns` are those in which some row has a value."""

    path: str
    split: Split
    rows: int
    size_bytes: int
    sha256: str
    columns: tuple[str, ...]


def paths_of(shards: Sequence[Shard], form: ExportFormat) -> list[str]:
    """Where shards go in the folder: named so that readers know the splits."""
    totals, numbers = Counter(shard.split for shard in shards), Counter[Split]()
    paths: list[str] = []
    for shard in shards:
        place = f"{numbers[shard.split]:05}-of-{totals[shard.split]:05}"
        paths.append(f"data/{shard.split.value.lower()}-{place}.{form.value.lower()}")
        numbers[shard.split] += 1
    return paths


def parquet_files(shards: Sequence[Shard], columns: tuple[str, ...]) -> list[ExportedFile]:
    """Shards as files of the folder."""
    return [
        ExportedFile(path, shard.split, shard.rows, shard.artifact.size_bytes, shard.artifact.sha256, columns)
        for path, shard in zip(paths_of(shards, ExportFormat.PARQUET), shards, strict=True)
    ]


def croissant(version: DatasetVersion, files: Sequence[ExportedFile], form: ExportFormat) -> bytes:
    """Croissant metadata of the folder, as JSON-LD; every file with its digest, every split with its columns."""
    name = DatasetVersionName.parse(version.name)
    body: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"{name.dataset}-{name.version}",
        "description": f"Version {name.version} of the dataset {name.dataset}; root digest {version.root_sha256}.",
        "version": f"{name.version}.0.0",
        "datePublished": version.create_time.isoformat(timespec="seconds"),
        "identifier": version.name,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file.path,
                "name": file.path,
                "contentUrl": file.path,
                "contentSize": f"{file.size_bytes} B",
                "encodingFormat": form.media_type,
                "sha256": file.sha256,
            }
            for file in files
        ],
        "recordSet": [_record_set(file) for file in files],
    }
    return json.dumps(body, indent=2, ensure_ascii=False).encode()


def _record_set(file: ExportedFile) -> dict[str, Any]:
    """The rows of one file; a set of files cannot be described without an archive that holds them. Readers take the
    keys of JSON lines for columns, too.
    """
    name = file.path.removeprefix("data/").rpartition(".")[0]

    def source(column: str, **transform: Any) -> dict[str, Any]:
        return {"fileObject": {"@id": file.path}, "extract": {"column": column}, **transform}

    fields: list[dict[str, Any]] = []
    for column, data_type, description in _COLUMNS:
        if column not in file.columns:
            continue
        field: dict[str, Any] = {"@type": "cr:Field", "@id": f"{name}/{column}", "name": column}
        field["description"] = description
        if column == "messages":
            field["repeated"] = True
            field["subField"] = [
                {
                    "@type": "cr:Field",
                    "@id": f"{name}/messages/{part}",
                    "name": part,
                    "dataType": data_type,
                    "source": source(column, transform={"jsonPath": part}),
                }
                for part in ("role", "content")
            ]
        else:
            field |= {"dataType": data_type, "source": source(column)}
        fields.append(field)
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"{file.rows} rows of the split {file.split.value.lower()}.",
        "key": {"@id": f"{name}/row_id"},
        "field": fields,
    }
