"""Opens sources: which reader reads which format."""

from __future__ import annotations

from contextlib import ExitStack
from typing import BinaryIO

from mainspring_data_ingest.adapters.columnar import ArrowReader, ParquetReader
from mainspring_data_ingest.adapters.csv_reader import CsvReader
from mainspring_data_ingest.adapters.jobs import SourceFile
from mainspring_data_ingest.adapters.jsonl import JsonlReader
from mainspring_data_ingest.application.ports import SourceReader
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat

_READERS = {
    SourceFormat.JSONL: JsonlReader,
    SourceFormat.CSV: CsvReader,
    SourceFormat.PARQUET: ParquetReader,
    SourceFormat.ARROW: ArrowReader,
}


def open_source(source: SourceFile, columns: ColumnMapping, stack: ExitStack) -> tuple[SourceReader, BinaryIO]:
    """The source's reader, and the file on the disk, whose position tells how far it is; closed with the stack."""
    file = stack.enter_context(source.path.open("rb"))
    return _READERS[source.format](file, columns.required, columns.optional), file
