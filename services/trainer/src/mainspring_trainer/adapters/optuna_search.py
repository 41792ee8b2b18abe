"""Sampling, pruning and summing up by Optuna.

Optuna keeps nothing: what was tried stands in Postgres as trials of ours, and each question builds its study in memory
from them (docs/adr/0014). That takes some milliseconds for hundreds of trials, and any replica can ask at any time.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

from mainspring_trainer.domain.studies import Parameter, Pruner, Sampler, Setting, Study, StudyResult, StudyTrial
from mainspring_trainer.domain.studies import TrialState as Ours

_STARTUP_TRIALS = 5
"""Random trials before the estimator is trusted, and complete ones before any is pruned by their median."""
_IMPORTANCE_TRIALS = 4
_FIRST_RUNG_PERCENT = 20
_STATES = {
    Ours.RUNNING: optuna.trial.TrialState.RUNNING,
    Ours.COMPLETE: optuna.trial.TrialState.COMPLETE,
    Ours.PRUNED: optuna.trial.TrialState.PRUNED,
    Ours.FAILED: optuna.trial.TrialState.FAIL,
}
_SAMPLED, _PRUNING = "sampler", "pruner"
optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class OptunaSearch:
    """`Search` by Optuna, in a thread."""

    async def ask(
        self, study: Study, trials: Sequence[StudyTrial], given: Mapping[str, Setting] | None
    ) -> tuple[Mapping[str, Setting], Mapping[str, Any]]:
        return await asyncio.to_thread(_ask, study, trials, given)

    async def judge(self, study: Study, trials: Sequence[StudyTrial], trial: StudyTrial) -> StudyTrial:
        return await asyncio.to_thread(_judge, study, trials, trial)

    async def result(self, study: Study, trials: Sequence[StudyTrial]) -> StudyResult | None:
        return await asyncio.to_thread(_result, study, trials)


def _ask(
    study: Study, trials: Sequence[StudyTrial], given: Mapping[str, Setting] | None
) -> tuple[Mapping[str, Setting], Mapping[str, Any]]:
    made = _searching(study, trials)
    if given is not None:
        made.enqueue_trial(dict(given))
    trial = made.ask({one.path: _distribution(one) for one in study.space})
    return trial.params, {_SAMPLED: dict(made.trials[-1].system_attrs)}


def _judge(study: Study, trials: Sequence[StudyTrial], trial: StudyTrial) -> StudyTrial:
    # Pruners of Optuna look at one value; ours is always the validation loss, whatever else is searched for.
    made = optuna.create_study(direction="minimize", sampler=RandomSampler(seed=0), pruner=_pruner(study))
    for other in trials:
        loss = min(other.losses.values(), default=None)
        state = other.state if loss is not None or other.state is not Ours.COMPLETE else Ours.FAILED
        made.add_trial(
            create_trial(
                state=_STATES[state],
                value=loss if state is Ours.COMPLETE else None,
                intermediate_values=dict(other.losses),
                system_attrs=dict(other.memory.get(_PRUNING, {})),
            )
        )
    # Each loss is shown to the pruner in its turn, since halving counts the rungs that a trial has climbed.
    shown = made.trials[trial.number]
    needless = False
    for step in sorted(trial.losses):
        until = {s: loss for s, loss in trial.losses.items() if s <= step}
        needless = made.pruner.prune(made, _at(shown, until, made.trials[trial.number].system_attrs))
        if needless:
            break
    memory = {**trial.memory, _PRUNING: dict(made.trials[trial.number].system_attrs)}
    return replace(trial, memory=memory, state=Ours.PRUNED if needless else trial.state)


def _at(trial: FrozenTrial, losses: Mapping[int, float], attributes: Mapping[str, Any]) -> FrozenTrial:
    """A trial as it was when it had told only these losses."""
    made = create_trial(state=trial.state, intermediate_values=dict(losses), system_attrs=dict(attributes))
    made.number = trial.number
    made._trial_id = trial._trial_id  # pyright: ignore[reportPrivateUsage]
    return made


def _result(study: Study, trials: Sequence[StudyTrial]) -> StudyResult | None:
    complete = [trial for trial in trials if trial.state is Ours.COMPLETE]
    if not complete:
        return None
    made = _searching(study, trials)
    best = min(complete, key=lambda trial: (trial.values[0], trial.number))
    front = made.best_trials if len(study.objectives) > 1 else [made.trials[best.number]]
    numbers = sorted((trial.number for trial in front), key=lambda number: (made.trials[number].values[0], number))
    importance: Mapping[str, float] = {}
    if len(complete) >= _IMPORTANCE_TRIALS:
        with warnings.catch_warnings():
            # It warns that low values are good, which is so here.
            warnings.simplefilter("ignore", UserWarning)
            importance = get_param_importances(
                made, evaluator=PedAnovaImportanceEvaluator(), target=lambda trial: trial.values[0]
            )
    return StudyResult(tuple(numbers), best.number, dict(importance))


def _searching(study: Study, trials: Sequence[StudyTrial]) -> optuna.Study:
    made = optuna.create_study(
        directions=[StudyDirection.MINIMIZE] * len(study.objectives), sampler=_sampler(study, len(trials))
    )
    distributions = {one.path: _distribution(one) for one in study.space}
    for trial in trials:
        made.add_trial(
            create_trial(
                state=_STATES[trial.state],
                values=list(trial.values) if trial.state is Ours.COMPLETE else None,
                params=dict(trial.parameters),
                distributions=distributions,
                # The estimator counts a pruned trial by how far it came; several objectives have no such order.
                intermediate_values=dict(trial.losses) if len(study.objectives) == 1 else {},
                system_attrs=dict(trial.memory.get(_SAMPLED, {})),
            )
        )
    return made


def _sampler(study: Study, asked: int) -> BaseSampler:
    # Another seed each time, and the same when the same question is asked again.
    seed = study.seed + asked
    match study.sampler:
        case Sampler.TPE:
            return TPESampler(seed=seed, multivariate=True, n_startup_trials=_STARTUP_TRIALS)
        case Sampler.RANDOM:
            return RandomSampler(seed=seed)
        case Sampler.NSGA2:
            return NSGAIISampler(seed=seed, population_size=min(50, max(4, study.budget.trials // 4)))


def _pruner(study: Study) -> BasePruner:
    match study.pruner:
        case Pruner.NONE:
            return NopPruner()
        case Pruner.MEDIAN:
            return MedianPruner(n_startup_trials=min(_STARTUP_TRIALS, max(1, study.budget.trials // 3)))
        case Pruner.SUCCESSIVE_HALVING:
            return SuccessiveHalvingPruner(min_resource=_FIRST_RUNG_PERCENT, reduction_factor=2)


def _distribution(one: Parameter) -> BaseDistribution:
    if one.choices:
        return CategoricalDistribution(one.choices)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)
