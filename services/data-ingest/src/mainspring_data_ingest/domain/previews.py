"""What a source would give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import Record, RefusalReason, RefusedRow, RowRefused, excerpt
from mainspring_data_ingest.domain.rows import Draft, ExampleMaker
from mainspring_data_ingest.domain.shapes import Shape, recognise

LOOKED_AT = 1_000
"""Records that a preview reads."""
_REFUSED_SHOWN = 20


@dataclass(frozen=True)
class PreviewedRecord:
    """A record, and what it says; None when there are no columns to read it by, or when it is refused."""

    line: int
    excerpt: str
    draft: Draft | None


@dataclass(frozen=True)
class Preview:
    """The beginning of a source; the attributes are those of the contract."""

    format: SourceFormat
    shape: Shape | None
    columns: ColumnMapping | None
    column_names: tuple[str, ...]
    records: tuple[PreviewedRecord, ...]
    read_records: int
    refusals: Mapping[RefusalReason, int]
    refused: tuple[RefusedRow, ...]
    whole: bool


def preview(
    source_format: SourceFormat, records: Iterable[Record], columns: ColumnMapping | None, shown: int
) -> Preview:
    """Looks at the first records of a source.

    Args:
        source_format: Its format.
        records: All its records.
        columns: Where the text is; None to go by the shape.
        shown: Records to return.
    """
    waiting = iter(records)
    looked_at = list(islice(waiting, LOOKED_AT))
    readable = [record.values for record in looked_at if not record.problem]
    shape = recognise(readable)
    columns = columns or (shape[1] if shape is not None else None)
    maker = ExampleMaker(IngestionRecipe("", "", columns), columns) if columns is not None else None
    some: list[PreviewedRecord] = []
    refused: list[RefusedRow] = []
    counts: dict[RefusalReason, int] = {}
    for record in looked_at:
        draft: Draft | None = None
        try:
            if record.problem:
                raise RowRefused(RefusalReason.UNREADABLE, record.problem)
            draft = maker.draft(record.values) if maker is not None else None
        except RowRefused as err:
            counts[err.reason] = counts.get(err.reason, 0) + 1
            refused.append(RefusedRow(0, record.line, err.reason, err.detail, excerpt(record.raw), err.step))
        if len(some) < shown:
            some.append(PreviewedRecord(record.line, excerpt(record.raw), draft))
    return Preview(
        format=source_format,
        shape=shape[0] if shape is not None else None,
        columns=columns,
        column_names=_names(readable),
        records=tuple(some),
        read_records=len(looked_at),
        refusals=counts,
        refused=tuple(refused[:_REFUSED_SHOWN]),
        whole=next(waiting, None) is None,
    )


def _names(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for record in islice(records, 100):
        names.update(dict.fromkeys(record))
    return tuple(name[:200] for name in islice(names, 200))
