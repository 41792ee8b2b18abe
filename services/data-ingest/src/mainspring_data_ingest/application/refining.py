"""Use case of a refining process: every record of the sources becomes a row of one split, or is refused.

A record is read into a draft, the recipe's steps change or refuse it in their order, and the rest is rendered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mainspring_data_ingest.application.ports import RowSink, SourceReader, Step
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.datasets import Tally
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import (
    NOT_UTF8,
    Record,
    RefusalReason,
    RefusedRow,
    RowRefused,
    excerpt,
)
from mainspring_data_ingest.domain.report import Report, StepCounts, TextStatistics
from mainspring_data_ingest.domain.rows import Draft, ExampleMaker, Origin, Row
from mainspring_data_ingest.domain.splits import Split, SplitAssigner
from mainspring_svckit.errors import InvalidInput


@dataclass(frozen=True)
class OpenSource:
    """A source with its reader; `title` names it in messages."""

    title: str
    reader: SourceReader
    columns: ColumnMapping | None = None


@dataclass
class _SourceTally:
    """What became of the records of one source."""

    kept: int = 0
    not_utf8: int = 0
    refusals: Counter[RefusalReason] = field(default_factory=Counter[RefusalReason])
    first: RefusedRow | None = None

    @property
    def rows(self) -> int:
        return self.kept + self.refusals.total()

    def check(self) -> None:
        """Raises `InvalidInput` when the source as a whole is not what it is said to be."""
        if not self.rows:
            raise InvalidInput("has no rows; upload a file with data", reason="SOURCE_HAS_NO_ROWS")
        # A line or two may be damaged; where it is every tenth, the file is encoded otherwise, and what happens to be
        # ASCII in it would be a biased sample.
        if self.not_utf8 * 2 > self.rows or (self.not_utf8 >= 10 and self.not_utf8 * 10 > self.rows):
            message = f"{self.not_utf8} of {self.rows} rows are not UTF-8; save the file as UTF-8 and upload it again"
            raise InvalidInput(message, reason="SOURCE_NOT_UTF8")
        if self.first is None:
            return
        first = f"line {self.first.line}: {self.first.detail}"
        if self.refusals[RefusalReason.UNREADABLE] == self.rows:
            message = f"none of its {self.rows} rows can be read; check the source's format; {first}"
            raise InvalidInput(message, reason="SOURCE_UNREADABLE")
        if self.refusals[RefusalReason.MISSING_COLUMN] == self.rows:
            message = f"name its columns in the recipe or in the source; {first}"
            raise InvalidInput(message, reason="SOURCE_LACKS_COLUMN")


class Refinery:
    """Sorts the records of an ingestion.

    Memory grows by about 250 bytes a row kept (digests of rows and of prompts), and by what steps remember.
    """

    def __init__(self, recipe: IngestionRecipe, sink: RowSink, steps: Sequence[Step] = ()) -> None:
        self._recipe, self._sink = recipe, sink
        self._steps = [(step, StepCounts(step.name, step.found)) for step in steps]
        self._before, self._after = TextStatistics(), TextStatistics()
        self._changed = 0
        self._assigner = SplitAssigner(recipe.split)
        self._seen: set[bytes] = set()
        self._splits: Counter[Split] = Counter()
        self._refusals: Counter[RefusalReason] = Counter()

    def run(self, sources: Sequence[OpenSource], on_row: Callable[[], None]) -> tuple[Tally, Report]:
        """Sorts everything; calls `on_row` after each record.

        Raises:
            InvalidInput: A source as a whole cannot be used, or no row is left; the message names the source.
        """
        first: RefusedRow | None = None
        for index, source in enumerate(sources):
            try:
                tally = self._take(index, source.reader.records(), source.columns, on_row)
                tally.check()
            except InvalidInput as err:
                raise InvalidInput(f"{source.title} {err.message}", reason=err.reason) from err
            first = first or tally.first
        if not self._splits.total():
            assert first is not None
            counts = ", ".join(f"{reason.value} {rows}" for reason, rows in sorted(self._refusals.items()))
            title = sources[first.source_index].title
            message = f"every row is refused ({counts}); the first: {title} line {first.line}: {first.detail}"
            raise InvalidInput(message, reason="NO_ROWS_KEPT")
        tally = Tally({split: self._splits[split] for split in Split}, dict(sorted(self._refusals.items())))
        return tally, self._report(tally)

    def _report(self, tally: Tally) -> Report:
        return Report(
            input_rows=tally.input_rows,
            kept_unchanged=self._splits.total() - self._changed,
            kept_changed=self._changed,
            refused=dict(tally.refusals),
            steps=tuple(counts.report() for _, counts in self._steps),
            before=self._before.report(),
            after=self._after.report(),
        )

    def _take(
        self, index: int, records: Iterable[Record], columns: ColumnMapping | None, on_row: Callable[[], None]
    ) -> _SourceTally:
        maker = ExampleMaker(self._recipe, columns or self._recipe.columns)
        tally = _SourceTally()
        for record in records:
            try:
                row = self._row(maker, record, index)
            except RowRefused as err:
                refused = RefusedRow(index, record.line, err.reason, err.detail, excerpt(record.raw))
                self._sink.refuse(refused)
                self._refusals[err.reason] += 1
                tally.refusals[err.reason] += 1
                tally.not_utf8 += err.detail == NOT_UTF8
                tally.first = tally.first or refused
            else:
                split = self._assigner.assign(row)
                self._sink.keep(split, row)
                self._splits[split] += 1
                tally.kept += 1
            on_row()
        return tally

    def _row(self, maker: ExampleMaker, record: Record, index: int) -> Row:
        if record.problem:
            raise RowRefused(RefusalReason.UNREADABLE, record.problem)
        origin = Origin(index, record.line)
        first = maker.draft(record.values)
        self._before.add(first)
        draft, row = first, None
        for step, counts in self._steps:
            if step.after_duplicates and row is None:
                row = self._unseen(maker, draft, origin)
            changed = _applied(step, counts, maker, draft, origin)
            if changed is not draft:
                draft, row = changed, None
        row = row or self._unseen(maker, draft, origin)
        self._seen.add(_digest(row))
        for step, _ in self._steps:
            step.kept(origin)
        self._after.add(draft)
        self._changed += draft is not first
        return row

    def _unseen(self, maker: ExampleMaker, draft: Draft, origin: Origin) -> Row:
        row = Row.of(maker.render(draft), origin.source_index, origin.line)
        if _digest(row) in self._seen:
            raise RowRefused(RefusalReason.EXACT_DUPLICATE, "the same messages came earlier in the input")
        return row


def _applied(step: Step, counts: StepCounts, maker: ExampleMaker, draft: Draft, origin: Origin) -> Draft:
    try:
        changed = step.apply(draft, origin)
        if changed is not draft:
            maker.check(changed)
    except RowRefused as err:
        counts.refused[err.reason] += 1
        raise
    counts.passed += 1
    counts.changed += changed is not draft
    return changed


def _digest(row: Row) -> bytes:
    return bytes.fromhex(row.row_id[:32])
