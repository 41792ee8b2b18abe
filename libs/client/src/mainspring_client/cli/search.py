"""`search`: studies of tuning settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

if TYPE_CHECKING:
    from mainspring.training.v1 import study_pb2
    from mainspring_client.client import Mainspring

StudyId = Annotated[str, typer.Argument(metavar="STUDY", help="Study id, or its whole name.")]

search = group("Searches for better settings of a tuning recipe.")


@search.command("run")
def run_search(
    recipe: Annotated[str, typer.Argument(help="Tuning recipe to vary.")],
    dataset_version: Annotated[str, typer.Argument(help="Data to learn from, as DATASET/VERSION or DATASET@TAG.")],
    vary: Annotated[
        list[str],
        typer.Option(help="PATH=LOW..HIGH, PATH=LOW..HIGH:log or PATH=A,B,C, as lora.rank=4,8,16; may be repeated."),
    ],
    trials: Annotated[int, typer.Option(min=1, max=1000, help="Most trials.")] = 20,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Trials at a time.")] = 1,
    cpu_s: Annotated[float, typer.Option(min=0, help="No trial begins after so much processor time, in seconds.")] = 0,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="validation_loss (the default), cpu_seconds, gpu_seconds or adapter_bytes; may be repeated."),
    ] = None,
    sampler: Annotated[str, typer.Option(help="tpe, random or nsga2.")] = "tpe",
    pruner: Annotated[str, typer.Option(help="none, median or successive_halving.")] = "median",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampler.")] = 0,
    register_best: Annotated[bool, typer.Option(help="Register the best trial as a model version.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Begin it and leave.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Begins a study and follows it until it has ended. Status 1 when it failed."""
    from mainspring.training.v1 import study_pb2
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.cli.versions import resolve
    from mainspring_client.resources import expand
    from mainspring_client.studies import parameter
    from mainspring_svckit.names import TuningRecipeName

    kinds = study_pb2.Study
    study = study_pb2.Study(
        tuning_recipe=expand(TuningRecipeName, project, recipe, "recipe"),
        space=[parameter(text) for text in vary],
        objectives=[
            _value(kinds.Objective.items(), "OBJECTIVE", one, "--objective") for one in objective or ["validation_loss"]
        ],
        sampler=_value(kinds.Sampler.items(), "SAMPLER", sampler, "--sampler"),
        pruner=_value(kinds.Pruner.items(), "PRUNER", pruner, "--pruner"),
        budget=study_pb2.StudyBudget(trials=trials, parallel_trials=parallel, cpu_s=cpu_s),
        seed=seed,
        register_best=register_best,
    )

    async def body(mainspring: Mainspring) -> study_pb2.Study:
        study.dataset_version = await resolve(mainspring, project, dataset_version)
        begun = await mainspring.studies.create(project, study)
        return begun if detach else await follow(mainspring, begun.name, json_=json_)

    found = with_client(data, body)
    if detach:
        if json_:
            print_json(found)
        else:
            print(found.name)
        return
    _tell_end(found, json_)


@search.command("list")
def list_searches(
    project: Project = DEFAULT_PROJECT, limit: Limit = 20, data: Data = None, json_: Json = False
) -> None:
    """Lists studies, newest first."""
    from mainspring_client.cli.output import print_json, print_table, progress_text, short, when
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.studies.list(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "study": lambda s: short(s.name),
            "recipe": lambda s: short(s.tuning_recipe),
            "data": lambda s: short(s.dataset_version),
            "state": progress_text,
            "varies": lambda s: ", ".join(one.path for one in s.space),
            "asked for": lambda s: when(s.create_time),
            "error": lambda s: s.error.message,
        },
        f"no studies in {project}",
    )


@search.command("show")
def show_search(study: StudyId, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Shows a study: its trials, the best of them, the Pareto front, and which settings matter."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client

    name = _name(project, study)

    async def body(mainspring: Mainspring) -> tuple[study_pb2.Study, list[study_pb2.StudyTrial]]:
        return await mainspring.studies.get(name), [trial async for trial in mainspring.studies.trials(name)]

    found, trials = with_client(data, body)
    if json_:
        print_json({"study": found, "study_trials": trials})
    else:
        show(found, trials)


@search.command("watch")
def watch_search(study: StudyId, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Follows a study until it has ended. Status 1 when it failed."""
    from mainspring_client.cli.run import with_client

    name = _name(project, study)
    _tell_end(with_client(data, lambda mainspring: follow(mainspring, name, json_=json_)), json_)


@search.command("cancel")
def cancel_search(study: StudyId, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Cancels a study that has not ended, and its open trials."""
    from mainspring_client.cli.output import print_json, state_of
    from mainspring_client.cli.run import with_client

    name = _name(project, study)
    cancelled = with_client(data, lambda mainspring: mainspring.studies.cancel(name))
    if json_:
        print_json(cancelled)
    else:
        print(f"{cancelled.name} is {state_of(cancelled)}")


async def follow(mainspring: Mainspring, name: str, *, json_: bool) -> study_pb2.Study:
    """Shows how a study goes on until it has ended; returns how it ended."""
    from mainspring.training.v1 import study_pb2
    from mainspring_client.cli.output import Ticker, print_json, progress_text

    newest = study_pb2.Study()
    with Ticker(quiet=json_) as ticker:
        ticker.keep(name)
        async for newest in mainspring.studies.watch(name):
            if json_:
                print_json(newest, indent=None)
            best = f", best is trial {newest.result.best_trial}" if newest.HasField("result") else ""
            ticker.tell(progress_text(newest) + best)
    return newest


def show(study: study_pb2.Study, trials: list[study_pb2.StudyTrial]) -> None:
    """Prints a study for people."""
    from mainspring_client.cli.output import enum_name, print_fields, print_table, progress_text, short, state_of

    result, objectives = study.result, study.DESCRIPTOR.enum_types_by_name["Objective"]
    names = [enum_name(objectives, number, "OBJECTIVE_") for number in study.objectives]
    front = set(result.pareto_trials)
    print_table(
        trials,
        {
            "trial": lambda t: f"{t.number}{'*' if t.number in front else ''}",
            "state": state_of,
            **{one.path: lambda t, path=one.path: _shown(t.parameters[path]) for one in study.space},
            **{name: lambda t, i=i: f"{t.values[i]:.5g}" if t.values else "" for i, name in enumerate(names)},
            "run": lambda t: short(t.training_run),
            "error": lambda t: t.error.message,
        },
        "no trial has begun",
    )
    fields: dict[str, object] = {"study": study.name, "state": progress_text(study)}
    if study.HasField("result"):
        fields["best trial"] = result.best_trial
        fields["importance"] = ", ".join(
            f"{path} {share:.0%}" for path, share in sorted(result.importance.items(), key=lambda item: -item[1])
        )
        fields["trials"] = (
            f"{result.complete_trials} complete, {result.pruned_trials} pruned, {result.failed_trials} failed;"
            f" {result.cpu_s:.0f} s of processor"
        )
    print_fields(fields)
    print("* no other trial is better in everything")


def _tell_end(study: study_pb2.Study, json_: bool) -> None:
    from mainspring_client.cli.work import require_success

    require_success(study, "study")
    if not json_:
        result = study.result
        print(
            f"trial {result.best_trial} of {study.name} is best; {result.pruned_trials} of"
            f" {study.budget.trials} were pruned; 'mainspring search show' tells more"
        )


def _value(items: Any, prefix: str, text: str, option: str) -> Any:
    """The number of an enum's value that is given without its prefix."""
    known = {name.removeprefix(f"{prefix}_").lower(): number for name, number in items if number}
    if text.lower() not in known:
        raise typer.BadParameter(f"there is no {text}; there are {', '.join(known)}", param_hint=option)
    return known[text.lower()]


def _name(project: str, study: str) -> str:
    from mainspring_client.resources import expand
    from mainspring_svckit.names import StudyName

    return expand(StudyName, project, study, "study")


def _shown(text: str) -> str:
    """A setting's value; of a long number what matters."""
    return f"{float(text):.4g}" if "." in text and '"' not in text else text
