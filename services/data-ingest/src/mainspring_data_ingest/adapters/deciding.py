"""Decides what follows from all rows together: duplicates, and splits. In one process, on columns of numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mainspring_data_ingest.adapters import steps
from mainspring_data_ingest.adapters.candidates import KEPT, Candidates, firsts
from mainspring_data_ingest.adapters.steps.balance import BalanceDecision
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import EXACT_DUPLICATES, SPLITS, RefusalReason, StepPlace
from mainspring_data_ingest.domain.report import StepCounts
from mainspring_data_ingest.domain.splits import Split, splits_by_place
from mainspring_data_ingest.domain.steps import Balance


class Decisions:
    """What became of the candidates.

    Attributes:
        candidates: The candidates with their fates.
        split: The split of each that is kept, as position in `Split`.
        repeats: How often one pass of training sees each; None where no step of the recipe says it.
        counts: What each comparing step did, by its position in the recipe.
    """

    def __init__(
        self,
        recipe: IngestionRecipe,
        candidates: Candidates,
        folder: Path,
        vectors: steps.Vectors | None = None,
    ) -> None:
        """Takes the recipe, the candidates, a folder for temporary files, and what makes vectors where the recipe needs
        them.
        """
        self.candidates = candidates
        self.counts: dict[int, StepCounts] = {}
        self._recipe, self._folder = recipe, folder
        self._refusals: list[tuple[steps.Refusals, StepPlace]] = []
        self._vectors = vectors
        self._balances: list[tuple[StepCounts, BalanceDecision]] = []
        self.split: Any = np.zeros(candidates.count, np.uint8)
        self.repeats: Any = None

    def make(self) -> None:
        """Decides: exact duplicates first, then the recipe's comparing steps in their order, then splits."""
        self._exact_duplicates()
        for position, step in enumerate(self._recipe.steps):
            if decision := steps.decision(step, position, self._vectors):
                counts = self.counts[position] = StepCounts(step.kind)
                made = decision.decide(self.candidates, self._folder)
                self._refuse(made, StepPlace(step.kind, position + 1))
                counts.refused.update({made.reason: len(made.rows)} if len(made.rows) else {})
                counts.found.update(made.found)
                counts.passed = int((self.candidates.fate == KEPT).sum())
                if isinstance(step, Balance) and isinstance(decision, BalanceDecision) and step.min_weight:
                    self._balances.append((counts, decision))
        self._splits()
        self._weights()

    def refusals(self) -> dict[RefusalReason, int]:
        """Candidates refused, by reason."""
        counts = Counter[RefusalReason]()
        for made, _ in self._refusals:
            counts[made.reason] += len(made.rows)
        return dict(+counts)

    def details(self, chunk: int) -> list[tuple[int, RefusalReason, str, StepPlace]]:
        """The refused candidates of a chunk in their order: position in the chunk, reason, detail, step."""
        begin, end = self.candidates.starts[chunk : chunk + 2].tolist()
        found: list[tuple[int, RefusalReason, str, StepPlace]] = []
        for made, step in self._refusals:
            low, high = np.searchsorted(made.rows, [begin, end]).tolist()
            for index in range(low, high):
                found.append((int(made.rows[index]) - begin, made.reason, made.detail(index), step))
        return sorted(found, key=lambda refused: refused[0])

    def _refuse(self, made: steps.Refusals, step: StepPlace) -> None:
        self._refusals.append((made, step))
        self.candidates.fate[made.rows] = len(self._refusals)

    def _exact_duplicates(self) -> None:
        later: list[Any] = [np.empty(0, np.int64)]
        for rows, values in self.candidates.repeated(self.candidates.keys("row_low", "row_high")):
            later.append(rows[rows != firsts(rows, values)])
        rows = np.sort(np.concatenate(later))
        detail = "the same messages came earlier in the input"
        self._refuse(steps.Refusals(RefusalReason.EXACT_DUPLICATE, rows, lambda _: detail), EXACT_DUPLICATES)

    def _weights(self) -> None:
        """Rows that are learned from count as the recipe's balances say, together; all others once."""
        if not self._balances:
            return
        train = list(Split).index(Split.TRAIN)
        learned = np.flatnonzero((self.candidates.fate == KEPT) & (self.split == train))
        self.repeats = np.ones(self.candidates.count, np.int32)
        for counts, balance in self._balances:
            repeats = balance.repeats(self.candidates, learned)
            self.repeats[learned] *= repeats
            counts.found["rows_repeated"] = int((repeats > 1).sum())
            counts.found["rows_seen_in_training"] = int(repeats.sum())

    def _splits(self) -> None:
        """A row goes to its group's split (with strata, to that of its group's first row); one whose prompt came before
        goes where the first one went, whatever its group, so that no prompt is both learned from and tested on.
        Appending data cannot move a row: the first of its prompt stays the first.

        What a model made is never measured on: it goes to the train split, or is refused when a held-out row before it
        has its prompt.
        """
        table = np.array([list(Split).index(split) for split in splits_by_place(self._recipe.split)], np.uint8)
        self.split = table[self.candidates.column("split_place").astype(np.intp)]
        train = list(Split).index(Split.TRAIN)
        made = self.candidates.column("synthetic").astype(bool)
        self.split[made] = train
        if self._recipe.split.stratify_by is not None:
            for rows, values in self.candidates.repeated(self.candidates.keys("group_low", "group_high")):
                self.split[rows] = self.split[firsts(rows, values)]
        for rows, values in self.candidates.repeated(self.candidates.keys("prompt_low", "prompt_high")):
            self.split[rows] = self.split[firsts(rows, values)]
        leaks = np.flatnonzero(made & (self.split != train) & (self.candidates.fate == KEPT))
        if len(leaks):
            detail = "is synthetic, and has the prompt of a row that is held out"
            self._refuse(steps.Refusals(RefusalReason.EVALUATION_LEAK, leaks, lambda _: detail), SPLITS)
