"""`evaluate`, `evals compare`, `evals power`, `suites`, `drift`: measuring versions, and reading what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group
from mainspring_client.cli.work import Run, evals, follow_eval, show_ended

if TYPE_CHECKING:
    from mainspring.evaluation.v1 import drift_pb2
    from mainspring.evaluation.v1 import run_pb2 as evaluation_pb2
    from mainspring_client.client import Mainspring

Monitor = Annotated[str, typer.Argument(help="Drift monitor id.")]

suites = group("How versions are measured.")
drift = group("Whether the released version still does what it did.")


def register(app: typer.Typer) -> None:
    """Adds what stands for itself, and the groups."""
    app.command()(evaluate)
    app.add_typer(suites, name="suites")
    app.add_typer(drift, name="drift")


def evaluate(
    candidate: Annotated[str, typer.Argument(help="Version to measure, for example summaries/3.")],
    suite: Annotated[str, typer.Option(help="Suite; default: the one with the model's id.")] = "",
    baseline: Annotated[str, typer.Option(help="Version to compare with; default: as the suite says.")] = "",
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Measures a version, follows the run, and prints what was found. Status 1 when it failed."""
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import EvaluationSuiteName, ModelVersionName

    version = expand(ModelVersionName, project, candidate, "candidate")
    other = expand(ModelVersionName, project, baseline, "baseline") if baseline else ""
    chosen = expand(EvaluationSuiteName, project, suite or ModelVersionName.parse(version).model, "suite")

    async def body(mainspring: Mainspring) -> evaluation_pb2.EvaluationRun:
        run = await mainspring.evaluation.start(chosen, version, other)
        return await follow_eval(mainspring, run.name, json_=json_)

    show_ended(with_client(data, body), json_=json_)


@evals.command()
def compare(
    first: Run,
    second: Run,
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 5,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Puts the candidates of two runs side by side, over the questions that both were asked."""
    from mainspring_client.cli.output import estimate_text, print_fields, print_json, print_table
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import EvaluationRunName

    names = [expand(EvaluationRunName, project, run, "run") for run in (first, second)]
    found = with_client(data, lambda mainspring: mainspring.evaluation.compare(names[0], names[1], pairs=limit))
    if json_:
        print_json(found)
        return
    print(f"{found.common_items} questions were asked by both runs")
    print_table(
        found.scorers,
        {
            "scorer": lambda s: s.scorer,
            "first": lambda s: f"{s.first_mean:.4g}",
            "second": lambda s: f"{s.second_mean:.4g}",
            "second - first": lambda s: estimate_text(s.difference),
            "p": lambda s: f"{s.p_value:.3g}",
            "higher / equal / lower": lambda s: f"{s.second_higher} / {s.equal} / {s.first_higher}",
        },
        "no scorer is in both",
    )
    for pair in found.pairs:
        print()
        given = pair.messages[-1].content[:600] if pair.messages else ""
        wanted = "\n".join(pair.references)
        print_fields({"given": given, "wanted": wanted, "first": pair.first_text, "second": pair.second_text})


@evals.command()
def power(
    run: Run,
    effect: Annotated[float, typer.Option(min=0.0, help="Difference to find; tells the items that it needs.")] = 0.0,
    items: Annotated[int, typer.Option(min=0, help="Items of the run to come; default: those of this run.")] = 0,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Tells what a run over so many items can find with a probability of 0.8, by the spread that a run measured."""
    from mainspring_client.cli.output import print_json, print_table
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import EvaluationRunName

    name = expand(EvaluationRunName, project, run, "run")
    found = with_client(data, lambda mainspring: mainspring.evaluation.sample_sizes(name, effect=effect, items=items))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "scorer": lambda s: s.scorer,
            "deviation of an item": lambda s: f"{s.standard_deviation:.4g}",
            "items": lambda s: s.items,
            "find a difference of": lambda s: f"{s.minimum_detectable_effect:.4g}",
            f"items for {effect:g}": lambda s: s.items_needed or "",
        },
        "nothing was compared",
    )


@suites.command("list")
def list_suites(project: Project = DEFAULT_PROJECT, limit: Limit = 50, data: Data = None, json_: Json = False) -> None:
    """Lists suites by name; 'mainspring apply' writes them."""
    from mainspring_client.cli.output import print_json, print_table, short
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.evaluation.suites(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "suite": lambda s: short(s.name),
            "version": lambda s: s.version,
            "model": lambda s: short(s.model),
            "scorers": lambda s: ", ".join(s.scorers),
            "items from": lambda s: ", ".join(source.task for source in s.sources) or short(s.dataset_version),
        },
        f"no suites in {project}; write an evaluation_suite with 'mainspring apply'",
    )


@suites.command("versions")
def suite_versions(
    suite: Annotated[str, typer.Argument(help="Suite id.")],
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 20,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Lists what a suite has said, newest first; with --json in full."""
    from mainspring_client.cli.output import print_json, print_table, when
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import EvaluationSuiteName

    name = expand(EvaluationSuiteName, project, suite, "suite")
    found = with_client(data, lambda mainspring: collect(mainspring.evaluation.suite_versions(name), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "version": lambda v: v.evaluation_suite.version,
            "sha256": lambda v: v.sha256[:12],
            "scorers": lambda v: ", ".join(v.evaluation_suite.scorers),
            "written": lambda v: when(v.create_time),
        },
        f"{suite} has no versions",
    )


@drift.command()
def watch(
    monitor: Monitor,
    model: Annotated[str, typer.Option(help="Model whose released version is watched.")],
    suite: Annotated[str, typer.Option(help="Suite that gives sampling, judges and scorers; default: MODEL.")] = "",
    every_hours: Annotated[float, typer.Option(min=0.02, max=8760, help="Time between two checks.")] = 24.0,
    questions: Annotated[int, typer.Option(min=20, max=2000, help="Questions of one check.")] = 100,
    alpha: Annotated[float, typer.Option(min=0.0001, max=0.2, help="Chance of a false alarm in a check.")] = 0.01,
    paused: Annotated[bool, typer.Option(help="Stop the checks.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Watches the released version of a model: asks it, on schedule, what people asked of late."""
    from mainspring.evaluation.v1 import drift_pb2
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import DriftMonitorName, EvaluationSuiteName, ModelName

    wish = drift_pb2.DriftMonitor(
        name=expand(DriftMonitorName, project, monitor, "monitor"),
        model=expand(ModelName, project, model, "model"),
        evaluation_suite=expand(EvaluationSuiteName, project, suite or model, "suite"),
        sample_items=questions,
        alpha=alpha,
        paused=paused,
    )
    wish.interval.FromSeconds(int(every_hours * 3600))
    written = with_client(data, lambda mainspring: mainspring.evaluation.put_drift_monitor(wish))
    if json_:
        print_json(written)
    else:
        print(f"{written.name} {'is paused' if paused else f'checks every {every_hours:g} h'}")


@drift.command()
def check(monitor: Monitor, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Asks for a check now; 'drift reports' shows what came of it."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import DriftMonitorName

    name = expand(DriftMonitorName, project, monitor, "monitor")
    found = with_client(data, lambda mainspring: mainspring.evaluation.check_drift(name))
    if json_:
        print_json(found)
    else:
        print(f"{found.name} will check now")


@drift.command()
def reports(
    monitor: Monitor, project: Project = DEFAULT_PROJECT, limit: Limit = 10, data: Data = None, json_: Json = False
) -> None:
    """Lists a monitor's reports, newest first. Status 1 is for errors; an alarm stands in the table."""
    from mainspring_client.cli.output import print_json, print_table, short, when
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import DriftMonitorName

    name = expand(DriftMonitorName, project, monitor, "monitor")
    found = with_client(data, lambda mainspring: collect(mainspring.evaluation.drift_reports(name), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "report": lambda r: r.name.rsplit("/", 1)[-1],
            "version": lambda r: short(r.model_version),
            "questions": lambda r: r.items,
            "found": _found,
            "made": lambda r: when(r.create_time),
        },
        f"{monitor} has no reports yet; a check needs 20 new questions",
    )


def _found(report: drift_pb2.DriftReport) -> str:
    if report.reference:
        return "what later checks are compared with"
    alarms = [
        f"{signal.signal} {signal.reference_mean:.3g} -> {signal.current_mean:.3g} (p {signal.adjusted_p_value:.2g})"
        for signal in report.signals
        if signal.alarm
    ]
    return f"ALARM: {', '.join(alarms)}" if alarms else "no loss"
