"""Words and phrases that a team does not want."""

from __future__ import annotations

from collections.abc import Iterable

from mainspring_data_ingest.adapters.steps.base import BaseStep
from mainspring_data_ingest.domain.records import RefusalReason, RowRefused
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import WordList
from mainspring_data_ingest.domain.words import words_of
from mainspring_svckit.errors import InvalidInput


class WordListStep(BaseStep):
    """Refuses texts with too many words of a list. Words are whole words, whatever their case."""

    name = "word_list"

    def __init__(self, step: WordList, lines: Iterable[str]) -> None:
        super().__init__()
        self._step = step
        phrases = {tuple(words_of(phrase)) for phrase in (*step.words, *lines)} - {()}
        if not phrases:
            raise InvalidInput("the word list has no words; write one word or phrase a line", reason="WORD_LIST_EMPTY")
        self._by_size: dict[int, set[tuple[str, ...]]] = {}
        for phrase in phrases:
            self._by_size.setdefault(len(phrase), set()).add(phrase)
        self.about["listed_words"] = len(phrases)

    def apply(self, draft: Draft) -> Draft:
        """See `Step`."""
        words = draft.words(self._step.part)
        hits = 0
        for size, phrases in self._by_size.items():
            hits += sum(run in phrases for run in zip(*(words[start:] for start in range(size)), strict=False))
        if hits:
            self.found["rows_with_listed_words"] += 1
        if hits >= self._step.min_hits:
            # The words themselves stay out of the reason, which people read.
            raise RowRefused(RefusalReason.LISTED_WORD, f"holds {hits} of the recipe's listed words")
        return draft
