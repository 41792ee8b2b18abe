"""The report of a dataset version: what became of every row, and how the texts changed.

Numbers are gathered row by row in memory that does not grow with the data. Distinct-n depends on how much text there
is, so it is computed on a sample of fixed size, which a digest of each text chooses; the same rows give the same
sample.
"""

from __future__ import annotations

import heapq
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from mainspring_data_ingest.domain.measurements import Measurement
from mainspring_data_ingest.domain.records import RefusalReason
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import TextPart

REPORT_SCHEMA = "mainspring.dataset_report.v1"
ERASURE = "erasure"
"""The step that stands last in the report of a version which an erasure made."""
SAMPLE_ROWS = 2_000
SAMPLE_CHARACTERS = 4_000
MAX_LABELS = 100
MAX_LABEL_CHARACTERS = 60
DISTINCT_SIZES = (1, 2, 3)


@dataclass(frozen=True)
class StepReport:
    """What one step did. Rows that reach it are `passed` and `refused` ones; `changed` ones are among the passed.

    Attributes:
        step: Its kind.
        passed: Rows that went on.
        changed: Rows that went on changed.
        refused: Rows refused, by reason.
        found: What it found, by name.
    """

    step: str
    passed: int
    changed: int
    refused: dict[RefusalReason, int]
    found: dict[str, int]


@dataclass(frozen=True)
class LengthReport:
    """Lengths of texts.

    Attributes:
        mean_characters: Characters of a text, on average.
        mean_words: Words of a text, on average.
        words: Texts by length: the key is the least number of words, a power of two (0 for none).
    """

    mean_characters: float
    mean_words: float
    words: dict[int, int]


@dataclass(frozen=True)
class TextReport:
    """Texts at one point of the way.

    Attributes:
        rows: Rows.
        prompt: Lengths of prompts.
        answer: Lengths of answers.
        distinct: Share of different n-grams among the n-grams of a sample of answers, by n.
        labels: Rows by answer, where answers are few and short; None where they are free text.
        diversity: How different answers of a sample are from each other, and how near they come to the recipe's
            reference examples, or else to its evaluation set, where it has one; None in reports that older releases
            wrote.
    """

    rows: int
    prompt: LengthReport
    answer: LengthReport
    distinct: dict[int, float]
    labels: dict[str, int] | None
    diversity: Measurement | None = None


@dataclass(frozen=True)
class Report:
    """What became of the rows of an ingestion; `input_rows` = `kept_unchanged` + `kept_changed` + the refused.

    `before` is of the rows that could be read; after an erasure, of the rows of the version before it.
    """

    input_rows: int
    kept_unchanged: int
    kept_changed: int
    refused: dict[RefusalReason, int]
    steps: tuple[StepReport, ...]
    before: TextReport
    after: TextReport

    def as_bytes(self) -> bytes:
        """Canonical JSON (sorted keys, no spaces, UTF-8)."""
        body = {"schema": REPORT_SCHEMA, **asdict(self)}
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def erased(
        self,
        refused: Mapping[RefusalReason, int],
        *,
        rows: int,
        refused_rows: Mapping[RefusalReason, int],
        changed_rows: int,
        before: TextReport,
        after: TextReport,
    ) -> Report:
        """The report of the version that an erasure leaves of this one: what the recipe's steps did, then the erasure.

        Args:
            refused: Refused rows of the new version.
            rows: Rows erased.
            refused_rows: Rows erased that had been refused before, by the reason of that time.
            changed_rows: Those of `rows` that steps had changed.
            before: Texts of the rows of this version.
            after: Texts of the rows that are left.
        """
        changed = max(0, self.kept_changed - changed_rows)
        found = {"rows": rows}
        found |= {f"rows_refused_as_{reason.lower()}": count for reason, count in sorted(refused_rows.items())}
        count = rows + sum(refused_rows.values())
        erased = {RefusalReason.ERASED: count} if count else {}
        # An answer that only erased rows gave would tell what they said.
        labels = before.labels and {label: n for label, n in before.labels.items() if label in (after.labels or {})}
        return Report(
            input_rows=self.input_rows,
            kept_unchanged=after.rows - changed,
            kept_changed=changed,
            refused=dict(refused),
            steps=(*self.steps, StepReport(ERASURE, after.rows, 0, erased, found)),
            before=replace(before, labels=labels or None),
            after=after,
        )

    @classmethod
    def parse(cls, data: bytes) -> Report:
        """Reads what `as_bytes` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            return _report(json.loads(data))
        except (KeyError, TypeError, AttributeError) as err:
            raise ValueError(f"not a {REPORT_SCHEMA}") from err


class Measure(NamedTuple):
    """What statistics need of one row's texts.

    Attributes:
        prompt_characters: Characters of the prompt.
        prompt_words: Words of the prompt.
        answer_characters: Characters of the answer.
        answer_words: Words of the answer.
        checksum: CRC-32 of the answer, which decides whether it is in the sample.
    """

    prompt_characters: int
    prompt_words: int
    answer_characters: int
    answer_words: int
    checksum: int

    @classmethod
    def of(cls, draft: Draft) -> Measure:
        """Measures a row."""
        prompt, answer = draft.text(TextPart.PROMPT), draft.text(TextPart.ANSWER)
        return cls(len(prompt), len(prompt.split()), len(answer), len(answer.split()), zlib.crc32(answer.encode()))


@dataclass
class _Lengths:
    characters: int = 0
    words: int = 0
    histogram: Counter[int] = field(default_factory=Counter[int])

    def add(self, characters: int, words: int) -> None:
        self.characters += characters
        self.words += words
        self.histogram[1 << words.bit_length() - 1 if words else 0] += 1

    def merge(self, characters: int, words: int, histogram: Mapping[str, int]) -> None:
        self.characters += characters
        self.words += words
        self.histogram.update({int(least): rows for least, rows in histogram.items()})

    def state(self) -> tuple[int, int, dict[str, int]]:
        return self.characters, self.words, {str(least): rows for least, rows in self.histogram.items()}

    def report(self, rows: int) -> LengthReport:
        rows = max(rows, 1)
        return LengthReport(
            round(self.characters / rows, 2), round(self.words / rows, 2), dict(sorted(self.histogram.items()))
        )


class TextStatistics:
    """Gathers a `TextReport`; those of parts of the data can be merged, whichever comes first."""

    def __init__(self, place: int = 0) -> None:
        """`place` is that of the first row in the data."""
        self._place = place
        self._rows = 0
        self._prompt, self._answer = _Lengths(), _Lengths()
        self._labels: Counter[str] | None = Counter()
        self._sample: list[tuple[int, int, str]] = []

    def add(self, draft: Draft) -> Measure:
        """Takes the texts of the next row in."""
        measure = Measure.of(draft)
        self.add_measured(measure, draft.text(TextPart.ANSWER), self._place)
        self._place += 1
        return measure

    def add_measured(self, measure: Measure, answer: str, place: int) -> None:
        """Takes in the texts of the row at that place of the data."""
        self._rows += 1
        self._prompt.add(measure.prompt_characters, measure.prompt_words)
        self._answer.add(measure.answer_characters, measure.answer_words)
        if self._labels is not None:
            self._labels[answer] += 1
            if len(answer) > MAX_LABEL_CHARACTERS or len(self._labels) > MAX_LABELS:
                self._labels = None
        # The texts with the smallest checksums, kept as a heap of the largest; of equal texts the earlier ones stay.
        if len(self._sample) < SAMPLE_ROWS or -measure.checksum >= self._sample[0][0]:
            self._offer((-measure.checksum, -place, answer[:SAMPLE_CHARACTERS]))

    def state(self) -> dict[str, Any]:
        """What was gathered, as JSON values."""
        return {
            "rows": self._rows,
            "prompt": self._prompt.state(),
            "answer": self._answer.state(),
            "labels": self._labels,
            "sample": self._sample,
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Takes in what was gathered of another part of the data."""
        self._rows += state["rows"]
        self._prompt.merge(*state["prompt"])
        self._answer.merge(*state["answer"])
        if self._labels is not None and state["labels"] is not None:
            self._labels.update(state["labels"])
        if state["labels"] is None or len(self._labels or ()) > MAX_LABELS:
            self._labels = None
        for checksum, place, text in state["sample"]:
            self._offer((checksum, place, text))

    def report(self) -> TextReport:
        """What was gathered."""
        # In an order of their own: which of two equally frequent ones came first depends on how the data was parted.
        labels = dict(sorted(self._labels.items(), key=lambda item: (-item[1], item[0]))) if self._labels else None
        return TextReport(
            self._rows, self._prompt.report(self._rows), self._answer.report(self._rows), self._distinct(), labels
        )

    def answers(self, count: int) -> list[str]:
        """So many answers of the sample, those with the smallest checksums."""
        return [text for _, _, text in sorted(self._sample, reverse=True)[:count]]

    def _offer(self, entry: tuple[int, int, str]) -> None:
        if len(self._sample) < SAMPLE_ROWS:
            heapq.heappush(self._sample, entry)
        elif entry > self._sample[0]:
            heapq.heapreplace(self._sample, entry)

    def _distinct(self) -> dict[int, float]:
        shares: dict[int, float] = {}
        texts = [text.casefold().split() for _, _, text in self._sample]
        for size in DISTINCT_SIZES:
            runs = [run for words in texts for run in zip(*(words[start:] for start in range(size)), strict=False)]
            shares[size] = round(len(set(runs)) / len(runs), 4) if runs else 0.0
        return shares


@dataclass
class StepCounts:
    """Counts what one step does.

    Attributes:
        step: Its kind.
        found: What it found, counted by name.
        about: What it knows from the beginning, by name; the same wherever it works.
        passed: Rows that went on.
        changed: Rows that went on changed.
        refused: Rows refused, by reason.
    """

    step: str
    found: Counter[str] = field(default_factory=Counter[str])
    about: dict[str, int] = field(default_factory=dict[str, int])
    passed: int = 0
    changed: int = 0
    refused: Counter[RefusalReason] = field(default_factory=Counter[RefusalReason])

    def state(self) -> dict[str, Any]:
        """What was counted, as JSON values."""
        return {
            "found": dict(self.found),
            "about": self.about,
            "passed": self.passed,
            "changed": self.changed,
            "refused": {reason.value: rows for reason, rows in self.refused.items()},
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Takes in what was counted elsewhere."""
        self.found.update(state["found"])
        self.about.update(state["about"])
        self.passed += state["passed"]
        self.changed += state["changed"]
        self.refused.update({RefusalReason(reason): rows for reason, rows in state["refused"].items()})

    def report(self) -> StepReport:
        """What was counted."""
        found = dict(sorted({**self.about, **self.found}.items()))
        return StepReport(self.step, self.passed, self.changed, dict(sorted(self.refused.items())), found)


def _report(body: dict[str, Any]) -> Report:
    if body["schema"] != REPORT_SCHEMA:
        raise KeyError("schema")
    return Report(
        body["input_rows"],
        body["kept_unchanged"],
        body["kept_changed"],
        _refusals(body["refused"]),
        tuple(
            StepReport(s["step"], s["passed"], s["changed"], _refusals(s["refused"]), s["found"]) for s in body["steps"]
        ),
        _texts(body["before"]),
        _texts(body["after"]),
    )


def _texts(body: dict[str, Any]) -> TextReport:
    distinct = {int(size): share for size, share in body["distinct"].items()}
    measured = body.get("diversity")
    return TextReport(
        body["rows"],
        _lengths(body["prompt"]),
        _lengths(body["answer"]),
        distinct,
        body["labels"],
        Measurement.parse(measured) if measured is not None else None,
    )


def _lengths(body: dict[str, Any]) -> LengthReport:
    words = {int(least): rows for least, rows in body["words"].items()}
    return LengthReport(body["mean_characters"], body["mean_words"], words)


def _refusals(body: dict[str, int]) -> dict[RefusalReason, int]:
    return {RefusalReason(reason): rows for reason, rows in body.items()}
