"""Searching: what a study may vary, how trials are chosen, pruned and summed up, and whole studies over replicas."""

import math
import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mainspring.events.v1.training_events_pb2 import TrainingRunCancelled, TrainingRunSucceeded
from mainspring.training.v1 import study_pb2 as pb
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.ids import new_id
from mainspring_testkit.contracts.states import assert_as_declared
from mainspring_testkit.events import EventTap
from mainspring_testkit.waiting import eventually
from mainspring_trainer.adapters.optuna_search import OptunaSearch
from mainspring_trainer.domain.recipes import Adaptation, LoraConfig, Method, TuningRecipe
from mainspring_trainer.domain.studies import (
    STUDY_STATES,
    TRIAL_STATES,
    Budget,
    Objective,
    Parameter,
    Pruner,
    Sampler,
    Study,
    StudyTrial,
    TrialState,
    hopeless,
)

from .replicas import RECIPE as RECIPE_NAME
from .replicas import Run, Trainer

RECIPE = TuningRecipe(
    name="projects/p/tuningRecipes/t",
    dataset="projects/p/datasets/d",
    base_model_version="projects/p/models/base/versions/1",
    model="projects/p/models/m",
    lora=LoraConfig(rank=8, alpha=32.0),
)
RATE = Parameter("optimization.learning_rate", 1e-5, 1e-1, log=True)
RANK = Parameter("lora.rank", 2, 64, whole=True, log=True)
STUDY = Study(
    name="projects/p/studies/s",
    recipe=RECIPE,
    dataset_version="projects/p/datasets/d/versions/1",
    space=(RATE, RANK),
    budget=Budget(20),
    create_time=datetime(2026, 1, 1, tzinfo=UTC),
)


def trial(number: int, **changes: Any) -> StudyTrial:
    parameters = {RATE.path: 1e-3, RANK.path: 8}
    return replace(
        StudyTrial(f"{STUDY.name}/trials/{number}", STUDY.name, number, parameters, f"run-{number}"), **changes
    )


def test_the_state_machines_are_as_the_contract_says() -> None:
    assert_as_declared(STUDY_STATES, "training/v1/study.proto", "Study")
    assert_as_declared(TRIAL_STATES, "training/v1/study.proto", "StudyTrial")


def test_a_trial_applies_its_settings_and_keeps_the_scale_of_the_adapter() -> None:
    applied = STUDY.recipe_with({RATE.path: 0.01, RANK.path: 4})
    assert (applied.optimization.learning_rate, applied.lora.rank, applied.lora.alpha) == (0.01, 4, 16.0)
    assert STUDY.recipe_with({RANK.path: 4, "lora.alpha": 2}).lora.alpha == 2
    assert STUDY.recipe_parameters() == {RATE.path: RECIPE.optimization.learning_rate, RANK.path: 8}
    assert replace(STUDY, space=(replace(RANK, low=16),)).recipe_parameters() is None


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (Parameter("optimization.none", 0, 1), "no setting"),
        (Parameter("optimization", 0, 1), "no setting"),
        (Parameter("base_model_version", choices=("a", "b")), "no setting"),
        (Parameter("lora.rank.real", 0, 1), "no setting"),
        (Parameter("lora.rank", 1, 8), "int_range"),
        (Parameter("lora.rank", 8, 8, whole=True), "below"),
        (Parameter("lora.dropout", 0, 1, log=True), "above 0"),
        (Parameter("lora.rank", choices=(4, "eight")), "cannot be"),
        (Parameter("adaptation", choices=("LORA", "FULL")), "cannot be"),
        (RATE, "twice"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(parameter: Parameter, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        replace(STUDY, space=(RATE, parameter)).check()
    assert caught.value.reason == "SEARCH_SPACE_UNUSABLE"


@pytest.mark.parametrize(
    "changes",
    [
        {"adaptation": Adaptation.FULL},
        {"method": Method.PRETRAINING, "adaptation": Adaptation.FULL},
        {"method": Method.EMBEDDING, "adaptation": Adaptation.FULL},
    ],
)
def test_bytes_of_an_adapter_are_no_objective_where_none_is_made(changes: dict[str, Any]) -> None:
    both = replace(STUDY, space=(RATE,), objectives=(Objective.VALIDATION_LOSS, Objective.ADAPTER_BYTES))
    both.check()
    whole = replace(both, recipe=replace(RECIPE, **changes))
    with pytest.raises(InvalidInput, match="whole models without an adapter") as caught:
        whole.check()
    assert caught.value.reason == "SEARCH_SPACE_UNUSABLE"
    assert [violation.field for violation in caught.value.violations] == ["study.objectives"]
    replace(whole, objectives=(Objective.VALIDATION_LOSS, Objective.CPU_SECONDS)).check()


def test_a_budget_of_trials_of_places_and_of_time() -> None:
    assert STUDY.wants_more([])
    assert not STUDY.wants_more([trial(0)])
    done = [trial(n, state=TrialState.COMPLETE, values=(1.0,), cpu_s=50) for n in range(19)]
    assert STUDY.wants_more(done)
    assert not STUDY.wants_more([*done, trial(19, state=TrialState.FAILED)])
    assert not replace(STUDY, budget=Budget(100, cpu_s=900)).wants_more(done)
    failed = [trial(n, state=TrialState.FAILED, error_reason="DIVERGED") for n in range(3)]
    assert (hopeless(failed[:2]), hopeless(failed), hopeless([*done, *failed])) == (None, failed[2], None)
    assert hopeless([*failed, trial(3)]) == failed[2], "one that runs yet says nothing for the others"


def loss_of(rate: float, rank: int) -> float:
    """Lowest at a rate of 1e-3; the rank hardly matters."""
    return abs(math.log10(rate) + 3) + 0.01 / rank


async def searched(study: Study, seed: int) -> list[StudyTrial]:
    search, trials = OptunaSearch(), list[StudyTrial]()
    study = replace(study, seed=seed)
    for number in range(study.budget.trials):
        parameters, memory = await search.ask(study, trials, None)
        rate, rank = float(parameters[RATE.path]), int(parameters[RANK.path])
        values = (loss_of(rate, rank), float(rank))[: len(study.objectives)]
        trials.append(trial(number, parameters=parameters, memory=memory, state=TrialState.COMPLETE, values=values))
    return trials


async def test_the_estimator_finds_more_than_chance() -> None:
    best = {
        sampler: [
            min(t.values[0] for t in await searched(replace(STUDY, sampler=sampler, budget=Budget(30)), seed))
            for seed in range(6)
        ]
        for sampler in (Sampler.TPE, Sampler.RANDOM)
    }
    assert sum(best[Sampler.TPE]) < 0.7 * sum(best[Sampler.RANDOM])


async def test_the_same_question_has_the_same_answer_whichever_replica_is_asked() -> None:
    first, second = await searched(STUDY, 7), await searched(STUDY, 7)
    assert [t.parameters for t in first] == [t.parameters for t in second]


@pytest.mark.parametrize("sampler", [Sampler.TPE, Sampler.NSGA2])
async def test_several_objectives_have_a_front_and_the_settings_their_importance(sampler: Sampler) -> None:
    study = replace(
        STUDY, sampler=sampler, budget=Budget(24), objectives=(Objective.VALIDATION_LOSS, Objective.ADAPTER_BYTES)
    )
    trials = await searched(study, 1)
    result = await OptunaSearch().result(study, trials)
    assert result is not None
    front = [trials[number].values for number in result.pareto_trials]
    assert front == sorted(front)
    for values in front:
        assert not any(
            all(o <= v for o, v in zip(t.values, values, strict=True)) and t.values != values for t in trials
        )
    assert result.best_trial == result.pareto_trials[0]
    assert sum(result.importance.values()) == pytest.approx(1)
    assert result.importance[RATE.path] > result.importance[RANK.path]


async def test_given_settings_are_tried_as_they_are() -> None:
    given = {RATE.path: 3e-4, RANK.path: 16}
    assert (await OptunaSearch().ask(STUDY, [], given))[0] == given


@pytest.mark.parametrize("pruner", [Pruner.MEDIAN, Pruner.SUCCESSIVE_HALVING])
async def test_what_others_leave_behind_is_pruned_and_what_leads_is_not(pruner: Pruner) -> None:
    study = replace(STUDY, pruner=pruner)
    noise = random.Random(0)
    done = [
        trial(
            n,
            state=TrialState.COMPLETE,
            values=(1.0,),
            losses={p: 2 - p / 100 + noise.random() / 10 for p in (20, 40, 80)},
        )
        for n in range(6)
    ]
    search = OptunaSearch()
    # Halving learns of the others' rungs as they climb them.
    for number in range(6):
        climbing = replace(done[number], state=TrialState.RUNNING)
        judged = await search.judge(study, [*done[:number], climbing, *done[number + 1 :]], climbing)
        done[number] = replace(done[number], memory=judged.memory)
    for losses, state in (({20: 9.0}, TrialState.PRUNED), ({20: 0.5, 40: 0.4}, TrialState.RUNNING)):
        running = trial(6, losses=losses)
        assert (await search.judge(study, [*done, running], running)).state is state


async def asked(trainer: Trainer, **changes: Any) -> pb.Study:
    fields: dict[str, Any] = {
        "tuning_recipe": RECIPE_NAME,
        "dataset_version": (await trainer.dataset()).dataset_version,
        "space": [
            pb.SearchParameter(path=RATE.path, double_range=pb.DoubleRange(low=1e-4, high=1e-1, log=True)),
            pb.SearchParameter(path=RANK.path, choices=pb.Choices(values=["4", "8"])),
        ],
        "budget": pb.StudyBudget(trials=8, parallel_trials=2),
        **changes,
    }
    answer = await trainer.search("CreateStudy", parent="projects/p", study=pb.Study(**fields), request_id=new_id())
    return answer.study


async def finished(trainer: Trainer, name: str) -> pb.Study:
    async def over() -> pb.Study | None:
        study = (await trainer.search("GetStudy", name=name)).study
        return study if study.state != pb.Study.STATE_RUNNING else None

    found = await eventually(over, within_s=120, what="the study to end")
    assert found is not None
    return found


async def test_a_study_shares_its_trials_among_replicas_and_registers_the_best(
    trainer: Trainer, event_tap: EventTap
) -> None:
    await trainer.start(2)
    await trainer.recipe(steps=20)
    study = await asked(trainer, register_best=True)
    assert (study.state, study.progress.total) == (pb.Study.STATE_RUNNING, 8)
    ended = await finished(trainer, study.name)
    assert ended.state == pb.Study.STATE_SUCCEEDED, ended.error.message
    trials = (await trainer.search("ListStudyTrials", parent=study.name)).study_trials
    assert [t.number for t in trials] == list(range(8))
    assert trials[0].parameters[RATE.path] == "0.02"  # The recipe's own, to compare with.
    counts = ended.result.complete_trials, ended.result.pruned_trials, ended.result.failed_trials
    assert (sum(counts), counts[2], ended.progress.done) == (8, 0, 8)
    best = trials[ended.result.best_trial]
    assert best.values[0] == min(t.values[0] for t in trials if t.state == pb.StudyTrial.STATE_COMPLETE)
    (event,) = await event_tap.wait_for(TrainingRunSucceeded)
    assert event.training_run == best.training_run
    assert not [e for e in event_tap.events if isinstance(e.data, TrainingRunCancelled)]
    runs = (await trainer.call("ListTrainingRuns", parent="projects/p")).training_runs
    assert {run.name for run in runs} == {t.training_run for t in trials}
    assert {run.study for run in runs} == {study.name}


async def test_f1_f2_a_study_whose_replica_is_killed_goes_on_and_no_trial_is_lost_or_twice(trainer: Trainer) -> None:
    await trainer.start(2)
    await trainer.recipe(steps=20)
    (trainer.folder / "wait-at").write_text("10")
    wanted = [pb.Study.OBJECTIVE_VALIDATION_LOSS, pb.Study.OBJECTIVE_CPU_SECONDS, pb.Study.OBJECTIVE_GPU_SECONDS]
    budget = pb.StudyBudget(trials=5, parallel_trials=2)
    study = await asked(trainer, pruner=pb.Study.PRUNER_NONE, budget=budget, objectives=wanted)
    await trainer.reached(10)
    killed = trainer.replicas.pop(0)
    await killed.kill()
    (trainer.folder / "wait-at").unlink()
    await trainer.start(1)
    ended = await finished(trainer, study.name)
    assert (ended.state, ended.result.complete_trials) == (pb.Study.STATE_SUCCEEDED, 5)
    trials = (await trainer.search("ListStudyTrials", parent=study.name)).study_trials
    assert [t.number for t in trials] == list(range(5))
    runs = (await trainer.call("ListTrainingRuns", parent="projects/p")).training_runs
    used = {run.name: run.usage for run in runs}
    assert sorted(used) == sorted(t.training_run for t in trials)
    for t in trials:
        assert list(t.values[1:]) == [used[t.training_run].cpu_s, used[t.training_run].gpu_s]


async def test_a_cancelled_study_ends_its_runs(trainer: Trainer) -> None:
    await trainer.start(1)
    await trainer.recipe(steps=20)
    (trainer.folder / "wait-at").write_text("3")
    study = await asked(trainer, budget=pb.StudyBudget(trials=8))
    await trainer.reached(3)
    cancelled = (await trainer.search("CancelStudy", name=study.name)).study
    assert cancelled.state == pb.Study.STATE_CANCELLED

    async def over() -> bool:
        runs = (await trainer.call("ListTrainingRuns", parent="projects/p")).training_runs
        return {run.state for run in runs} == {Run.STATE_CANCELLED}

    await eventually(over, what="the runs to be cancelled")
    with pytest.raises(PreconditionFailed):
        await trainer.search("CancelStudy", name=study.name)


async def test_a_study_whose_trials_all_fail_says_why(trainer: Trainer) -> None:
    await trainer.start(1)
    await trainer.recipe(base_model_version="projects/p/models/none/versions/1")
    ended = await finished(trainer, (await asked(trainer)).name)
    assert ended.state == pb.Study.STATE_FAILED
    assert "models/none" in ended.error.message
    assert 3 <= len((await trainer.search("ListStudyTrials", parent=ended.name)).study_trials) < 8


async def test_a_study_that_breaks_the_rules_of_recipes_is_refused(trainer: Trainer) -> None:
    await trainer.start(1)
    await trainer.recipe()
    for space, words in (
        ([pb.SearchParameter(path="lora.rank", int_range=pb.IntRange(low=1, high=9999))], "256"),
        ([pb.SearchParameter(path="lora.rank", choices=pb.Choices(values=["4", "{}"]))], "JSON"),
        ([], "space"),
    ):
        with pytest.raises(InvalidInput) as caught:
            await asked(trainer, space=space)
        assert words in str(caught.value.violations)
