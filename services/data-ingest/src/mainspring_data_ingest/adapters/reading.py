"""Opens sources: which reader reads which format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

from mainspring_data_ingest.adapters.archive import ArchiveReader
from mainspring_data_ingest.adapters.columnar import ArrowReader, ParquetReader
from mainspring_data_ingest.adapters.csv_reader import CsvReader
from mainspring_data_ingest.adapters.documents.reader import FORMATS, DocumentReader, Documents
from mainspring_data_ingest.adapters.jobs import SourceFile
from mainspring_data_ingest.adapters.json_reader import JsonArrayReader
from mainspring_data_ingest.adapters.jsonl import JsonlReader
from mainspring_data_ingest.adapters.text_reader import TextReader
from mainspring_data_ingest.adapters.unpacking import as_utf8, unpacked
from mainspring_data_ingest.application.ports import SourceReader
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.records import Record

_TABLES: dict[SourceFormat, Callable[..., Any]] = {
    SourceFormat.JSONL: JsonlReader,
    SourceFormat.JSON: JsonArrayReader,
    SourceFormat.CSV: CsvReader,
    SourceFormat.TSV: partial(CsvReader, delimiter="\t"),
    SourceFormat.PARQUET: ParquetReader,
    SourceFormat.ARROW: ArrowReader,
}
_BINARY = frozenset({SourceFormat.PARQUET, SourceFormat.ARROW, SourceFormat.PDF, SourceFormat.DOCX, SourceFormat.ZIP})


def open_source(source: SourceFile, columns: ColumnMapping, stack: ExitStack) -> tuple[SourceReader, BinaryIO]:
    """The source's reader, and the file on the disk, whose position tells how far it is; closed with the stack.

    Raises:
        InvalidInput: It cannot be unpacked.
    """
    return _opened(source, columns, stack, stack.enter_context(Documents()))


def rows_of(reader: SourceReader) -> int:
    """How many records a source says that it has, once its first is read; 0 where only its end tells."""
    return reader.rows if isinstance(reader, ParquetReader) else 0


def _opened(
    source: SourceFile, columns: ColumnMapping, stack: ExitStack, documents: Documents
) -> tuple[SourceReader, BinaryIO]:
    path = unpacked(source.path)
    if source.format not in _BINARY:
        path = as_utf8(path)
    file = stack.enter_context(path.open("rb"))
    source = replace(source, path=path)
    if source.format in _TABLES:
        return _TABLES[source.format](file, columns.required, columns.optional), file
    if source.format in FORMATS:
        return DocumentReader(documents, path, source.format, source.name), file
    if source.format is SourceFormat.ZIP:
        return ArchiveReader(source, lambda member: _Member(member, columns, documents)), file
    return TextReader(file, source.name), file


@dataclass(frozen=True)
class _Member:
    """Reads a member of an archive, and closes it then."""

    source: SourceFile
    columns: ColumnMapping
    documents: Documents

    def records(self) -> Iterator[Record]:
        """See `SourceReader`."""
        with ExitStack() as stack:
            reader, _ = _opened(self.source, self.columns, stack, self.documents)
            yield from reader.records()
