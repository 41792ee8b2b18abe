"""`evals`: evaluation runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

if TYPE_CHECKING:
    from mainspring.evaluation.v1 import run_pb2 as evaluation_pb2
    from mainspring_client.client import Mainspring

Run = Annotated[str, typer.Argument(help="Run id, or its whole name.")]

evals = group("Evaluation runs.")


@evals.command("list")
def list_evals(project: Project = DEFAULT_PROJECT, limit: Limit = 20, data: Data = None, json_: Json = False) -> None:
    """Lists evaluation runs, newest first."""
    from mainspring_client.cli.output import print_json, print_table, progress_text, short, when
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.evaluation.runs(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "run": lambda r: short(r.name),
            "candidate": lambda r: short(r.candidate),
            "baseline": lambda r: short(r.baseline),
            "state": progress_text,
            "items": lambda r: r.items or "",
            "asked for": lambda r: when(r.create_time),
            "error": lambda r: r.error.message,
        },
        f"no evaluation runs in {project}",
    )


@evals.command("watch")
def watch_eval(run: Run, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Follows an evaluation run until it has ended, and prints what was measured. Status 1 when it failed."""
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import EvaluationRunName

    name = expand(EvaluationRunName, project, run, "run")

    show_ended(with_client(data, lambda mainspring: follow_eval(mainspring, name, json_=json_)), json_=json_)


async def follow_eval(mainspring: Mainspring, name: str, *, json_: bool) -> evaluation_pb2.EvaluationRun:
    """Follows an evaluation run until it has ended, telling how far it has come."""
    from mainspring.evaluation.v1 import run_pb2
    from mainspring_client.cli.output import Ticker, print_json, progress_text

    newest = run_pb2.EvaluationRun()
    with Ticker(quiet=json_) as ticker:
        async for update in mainspring.evaluation.watch(name):
            newest = update
            if json_:
                print_json(newest, indent=None)
            ticker.tell(progress_text(newest))
    return newest


def show_ended(run: evaluation_pb2.EvaluationRun, *, json_: bool) -> None:
    """Prints what a run measured; raises when it failed."""
    from mainspring_client.cli.output import estimate_text, print_table

    require_success(run, "evaluation run")
    if json_:
        return
    print_table(
        run.results,
        {
            "scorer": lambda r: f"{r.scorer} (less is better)" if r.lower_is_better else r.scorer,
            "baseline": lambda r: estimate_text(r.baseline) if r.HasField("baseline") else "",
            "candidate": lambda r: estimate_text(r.candidate),
            "difference": lambda r: estimate_text(r.difference) if r.HasField("difference") else "",
            "p (Holm)": lambda r: f"{r.adjusted_p_value:.3g}" if r.test else "",
            "could find": lambda r: f"{r.minimum_detectable_effect:.3g}" if r.minimum_detectable_effect else "",
        },
        "nothing was measured",
    )
    for failure in run.scorer_failures:
        print(f"{failure.scorer} has no result: {failure.reason}: {failure.message}")
    for judge in run.judges:
        print(f"judge {judge.judge} {'has a vote' if judge.has_vote else 'has no vote'}: {judge.explanation}")
    slices = [(result.scorer, part) for result in run.results for part in result.slices]
    if slices:
        print()
        print_table(
            slices,
            {
                "scorer": lambda s: s[0],
                "slice": lambda s: s[1].slice,
                "items": lambda s: s[1].items,
                "candidate": lambda s: "too few items" if s[1].too_few_items else estimate_text(s[1].candidate),
                "difference": lambda s: estimate_text(s[1].difference) if s[1].HasField("difference") else "",
            },
            "",
        )


@evals.command()
def items(
    run: Run,
    part: Annotated[str, typer.Option("--slice", help="Only of this slice, or of a source (task:ID).")] = "",
    contains: Annotated[str, typer.Option(help="Only with this text in question, answers or references.")] = "",
    scorer: Annotated[str, typer.Option(help="Scorer that --outcome is about.")] = "",
    outcome: Annotated[str, typer.Option(help="Only where the candidate scores higher, lower or equal.")] = "",
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 10,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Shows what both models said to each item."""
    from mainspring_client.cli.output import print_fields, print_json
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import EvaluationRunName

    name = expand(EvaluationRunName, project, run, "run")
    if outcome not in {"", "higher", "lower", "equal"}:
        raise typer.BadParameter("must be higher, lower or equal", param_hint="--outcome")
    found = with_client(
        data,
        lambda mainspring: collect(
            mainspring.evaluation.items(name, part=part, contains=contains, scorer=scorer, outcome=outcome), limit
        ),
    )
    if json_:
        print_json(found)
        return
    for item in found:
        print_fields(
            {
                "item": item.index,
                "given": item.messages[-1].content[:600] if item.messages else "",
                "wanted": "\n".join(item.references),
                "baseline": f"{item.baseline_text}\n{_scores(item.baseline_scores)}",
                "candidate": f"{item.candidate_text}\n{_scores(item.candidate_scores)}",
            }
        )
        print()


def _scores(scores: Any) -> str:
    return "  ".join(f"{scorer} {score:.3g}" for scorer, score in sorted(scores.items()))


def require_success(run: Any, what: str) -> None:
    """Raises `PreconditionFailed` with the run's own reason unless it has succeeded."""
    from mainspring_client.cli.output import state_of
    from mainspring_svckit.errors import PreconditionFailed
    from mainspring_svckit.status import error_info

    state = state_of(run)
    if state != "SUCCEEDED":
        reason = error_info(run.error).reason or f"{what.upper().replace(' ', '_')}_{state}"
        raise PreconditionFailed(reason, run.error.message or f"the {what} {run.name} is {state}")
