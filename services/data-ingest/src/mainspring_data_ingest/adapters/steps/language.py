"""Language identification among a bounded set, by lingua."""

from __future__ import annotations

from typing import Any

from lingua import IsoCode639_1, LanguageDetectorBuilder

from mainspring_data_ingest.adapters.steps.base import BaseStep
from mainspring_data_ingest.domain.records import RefusalReason, RowRefused
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import LanguageFilter

_LOOKED_AT = 1000
"""Characters from the beginning; more make it slower and hardly surer."""


class LanguageStep(BaseStep):
    """Refuses languages that are not wanted."""

    name = "language_filter"

    def __init__(self, step: LanguageFilter) -> None:
        super().__init__()
        self._step = step
        # The library wants two languages at least; English and French are in no way special here.
        codes = {*step.languages, *step.other_languages}
        codes |= {"en", "fr"} if len(codes) < 2 else set()
        known: list[Any] = [getattr(IsoCode639_1, code.upper()) for code in sorted(codes)]
        self._detector = LanguageDetectorBuilder.from_iso_codes_639_1(*known).build()
        self._wanted = frozenset(step.languages)

    def apply(self, draft: Draft) -> Draft:
        """See `Step`."""
        values = self._detector.compute_language_confidence_values(draft.text(self._step.part)[:_LOOKED_AT])
        best = values[0]
        code = best.language.iso_code_639_1.name.lower()
        if code in self._wanted or best.value < self._step.min_confidence:
            return draft
        self.found[code] += 1
        wanted = ", ".join(sorted(self._wanted))
        raise RowRefused(
            RefusalReason.WRONG_LANGUAGE, f"is in {code!r} ({best.value:.0%} sure); the recipe wants {wanted}"
        )
