"""Scorers by name. Imported only by the thread that scores, since the libraries take long to load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from mainspring_evaluator.adapters.scorers import observed, overlap, rules
from mainspring_evaluator.adapters.scorers.base import Scorer, Setup

GROUP = "mainspring.scorers"
"""Entry points that name the classes of plug-ins."""

SCORERS: Mapping[str, Callable[[Setup], Scorer]] = {
    "bleu": overlap.BleuScorer,
    "chrf": overlap.ChrfScorer,
    "ter": overlap.TerScorer,
    "rouge_1": overlap.Rouge1Scorer,
    "rouge_2": overlap.Rouge2Scorer,
    "rouge_l": overlap.RougeLScorer,
    "rouge_lsum": overlap.RougeLsumScorer,
    "exact_match": rules.ExactMatchScorer,
    "accuracy": rules.AccuracyScorer,
    "macro_f1": rules.MacroF1Scorer,
    "token_f1": rules.TokenF1Scorer,
    "json_schema": rules.JsonSchemaScorer,
    "answer_words": rules.AnswerWordsScorer,
    "empty_answers": rules.EmptyAnswersScorer,
    "latency": rules.LatencyScorer,
    "first_token_latency": rules.FirstTokenLatencyScorer,
    "token_latency": rules.TokenLatencyScorer,
    "cost": rules.CostScorer,
    "attack_success": rules.AttackSuccessScorer,
    "false_refusal": rules.FalseRefusalScorer,
    "embedding_similarity": observed.ObservedScorer,
    "calibration_error": observed.CalibrationErrorScorer,
    "perplexity": observed.PerplexityScorer,
    "choice_accuracy": observed.ChoiceScorer,
    "choice_accuracy_norm": observed.ChoiceScorer,
    "judge_rubric": observed.ObservedScorer,
    "judge_preference": observed.ObservedScorer,
    "faithfulness": observed.ObservedScorer,
    "context_precision": observed.ObservedScorer,
    "context_recall": observed.ObservedScorer,
}
"""Those that come with the evaluator."""


def make(setup: Setup) -> Scorer:
    """The scorer of the setup's name; a plug-in cannot take the name of one that comes with the evaluator.

    Raises:
        LookupError: There is none, or its class cannot be found.
        Exception: Whatever its class raises.
    """
    made = SCORERS.get(setup.name)
    if made is None:
        (entry,) = tuple(entry_points(group=GROUP, name=setup.name))[:1] or (None,)
        if entry is None:
            raise LookupError(f"there is no scorer {setup.name!r} any more")
        made = entry.load()
    return made(setup)
