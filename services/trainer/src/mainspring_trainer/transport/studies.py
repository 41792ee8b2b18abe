"""Between studies and the contract's messages; pure functions."""

from __future__ import annotations

import json
from datetime import datetime

from mainspring.training.v1 import study_pb2 as pb
from mainspring_svckit.errors import FieldViolation, InvalidInput
from mainspring_svckit.mapping import failure_to_proto, progress_to_proto, time_to_proto
from mainspring_svckit.validation import validate
from mainspring_svckit.values import Progress
from mainspring_trainer.domain.recipes import TuningRecipe
from mainspring_trainer.domain.studies import (
    Budget,
    Objective,
    Parameter,
    Pruner,
    Sampler,
    Setting,
    Study,
    StudyResult,
    StudyTrial,
    TrialState,
)
from mainspring_trainer.transport.recipes import applied_recipe_to_proto


def study_from_proto(message: pb.Study, name: str, now: datetime) -> Study:
    """Reads a study that is asked for; its recipe is looked up by the use case.

    Raises:
        InvalidInput: A choice is no JSON.
    """
    sampler = pb.Study.Sampler.Name(message.sampler).removeprefix("SAMPLER_")
    pruner = pb.Study.Pruner.Name(message.pruner).removeprefix("PRUNER_")
    objectives = [Objective(pb.Study.Objective.Name(o).removeprefix("OBJECTIVE_")) for o in message.objectives]
    return Study(
        name=name,
        recipe=TuningRecipe(message.tuning_recipe, "", "", ""),
        dataset_version=message.dataset_version,
        space=tuple(_parameter(one, index) for index, one in enumerate(message.space)),
        budget=Budget(message.budget.trials, message.budget.parallel_trials or 1, message.budget.cpu_s),
        create_time=now,
        objectives=tuple(objectives) or (Objective.VALIDATION_LOSS,),
        sampler=Sampler(sampler) if message.sampler else Sampler.TPE,
        pruner=Pruner(pruner) if message.pruner else Pruner.MEDIAN,
        seed=message.seed,
        recipe_trial=not message.without_recipe_trial,
        register_best=message.register_best,
        priority=message.priority,
    )


def check_recipes(study: Study) -> None:
    """Raises `InvalidInput` when an end of a range, or a choice, breaks the rules of the recipe's contract."""
    for index, one in enumerate(study.space):
        for value in one.ends:
            try:
                validate(applied_recipe_to_proto(study.recipe_with({one.path: value})))
            except InvalidInput as err:
                description = f"with {value!r} there: {err.message}"
                violation = FieldViolation(f"study.space[{index}]", description)
                message = f"study.space[{index}] {description}"
                raise InvalidInput(message, reason="SEARCH_SPACE_UNUSABLE", violations=[violation]) from err


def study_to_proto(study: Study) -> pb.Study:
    """Prints a study."""
    ended = sum(count for state, count in study.ended_trials.items() if state != TrialState.RUNNING)
    message = pb.Study(
        name=study.name,
        tuning_recipe=study.recipe.name,
        dataset_version=study.dataset_version,
        space=[_parameter_to_proto(one) for one in study.space],
        objectives=[pb.Study.Objective.Value(f"OBJECTIVE_{one.value}") for one in study.objectives],
        sampler=pb.Study.Sampler.Value(f"SAMPLER_{study.sampler.value}"),
        pruner=pb.Study.Pruner.Value(f"PRUNER_{study.pruner.value}"),
        budget=pb.StudyBudget(
            trials=study.budget.trials, parallel_trials=study.budget.parallel_trials, cpu_s=study.budget.cpu_s
        ),
        seed=study.seed,
        without_recipe_trial=not study.recipe_trial,
        register_best=study.register_best,
        priority=study.priority,
        state=pb.Study.State.Value(f"STATE_{study.state.value}"),
        progress=progress_to_proto(Progress(ended, study.budget.trials, "trials")),
        error=failure_to_proto(study.error_reason, study.error_message),
        create_time=time_to_proto(study.create_time),
        end_time=time_to_proto(study.end_time),
    )
    if study.result is not None:
        message.result.CopyFrom(_result_to_proto(study, study.result))
    return message


def trial_to_proto(trial: StudyTrial) -> pb.StudyTrial:
    """Prints a trial."""
    return pb.StudyTrial(
        name=trial.name,
        number=trial.number,
        state=pb.StudyTrial.State.Value(f"STATE_{trial.state.value}"),
        parameters={path: json.dumps(value) for path, value in trial.parameters.items()},
        values=trial.values,
        training_run=trial.run,
        validation_loss=trial.losses[max(trial.losses)] if trial.losses else None,
        error=failure_to_proto(trial.error_reason, trial.error_message),
    )


def _result_to_proto(study: Study, result: StudyResult) -> pb.StudyResult:
    return pb.StudyResult(
        pareto_trials=result.pareto_trials,
        best_trial=result.best_trial,
        importance=dict(result.importance),
        complete_trials=study.ended_trials.get(TrialState.COMPLETE, 0),
        pruned_trials=study.ended_trials.get(TrialState.PRUNED, 0),
        failed_trials=study.ended_trials.get(TrialState.FAILED, 0),
        cpu_s=study.cpu_s,
    )


def _parameter(message: pb.SearchParameter, index: int) -> Parameter:
    match message.WhichOneof("domain"):
        case "double_range":
            wide = message.double_range
            return Parameter(message.path, wide.low, wide.high, log=wide.log)
        case "int_range":
            whole = message.int_range
            return Parameter(message.path, whole.low, whole.high, whole=True, log=whole.log)
        case _:
            return Parameter(message.path, choices=tuple(_choice(text, index) for text in message.choices.values))


def _choice(text: str, index: int) -> Setting:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, float | int | str | bool):
        field = f"study.space[{index}].choices"
        description = f"{text!r} is no number, text or truth value as JSON"
        raise InvalidInput(
            f"{field} {description}",
            reason="SEARCH_SPACE_UNUSABLE",
            violations=[FieldViolation(field, description)],
        )
    return value


def _parameter_to_proto(one: Parameter) -> pb.SearchParameter:
    if one.choices:
        choices = pb.Choices(values=[json.dumps(choice) for choice in one.choices])
        return pb.SearchParameter(path=one.path, choices=choices)
    if one.whole:
        whole = pb.IntRange(low=int(one.low), high=int(one.high), log=one.log)
        return pb.SearchParameter(path=one.path, int_range=whole)
    return pb.SearchParameter(path=one.path, double_range=pb.DoubleRange(low=one.low, high=one.high, log=one.log))
