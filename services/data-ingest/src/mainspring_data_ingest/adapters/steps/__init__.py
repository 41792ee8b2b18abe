"""The recipe's steps at work. Imported by the refining process only: some need libraries that are slow to import, so
each is imported when a recipe asks for it.

Most look at one row at a time (`build`). Those that compare rows have two parts: a probe that takes from each row what
matters, and a decision when all rows are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mainspring_data_ingest.adapters.steps.base import Decision, Probe, Refusals, Vectors
from mainspring_data_ingest.application.ports import Step
from mainspring_data_ingest.domain import steps as domain
from mainspring_data_ingest.domain.rows import Draft

__all__ = ["Refusals", "Vectors", "build", "decision", "probe"]


def probe(step: domain.RecipeStep) -> Probe | None:
    """What takes from each row what a comparing step needs; None for a step that looks at single rows."""
    match step:
        case domain.NearDuplicates():
            from mainspring_data_ingest.adapters.steps.near_duplicates import NearDuplicatesProbe

            return NearDuplicatesProbe(step)
        case domain.Balance():
            from mainspring_data_ingest.adapters.steps.balance import BalanceProbe

            return BalanceProbe(step)
        case _:
            return None


def decision(step: domain.RecipeStep, position: int, vectors: Vectors | None = None) -> Decision | None:
    """What decides for the comparing step at a position of the recipe; None for a step that looks at single rows."""
    match step:
        case domain.NearDuplicates():
            from mainspring_data_ingest.adapters.steps.near_duplicates import NearDuplicatesDecision

            return NearDuplicatesDecision(step, position)
        case domain.Balance():
            from mainspring_data_ingest.adapters.steps.balance import BalanceDecision

            return BalanceDecision(step, position, vectors)
        case _:
            return None


def build(step: domain.RecipeStep, held_out: Iterable[Draft], files: Sequence[Path] = ()) -> Step | None:
    """The step that a recipe describes; None when it compares rows.

    Args:
        step: The step.
        held_out: The examples of its evaluation set, if it has one.
        files: Its files.
    """
    match step:
        case domain.TextRepair():
            from mainspring_data_ingest.adapters.steps.text_repair import TextRepairStep

            return TextRepairStep(step)
        case domain.MarkupToText():
            from mainspring_data_ingest.adapters.steps.markup import MarkupStep

            return MarkupStep(step)
        case domain.LanguageFilter():
            from mainspring_data_ingest.adapters.steps.language import LanguageStep

            return LanguageStep(step)
        case domain.LengthFilter():
            from mainspring_data_ingest.adapters.steps.filters import LengthStep

            return LengthStep(step)
        case domain.QualityFilter():
            from mainspring_data_ingest.adapters.steps.filters import QualityStep

            return QualityStep(step)
        case domain.PersonalData():
            from mainspring_data_ingest.adapters.steps.personal_data import PersonalDataStep

            return PersonalDataStep(step)
        case domain.Decontamination():
            from mainspring_data_ingest.adapters.steps.decontamination import DecontaminationStep

            return DecontaminationStep(step, held_out)
        case domain.Secrets():
            from mainspring_data_ingest.adapters.steps.secrets import SecretsStep

            return SecretsStep(step)
        case domain.WordList():
            from mainspring_data_ingest.adapters.steps.word_list import WordListStep

            return WordListStep(step, (line for path in files for line in path.read_text("utf-8").splitlines()))
        case domain.TokenStatistics():
            from mainspring_data_ingest.adapters.steps.tokens import TokensStep

            return TokensStep(step, files[0])
        case domain.NearDuplicates() | domain.Balance():
            return None
