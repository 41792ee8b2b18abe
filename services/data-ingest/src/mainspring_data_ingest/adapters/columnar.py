"""Reads Parquet and Arrow files, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from mainspring_data_ingest.adapters.lines import MAX_RECORD_BYTES, TOO_LONG
from mainspring_data_ingest.domain.records import EXCERPT_BYTES, Record
from mainspring_svckit.errors import InvalidInput

MAX_GROUP_BYTES = 1 << 30
"""Largest row group or record batch, unpacked: what must be in memory at once."""
_BATCH_ROWS = 1_000


class ParquetReader:
    """A Parquet file; `line` is the number of the row, and `rows` how many there are, once the first is read."""

    kind = "Parquet"

    def __init__(self, file: BinaryIO, columns: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Takes the file, the columns that it must have, and those that it may; without any it reads all."""
        self._file, self._required, self._optional = file, columns, optional
        self.rows = 0

    def records(self) -> Iterator[Record]:
        """See `SourceReader`."""
        number = 0
        try:
            for batch in self._batches():
                for values in batch.to_pylist():
                    number += 1
                    raw = orjson.dumps(values, default=repr)
                    too_long = len(raw) > MAX_RECORD_BYTES
                    yield Record(number, raw[:EXCERPT_BYTES], {} if too_long else values, TOO_LONG if too_long else "")
        except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as err:
            where = f" after row {number}" if number else ""
            message = f"cannot be read as {self.kind}{where}; it may be damaged or cut short: upload it again"
            raise InvalidInput(message, reason="SOURCE_UNREADABLE") from err

    def _batches(self) -> Iterator[Any]:
        parquet: Any = pq.ParquetFile(self._file)
        columns = self._wanted(parquet.schema_arrow.names)
        self.rows = parquet.metadata.num_rows
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).total_byte_size
            if size > MAX_GROUP_BYTES:
                raise _too_large("row group", size)
            yield from parquet.iter_batches(
                batch_size=_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
            )

    def _wanted(self, names: Sequence[str]) -> list[str] | None:
        """The columns to read; None for all."""
        _check_columns(names, self._required, self._optional)
        return [*self._required, *(name for name in self._optional if name in names)] or None


class ArrowReader(ParquetReader):
    """An Arrow IPC file or stream; `line` is the number of the row. How many there are stands nowhere in it."""

    kind = "Arrow"

    def _batches(self) -> Iterator[Any]:
        begins = self._file.read(6)
        self._file.seek(0)
        source: Any = ipc.open_file(self._file) if begins == b"ARROW1" else ipc.open_stream(self._file)
        columns = self._wanted(source.schema.names)
        batches: Any = (
            source if begins != b"ARROW1" else (source.get_batch(n) for n in range(source.num_record_batches))
        )
        for batch in batches:
            if batch.nbytes > MAX_GROUP_BYTES:
                raise _too_large("record batch", batch.nbytes)
            wanted = batch.select(columns) if columns else batch
            yield from (wanted.slice(start, _BATCH_ROWS) for start in range(0, wanted.num_rows, _BATCH_ROWS))


def _check_columns(names: Sequence[str], columns: Sequence[str], optional: Sequence[str]) -> None:
    shown = ", ".join(repr(name[:60]) for name in names[:20])
    for column in (*columns, *optional):
        if names.count(column) > 1:
            raise InvalidInput(f"has the column {column!r} twice; rename one of them", reason="SOURCE_REPEATS_COLUMN")
        if column not in names and column in columns:
            message = f"has no column {column!r}, but {shown}; name its columns in the recipe or in the source"
            raise InvalidInput(message, reason="SOURCE_LACKS_COLUMN")


def _too_large(what: str, size: int) -> InvalidInput:
    message = f"has a {what} of {size} bytes; write it with at most {MAX_GROUP_BYTES} bytes in one and upload it again"
    return InvalidInput(message, reason="SOURCE_TOO_LARGE")
