"""Use case of a refining process: what single records become, a chunk of them at a time.

A record is read into a draft, the recipe's steps change or refuse it in their order, and the rest is rendered. What
follows from other rows (duplicates, splits) is decided elsewhere, when all are known; so chunks may be refined
anywhere, in any order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from mainspring_data_ingest.application.ports import Step
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.recipes import IngestionRecipe, SplitStrata
from mainspring_data_ingest.domain.records import (
    NOT_UTF8,
    Record,
    RefusalReason,
    RefusedRow,
    RowRefused,
    StepPlace,
    excerpt,
)
from mainspring_data_ingest.domain.report import Measure, StepCounts, TextStatistics
from mainspring_data_ingest.domain.rows import Draft, ExampleMaker, Row
from mainspring_data_ingest.domain.steps import TextPart
from mainspring_svckit.errors import InvalidInput


@dataclass(frozen=True)
class RecordChunk:
    """Records that follow each other in one source.

    Attributes:
        number: Position among all chunks.
        source_index: Their source.
        place: Position of the first of them among all records.
        records: The records.
    """

    number: int
    source_index: int
    place: int
    records: Sequence[Record]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A record that has passed all steps which look at single rows.

    Attributes:
        place: Its position among all records.
        row: What it would be as a row.
        changed: The steps that changed it, a bit for each by its position in the recipe; 0 where none did.
        raw: Its first bytes, should it be refused later.
        measure: The measure of its texts.
        split_digest: First 16 bytes of the SHA-256 that its split follows from.
        seen: Its texts where rows are compared, one for each step that does so.
    """

    place: int
    row: Row
    changed: int
    raw: bytes
    measure: Measure
    split_digest: bytes
    seen: tuple[Draft, ...]


@dataclass
class RefinedChunk:
    """What became of a chunk's records; refused ones with their place."""

    candidates: list[Candidate]
    refused: list[tuple[int, RefusedRow]]
    steps: list[StepCounts | None]
    before: TextStatistics


class RowRefinery:
    """Refines chunks."""

    def __init__(
        self,
        recipe: IngestionRecipe,
        columns: Sequence[ColumnMapping | None],
        steps: Sequence[Step | None],
        synthetic: Collection[int] = (),
    ) -> None:
        """Takes the columns of each source, where they are its own, the recipe's steps (None stands where rows are
        compared), and which sources a model made.
        """
        self._makers = [
            ExampleMaker(recipe, own or recipe.columns, synthetic=index in synthetic)
            for index, own in enumerate(columns)
        ]
        self._steps, self._strata = steps, recipe.split.stratify_by

    def refine(self, chunk: RecordChunk) -> RefinedChunk:
        """Refines one chunk."""
        counts = [None if step is None else StepCounts(step.name, about=step.about) for step in self._steps]
        made = RefinedChunk([], [], counts, TextStatistics(chunk.place))
        maker = self._makers[chunk.source_index]
        for place, record in enumerate(chunk.records, chunk.place):
            try:
                candidate = self._candidate(maker, made, record, place, chunk.source_index)
            except RowRefused as err:
                shown = excerpt(record.raw)
                refused = RefusedRow(chunk.source_index, record.line, err.reason, err.detail, shown, err.step)
                made.refused.append((place, refused))
            else:
                made.candidates.append(candidate)
        for step, counted in zip(self._steps, counts, strict=True):
            if step is not None and counted is not None:
                counted.found.update(step.found)
                step.found.clear()
        return made

    def _candidate(
        self, maker: ExampleMaker, made: RefinedChunk, record: Record, place: int, source_index: int
    ) -> Candidate:
        if record.problem:
            raise RowRefused(RefusalReason.UNREADABLE, record.problem)
        draft = first = maker.draft(record.values)
        measure = made.before.add(first)
        seen: list[Draft] = []
        changed = 0
        for position, (step, counts) in enumerate(zip(self._steps, made.steps, strict=True)):
            if step is None or counts is None:
                seen.append(draft)
                continue
            after = _applied(step, position + 1, counts, maker, draft)
            changed |= (after is not draft) << position
            draft = after
        row = Row.of(maker.render(draft), source_index, record.line)
        measure = Measure.of(draft) if changed else measure
        return Candidate(place, row, changed, record.raw, measure, self._split_digest(draft, row), tuple(seen))

    def _split_digest(self, draft: Draft, row: Row) -> bytes:
        """Digest of the group, or of stratum and group."""
        match self._strata:
            case None:
                return row.group_digest
            case SplitStrata.LABEL:
                stratum = draft.text(TextPart.ANSWER).strip().casefold()
            case SplitStrata.SOURCE:
                stratum = str(row.source_index)
        return hashlib.sha256(hashlib.sha256(stratum.encode()).digest() + row.group_digest).digest()[:16]


@dataclass
class SourceTally:
    """What became of the records of one source, as far as single records go."""

    rows: int = 0
    not_utf8: int = 0
    refusals: Counter[RefusalReason] = field(default_factory=Counter[RefusalReason])
    first: RefusedRow | None = None

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
            message = f"has none of the recipe's columns; name its columns in the recipe or in the source; {first}"
            raise InvalidInput(message, reason="SOURCE_LACKS_COLUMN")


def not_utf8(refused: Sequence[tuple[int, RefusedRow]]) -> int:
    """How many of them are bytes of another encoding."""
    return sum(row.detail == NOT_UTF8 for _, row in refused)


def _applied(step: Step, number: int, counts: StepCounts, maker: ExampleMaker, draft: Draft) -> Draft:
    try:
        changed = step.apply(draft)
        if changed is not draft:
            maker.check(changed)
    except RowRefused as err:
        err.step = StepPlace(step.name, number)
        counts.refused[err.reason] += 1
        raise
    counts.passed += 1
    counts.changed += changed is not draft
    return changed
