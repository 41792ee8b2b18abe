"""Keeps an evaluation set out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from mainspring_data_ingest.adapters.steps.base import BaseStep
from mainspring_data_ingest.domain.records import RefusalReason, RowRefused
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import Decontamination, TextPart
from mainspring_data_ingest.domain.words import runs_of

_CLUE_WORDS = 3


class DecontaminationStep(BaseStep):
    """Refuses rows that an evaluation set holds. Memory grows with that set, not with the rows."""

    name = "decontamination"

    def __init__(self, step: Decontamination, held_out: Iterable[Draft]) -> None:
        super().__init__()
        self._step = step
        self._prompts: set[str] = set()
        self._sizes: list[int] = []
        self._examples: dict[str, list[int]] = {}
        self._clues: set[tuple[str, ...]] = set()
        for number, draft in enumerate(held_out):
            prompt, answer = draft.words(TextPart.PROMPT), draft.words(TextPart.ANSWER)
            if prompt:
                self._prompts.add(" ".join(prompt))
            words = [*prompt, *answer]
            runs = runs_of(words, step.ngram_words)
            self._sizes.append(len(runs))
            for run in runs:
                self._examples.setdefault(run, []).append(number)
            self._clues.update(_clues(words))
        self.about["evaluation_examples"] = len(self._sizes)

    def apply(self, draft: Draft) -> Draft:
        """See `Step`."""
        prompt = draft.words(TextPart.PROMPT)
        if " ".join(prompt) in self._prompts:
            self.found["same_prompt"] += 1
            raise RowRefused(RefusalReason.EVALUATION_LEAK, "its prompt is one of the evaluation set's")
        words, size = [*prompt, *draft.words(TextPart.ANSWER)], self._step.ngram_words
        # A run that both hold has few words in a row at one of these places; most rows share none, and need no runs.
        if len(words) > size >= _CLUE_WORDS and self._clues.isdisjoint(_clues(words, size - _CLUE_WORDS + 1)):
            return draft
        shared: Counter[int] = Counter()
        for run in runs_of(words, size):
            if run in self._examples:
                shared.update(self._examples[run])
        for example, count in shared.items():
            if count >= self._step.ngram_overlap * self._sizes[example]:
                self.found["ngram_overlap"] += 1
                share = count / self._sizes[example]
                detail = f"holds {share:.0%} of the {size}-word runs of the evaluation set's example {example + 1}"
                raise RowRefused(RefusalReason.EVALUATION_LEAK, detail)
        return draft


def _clues(words: list[str], every: int = 1) -> Iterator[tuple[str, ...]]:
    """Three words in a row from each place, or from one place in so many."""
    return zip(*(words[start::every] for start in range(_CLUE_WORDS)), strict=False)
