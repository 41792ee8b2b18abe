"""Length and quality: the domain's rules as steps."""

from __future__ import annotations

from mainspring_data_ingest.adapters.steps.base import BaseStep
from mainspring_data_ingest.domain.quality import problem_of
from mainspring_data_ingest.domain.records import RefusalReason, RowRefused
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import LengthFilter, QualityFilter


class LengthStep(BaseStep):
    """Refuses what is too short or too long."""

    name = "length_filter"

    def __init__(self, step: LengthFilter) -> None:
        super().__init__()
        self._step = step

    def apply(self, draft: Draft) -> Draft:
        """See `Step`."""
        step, text = self._step, draft.text(self._step.part)
        words = len(text.split()) if step.min_words or step.max_words else 0
        for count, unit, least, most in (
            (words, "words", step.min_words, step.max_words),
            (len(text), "characters", step.min_characters, step.max_characters),
        ):
            if least and count < least:
                self._refuse(f"has {count} {unit}; the recipe wants at least {least}")
            if most and count > most:
                self._refuse(f"has {count} {unit}; the recipe wants at most {most}")
        return draft

    def _refuse(self, detail: str) -> None:
        raise RowRefused(RefusalReason.WRONG_LENGTH, f"the {_named(self._step.part.value)} {detail}")


class QualityStep(BaseStep):
    """Refuses what breaks a rule."""

    name = "quality_filter"

    def __init__(self, step: QualityFilter) -> None:
        super().__init__()
        self._step = step

    def apply(self, draft: Draft) -> Draft:
        """See `Step`."""
        if problem := problem_of(draft.text(self._step.part), self._step.rules):
            self.found[problem.partition(":")[0]] += 1
            raise RowRefused(RefusalReason.LOW_QUALITY, f"the {_named(self._step.part.value)} breaks {problem}")
        return draft


def _named(part: str) -> str:
    return "text" if part == "ALL" else part.lower()
