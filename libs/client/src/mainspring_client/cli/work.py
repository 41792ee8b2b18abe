"""`runs` and `evals`: training and evaluation runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

if TYPE_CHECKING:
    from mainspring.evaluation.v1 import run_pb2 as evaluation_pb2
    from mainspring.training.v1 import run_pb2 as training_pb2
    from mainspring_client.client import Mainspring

Run = Annotated[str, typer.Argument(help="Run id, or its whole name.")]

runs = group("Training runs.")
evals = group("Evaluation runs.")


@runs.command("list")
def list_runs(project: Project = DEFAULT_PROJECT, limit: Limit = 20, data: Data = None, json_: Json = False) -> None:
    """Lists training runs, newest first."""
    from mainspring_client.cli.output import print_json, print_table, progress_text, short, when
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.training.runs(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "run": lambda r: short(r.name),
            "model": lambda r: short(r.model),
            "data": lambda r: short(r.dataset_version),
            "state": progress_text,
            "loss": lambda r: f"{r.latest_metric.train_loss:.4g}" if r.HasField("latest_metric") else "",
            "asked for": lambda r: when(r.create_time),
            "error": lambda r: r.error.message,
        },
        f"no training runs in {project}",
    )


@runs.command("watch")
def watch_run(run: Run, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Follows a training run until it has ended. Status 1 when it failed."""
    from mainspring.training.v1 import run_pb2
    from mainspring_client.cli.output import Ticker, print_json, progress_text
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import TrainingRunName

    name = expand(TrainingRunName, project, run, "run")

    async def body(mainspring: Mainspring) -> training_pb2.TrainingRun:
        newest = run_pb2.TrainingRun()
        with Ticker(quiet=json_) as ticker:
            async for update in mainspring.training.watch(name):
                newest = update.run
                if json_:
                    print_json({"training_run": newest, "metrics": update.metrics}, indent=None)
                for metric in update.metrics:
                    ticker.keep(metric_text(metric))
                ticker.tell(progress_text(newest))
        return newest

    ended = with_client(data, body)
    _require_success(ended, "training run")
    if not json_:
        result = ended.result
        print(
            f"succeeded after {result.steps} steps; validation loss {result.initial_validation_loss:.4g} ->"
            f" {result.best_validation_loss:.4g}"
        )


@runs.command("cancel")
def cancel_run(run: Run, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Cancels a training run that has not ended."""
    from mainspring_client.cli.output import print_json, state_of
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import TrainingRunName

    name = expand(TrainingRunName, project, run, "run")
    cancelled = with_client(data, lambda mainspring: mainspring.training.cancel(name))
    if json_:
        print_json(cancelled)
    else:
        print(f"{cancelled.name} is {state_of(cancelled)}")


def metric_text(metric: training_pb2.TrainingMetric) -> str:
    """A metric in one line."""
    text = f"step {metric.step}  loss {metric.train_loss:.4g}"
    if metric.HasField("validation_loss"):
        text += f"  validation {metric.validation_loss:.4g}"
    return f"{text}  {metric.tokens_per_second:.0f} tokens/s"


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
    from mainspring.evaluation.v1 import run_pb2
    from mainspring_client.cli.output import Ticker, estimate_text, print_json, print_table, progress_text
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import EvaluationRunName

    name = expand(EvaluationRunName, project, run, "run")

    async def body(mainspring: Mainspring) -> evaluation_pb2.EvaluationRun:
        newest = run_pb2.EvaluationRun()
        with Ticker(quiet=json_) as ticker:
            async for update in mainspring.evaluation.watch(name):
                newest = update
                if json_:
                    print_json(newest, indent=None)
                ticker.tell(progress_text(newest))
        return newest

    ended = with_client(data, body)
    _require_success(ended, "evaluation run")
    if not json_:
        print_table(
            ended.results,
            {
                "scorer": lambda r: r.scorer,
                "baseline": lambda r: estimate_text(r.baseline) if r.HasField("baseline") else "",
                "candidate": lambda r: estimate_text(r.candidate),
                "difference": lambda r: estimate_text(r.difference) if r.HasField("difference") else "",
            },
            "nothing was measured",
        )


@evals.command()
def items(
    run: Run, project: Project = DEFAULT_PROJECT, limit: Limit = 10, data: Data = None, json_: Json = False
) -> None:
    """Shows what both models said to each item."""
    from mainspring_client.cli.output import print_fields, print_json
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import EvaluationRunName

    name = expand(EvaluationRunName, project, run, "run")
    found = with_client(data, lambda mainspring: collect(mainspring.evaluation.items(name), limit))
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


def _require_success(run: Any, what: str) -> None:
    from mainspring_client.cli.output import state_of
    from mainspring_svckit.errors import PreconditionFailed
    from mainspring_svckit.status import error_info

    state = state_of(run)
    if state != "SUCCEEDED":
        reason = error_info(run.error).reason or f"{what.upper().replace(' ', '_')}_{state}"
        raise PreconditionFailed(reason, run.error.message or f"the {what} {run.name} is {state}")
