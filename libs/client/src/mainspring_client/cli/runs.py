"""`runs`: training runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group
from mainspring_client.cli.train import From

if TYPE_CHECKING:
    from mainspring.training.v1 import run_pb2, tracking_pb2, training_service_pb2
    from mainspring_client.client import Mainspring

Run = Annotated[str, typer.Argument(help="Run id, or its whole name.")]
Several = Annotated[list[str], typer.Argument(help="Run ids, or their whole names.")]
Series = Annotated[
    list[str] | None,
    typer.Option(
        "--series",
        help="Curve to show, as memory_bytes; may be repeated [default: the losses, and what the method measures].",
    ),
]

runs = group("Training runs.")


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
            "priority": lambda r: r.priority or "",
            "asked for": lambda r: when(r.create_time),
            "signals": lambda r: ", ".join(sorted({signal.name for signal in r.signals})),
            "error": lambda r: r.error.message,
        },
        f"no training runs in {project}",
    )


@runs.command("start")
def start_run(
    recipe: Annotated[str, typer.Argument(help="Tuning recipe that is applied as it stands.")],
    dataset: Annotated[
        str,
        typer.Argument(
            help="DATASET, whose newest version is learned, DATASET/VERSION or DATASET@TAG [default: the recipe's].",
            show_default=False,
        ),
    ] = "",
    from_: From = "",
    detach: Annotated[bool, typer.Option("--detach", help="Print the run's name and do not wait.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Begins a run of a recipe that is there, and follows it until it has ended. Status 1 when it failed."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import TuningRecipeName

    named = expand(TuningRecipeName, project, recipe, "recipe")

    async def body(mainspring: Mainspring) -> run_pb2.TrainingRun:
        started = await start(mainspring, named, dataset, begin_with=from_)
        return started if detach else await follow_named(mainspring, started.name, json_=json_)

    ended = with_client(data, body)
    if not detach:
        tell_end(ended, json_=json_)
    elif json_:
        print_json(ended)
    else:
        print(ended.name)


async def start(mainspring: Mainspring, recipe: str, dataset: str, *, begin_with: str = "") -> run_pb2.TrainingRun:
    """Asks for a run of a recipe as it stands.

    Args:
        mainspring: Where.
        recipe: The recipe's name.
        dataset: The dataset version as people name it; empty for the newest of the recipe's dataset.
        begin_with: The version whose adapter the run begins with, as people name it; empty for what the recipe says.

    Raises:
        NotFound: The recipe, the dataset or that version is not there, or the dataset has no version yet.
    """
    from mainspring_client.cli.train import named_version, newest_version
    from mainspring_svckit.names import DatasetName, TuningRecipeName

    if not dataset:
        dataset = DatasetName.parse((await mainspring.training.recipe(recipe)).dataset).dataset
    project = TuningRecipeName.parse(recipe).project
    learned = await newest_version(mainspring, project, dataset)
    parent = (await named_version(mainspring, project, begin_with)).name if begin_with else ""
    return await mainspring.training.start(recipe, learned, parent_model_version=parent)


@runs.command("show")
def show_run(run: Run, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Shows a training run: what it made, what it used, what it is made from, and its curves."""
    from mainspring_client.cli.curves import curve_text
    from mainspring_client.cli.output import print_fields, print_json, print_table, progress_text, short
    from mainspring_client.cli.run import with_client

    name = run_name(project, run)
    page = with_client(data, lambda mainspring: mainspring.training.page(name))
    if json_:
        print_json(page)
        return
    shown, usage, made_from = page.training_run, page.training_run.usage, page.training_run.fingerprint
    fields: dict[str, object] = {
        "run": shown.name,
        "state": progress_text(shown),
        "model": short(shown.model),
        "recipe": short(shown.tuning_recipe),
        "data": short(shown.dataset_version),
        "tries": shown.attempt,
    }
    if shown.parent_model_version:
        fields["begun with"] = short(shown.parent_model_version)
    if shown.HasField("result"):
        result = shown.result
        fields["validation loss"] = f"{result.initial_validation_loss:.4g} -> {result.best_validation_loss:.4g}"
    if shown.error.message:
        fields["error"] = shown.error.message
    fields["used"] = usage_text(usage)
    digests = ("code", "data", "model", "environment")
    fields["made from"] = ", ".join(
        f"{what} {digest[:12]}" for what in digests if (digest := getattr(made_from, f"{what}_sha256"))
    )
    fields["versions"] = ", ".join(f"{key} {value}" for key, value in sorted(made_from.versions.items()))
    print_fields({key: value for key, value in fields.items() if value})
    for signal in shown.signals:
        print(f"signal at step {signal.step}: {signal.name}: {signal.message}")
    print_table(
        page.curves,
        {
            "curve": lambda c: c.series,
            "first": lambda c: f"{c.points[0].value:.4g}",
            "last": lambda c: f"{c.points[-1].value:.4g}",
            "": lambda c: curve_text([point.value for point in c.points]),
        },
        "nothing was measured yet",
    )


@runs.command("watch")
def watch_run(run: Run, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Follows a training run until it has ended. Status 1 when it failed."""
    from mainspring_client.cli.run import with_client

    name = run_name(project, run)
    ended = with_client(data, lambda mainspring: follow(mainspring, name, json_=json_))
    tell_end(ended, json_=json_)


async def follow_named(mainspring: Mainspring, name: str, *, json_: bool) -> run_pb2.TrainingRun:
    """Says which run it is, and follows it."""
    if not json_:
        typer.echo(f"run {name}", err=True)
    return await follow(mainspring, name, json_=json_)


async def follow(mainspring: Mainspring, name: str, *, json_: bool) -> run_pb2.TrainingRun:
    """Shows how a run goes on until it has ended; returns how it ended."""
    from mainspring.training.v1 import run_pb2
    from mainspring_client.cli.output import Ticker, print_json, progress_text

    newest, told = run_pb2.TrainingRun(), 0
    with Ticker(quiet=json_) as ticker:
        async for update in mainspring.training.watch(name):
            newest = update.run
            if json_:
                print_json({"training_run": newest, "metrics": update.metrics}, indent=None)
            for metric in update.metrics:
                ticker.keep(metric_text(metric))
            for signal in newest.signals[told:]:
                ticker.keep(f"step {signal.step}  {signal.name}: {signal.message}")
            told = len(newest.signals)
            ticker.tell(progress_text(newest) + (", pausing" if newest.pausing else ""))
    return newest


def tell_end(ended: run_pb2.TrainingRun, *, json_: bool) -> None:
    """Prints what a run that has succeeded has reached; raises `PreconditionFailed` for any other."""
    from mainspring_client.cli.work import require_success

    require_success(ended, "training run")
    if not json_:
        result = ended.result
        print(
            f"succeeded after {result.steps} steps; validation loss {result.initial_validation_loss:.4g} ->"
            f" {result.best_validation_loss:.4g}"
        )


@runs.command("compare")
def compare_runs(
    run: Several,
    project: Project = DEFAULT_PROJECT,
    png: Annotated[Path | None, typer.Option("--png", help="Draw the curves into this file.")] = None,
    series: Series = None,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Lays runs beside each other: settings in which they differ, what they reached and used, and their curves."""
    from mainspring_client.cli.curves import LOSSES, draw, measures_of
    from mainspring_client.cli.output import print_json, print_table, progress_text, short
    from mainspring_client.cli.run import with_client

    names = [run_name(project, one) for one in run]
    found = with_client(data, lambda mainspring: mainspring.training.compare(project, names))
    measures = measures_of(found.curves)
    if png is not None:
        draw(png, list(found.curves), series or [*LOSSES, *measures])
    if json_:
        print_json(found)
        return
    rows: list[tuple[str, list[object]]] = [
        ("state", [progress_text(r) for r in found.training_runs]),
        ("best validation loss", [f"{r.result.best_validation_loss:.4g}" for r in found.training_runs]),
        ("processor seconds", [f"{r.usage.cpu_s:.0f}" for r in found.training_runs]),
        ("peak MiB", [f"{r.usage.peak_memory_bytes / 2**20:.0f}" for r in found.training_runs]),
        *((f"last {measure}", last_values(found, measure)) for measure in measures),
        *((difference.path, list(difference.values)) for difference in found.differences),
    ]
    columns: dict[str, Callable[[Any], object]] = {"": lambda row: row[0]}
    for number, one in enumerate(found.training_runs):
        columns[short(one.name)] = lambda row, number=number: row[1][number]
    print_table(rows, columns, "nothing to compare")
    if png is not None:
        print(f"curves are in {png}")


@runs.command("plot")
def plot_run(
    run: Run,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to draw into, a PNG.")] = Path("run.png"),
    series: Series = None,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
) -> None:
    """Draws a training run's curves as a PNG."""
    from mainspring_client.cli.curves import LOSSES, draw, measures_of
    from mainspring_client.cli.run import with_client

    name = run_name(project, run)
    page = with_client(data, lambda mainspring: mainspring.training.page(name))
    draw(out, list(page.curves), series or [*LOSSES, *measures_of(page.curves)])
    print(out)


@runs.command("estimate")
def estimate_run(
    recipe: Annotated[str, typer.Argument(help="Tuning recipe that would be applied.")],
    dataset_version: Annotated[
        str, typer.Argument(help="Data that would be learned from, as DATASET/VERSION or DATASET@TAG.")
    ],
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Says what a training run would take, by what the newest like it took."""
    from mainspring_client.cli.output import print_fields, print_json, short
    from mainspring_client.cli.run import with_client
    from mainspring_client.cli.versions import resolve
    from mainspring_client.resources import expand
    from mainspring_svckit.names import TuningRecipeName

    named = expand(TuningRecipeName, project, recipe, "recipe")

    async def body(mainspring: Mainspring) -> training_service_pb2.EstimateTrainingRunResponse:
        return await mainspring.training.estimate(named, await resolve(mainspring, project, dataset_version))

    found = with_client(data, body)
    if json_:
        print_json(found)
        return
    print_fields({"rows": found.rows, "steps": found.steps, "open runs": found.open_runs})
    if found.measured_on:
        print_fields({"would take": f"{found.usage.wall_s:.0f} s", "would use": usage_text(found.usage)})
        print_fields({"measured on": short(found.measured_on)})
    else:
        print("nothing was measured yet on this base model by this method; the first run will tell")


@runs.command("pause")
def pause_run(run: Run, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Pauses a training run; one that is worked on writes a checkpoint first."""
    _change(run, project, data, json_, lambda mainspring, name: mainspring.training.pause(name))


@runs.command("resume")
def resume_run(run: Run, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Has a paused training run go on from its last checkpoint."""
    _change(run, project, data, json_, lambda mainspring, name: mainspring.training.resume(name))


@runs.command("cancel")
def cancel_run(run: Run, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Cancels a training run that has not ended."""
    _change(run, project, data, json_, lambda mainspring, name: mainspring.training.cancel(name))


def run_name(project: str, run: str) -> str:
    """The resource name of a run that is given by its id or its name."""
    from mainspring_client.resources import expand
    from mainspring_svckit.names import TrainingRunName

    return expand(TrainingRunName, project, run, "run")


def usage_text(usage: tracking_pb2.Usage) -> str:
    """What a run used, in one line."""
    text = (
        f"{usage.cpu_s:.0f} s of processor, {usage.peak_memory_bytes / 2**20:.0f} MiB at most, {usage.tokens} tokens,"
        f" about {usage.energy_wh:.3g} Wh"
    )
    return text + (f" and {usage.cost:.3g} {usage.currency}" if usage.cost else "")


def metric_text(metric: run_pb2.TrainingMetric) -> str:
    """A metric in one line."""
    text = f"step {metric.step}  loss {metric.train_loss:.4g}"
    if metric.HasField("validation_loss"):
        text += f"  validation {metric.validation_loss:.4g}"
    text += "".join(f"  {name} {value:.4g}" for name, value in sorted(metric.measures.items()))
    return f"{text}  {metric.tokens_per_second:.0f} tokens/s"


def last_values(found: training_service_pb2.CompareTrainingRunsResponse, series: str) -> list[object]:
    """Where a curve of each run ends; nothing for a run that has none."""
    ends = {c.training_run: f"{c.points[-1].value:.4g}" for c in found.curves if c.series == series}
    return [ends.get(run.name, "") for run in found.training_runs]


def _change(
    run: str,
    project: str,
    data: Path | None,
    json_: bool,
    change: Callable[[Mainspring, str], Awaitable[run_pb2.TrainingRun]],
) -> None:
    from mainspring_client.cli.output import print_json, state_of
    from mainspring_client.cli.run import with_client

    name = run_name(project, run)
    changed = with_client(data, lambda mainspring: change(mainspring, name))
    if json_:
        print_json(changed)
    else:
        print(f"{changed.name} is {state_of(changed)}" + (", pausing" if changed.pausing else ""))
