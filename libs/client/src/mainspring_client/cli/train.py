"""`train`: from a dataset version and a base to a tuned model version, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project

if TYPE_CHECKING:
    from mainspring.registry.v1 import model_pb2
    from mainspring.training.v1 import run_pb2
    from mainspring_client.client import Mainspring

From = Annotated[
    str,
    typer.Option(
        "--from", help="Go on from the adapter of this version, MODEL/VERSION or MODEL@ALIAS, and learn all rows."
    ),
]
_BASE = "smollm2"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(train)


def train(
    dataset: Annotated[
        str, typer.Argument(help="DATASET, whose newest version is learned, DATASET/VERSION or DATASET@TAG.")
    ],
    base: Annotated[
        str, typer.Option(help="Foundation model, MODEL or MODEL/VERSION [default: that of --from, else smollm2].")
    ] = "",
    model: Annotated[str, typer.Option(help="Model that gets the version [default: the dataset's id].")] = "",
    method: Annotated[
        str, typer.Option(help="How it learns, a method of the contract: supervised, dpo, kto, ...")
    ] = "supervised",
    recipe: Annotated[str, typer.Option(help="Id of the tuning recipe that is written [default: MODEL-METHOD].")] = "",
    from_champion: Annotated[
        bool, typer.Option("--from-champion", help="Go on from the model's champion instead of a fresh adapter.")
    ] = False,
    from_: From = "",
    epochs: Annotated[float, typer.Option(min=0, max=100, help="Most passes over the rows; 0: the default.")] = 0,
    max_steps: Annotated[int, typer.Option(min=0, help="Most optimiser steps; 0 for no limit.")] = 0,
    learning_rate: Annotated[float, typer.Option(min=0, max=1, help="Peak rate; 0: the method's default.")] = 0,
    batch_rows: Annotated[int, typer.Option(min=0, max=4096, help="Rows in a step; 0: the default.")] = 0,
    rank: Annotated[int, typer.Option(min=0, max=256, help="Rank of the adapter; 0: the default.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Any other field of the tuning recipe, as adaptation=ADAPTATION_QLORA; may be repeated, and wins.",
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option("--png", help="Draw losses, measures and speed into this file when the run has ended."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the run's name and do not wait.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Tunes a model on a dataset version and follows the run: loss, tokens per second, time left. Status 1 on failure.

    The settings are kept as a tuning recipe, so later versions of the dataset are learned in the same way by
    themselves. What succeeds becomes a version of the model, is measured by its suites, and decided on by its gate.
    """
    from mainspring_client.cli.run import with_client
    from mainspring_client.cli.runs import follow_named, tell_end
    from mainspring_client.configuration import with_settings

    if from_ and from_champion:
        raise typer.BadParameter("names what --from-champion would look up; leave one of them out", param_hint="--from")
    dataset_id = dataset.partition("@")[0].partition("/")[0]
    model = model or dataset_id
    options = {
        "id": recipe or f"{model}-{method}".lower().replace("_", "-"),
        "dataset": dataset_id,
        "model": model,
        "method": f"METHOD_{method.upper()}",
        "start_from": "START_FROM_CHAMPION" if from_champion else "START_FROM_BASE",
        "lora": {"rank": rank},
        "optimization": {
            "epochs": epochs,
            "max_steps": max_steps,
            "learning_rate": learning_rate,
            "batch_rows": batch_rows,
        },
    }
    wanted = with_settings(options, settings or [])

    async def body(mainspring: Mainspring) -> tuple[run_pb2.TrainingRun, Any]:
        started = await start(mainspring, project, wanted, base, dataset, begin_with=from_)
        if detach:
            return started, None
        ended = await follow_named(mainspring, started.name, json_=json_)
        return ended, (await mainspring.training.page(started.name) if png is not None else None)

    ended, page = with_client(data, body)
    if png is not None and page is not None:
        from mainspring_client.cli.curves import LOSSES, draw, measures_of

        draw(png, list(page.curves), [*LOSSES, *measures_of(page.curves), "tokens_per_second"])
    if detach:
        print(ended.name)
        return
    tell_end(ended, json_=json_)
    if png is not None and not json_:
        print(f"curves are in {png}")


async def start(
    mainspring: Mainspring, project: str, settings: dict[str, Any], base: str, dataset: str, *, begin_with: str = ""
) -> run_pb2.TrainingRun:
    """Writes the recipe and asks for a run of it.

    Args:
        mainspring: Where.
        project: Project id.
        settings: The tuning recipe, as in `flywheel.yaml`.
        base: Foundation model as people name it, where the recipe has none; without a version its newest. Empty for
            that of `begin_with`, or else for the one that comes with the stack.
        dataset: The dataset version as people name it; without one its newest.
        begin_with: The version whose adapter the run begins with, as people name it; empty for what the recipe says.

    Raises:
        InvalidInput: Something in the settings is wrong; the violations name it.
        NotFound: The dataset, the base or the version to begin with is not there, or has no version yet.
        PreconditionFailed: PARENT_UNUSABLE, a run of the recipe cannot begin with that version.
    """
    from mainspring_client.configuration import Configuration

    learned = await newest_version(mainspring, project, dataset)
    parent = await named_version(mainspring, project, begin_with) if begin_with else None
    foundation = settings.get("base_model_version") or (parent.base_model_version if parent and not base else "")
    foundation = foundation or await newest_base(mainspring, project, base or _BASE)
    configuration = Configuration.parse(
        {"project": project, "tuning_recipe": {**settings, "base_model_version": foundation}}
    )
    await mainspring.apply(configuration)
    recipe: Any = configuration.sections["tuning_recipe"]
    return await mainspring.training.start(recipe.name, learned, parent_model_version=parent.name if parent else "")


async def named_version(mainspring: Mainspring, project: str, version: str) -> model_pb2.ModelVersion:
    """The model version that `MODEL` (its newest), `MODEL/VERSION` or `MODEL@ALIAS` names.

    Raises:
        NotFound: It is not there.
    """
    from mainspring_client.resources import expand_model

    name = expand_model(project, version, "from")
    if "/versions/" not in name and "@" not in name:
        name = (await mainspring.registry.model(name)).latest_version
    return await mainspring.registry.version(name)


async def newest_version(mainspring: Mainspring, project: str, dataset: str) -> str:
    """The dataset version that `DATASET` (its newest), `DATASET/VERSION` or `DATASET@TAG` names.

    Raises:
        NotFound: The dataset is not there, or has no version yet.
    """
    from mainspring_client.cli.versions import resolve
    from mainspring_client.resources import expand
    from mainspring_svckit.errors import NotFound
    from mainspring_svckit.names import DatasetName

    if "/" in dataset or "@" in dataset:
        return await resolve(mainspring, project, dataset)
    name = expand(DatasetName, project, dataset, "dataset")
    newest = (await mainspring.data.dataset(name)).latest_version
    if not newest:
        raise NotFound("DatasetVersion", f"{name}/versions/1")
    return newest


async def newest_base(mainspring: Mainspring, project: str, base: str) -> str:
    """The foundation model's version that `MODEL` (its newest) or `MODEL/VERSION` names."""
    from mainspring_client.resources import expand_model

    name = expand_model(project, base, "base")
    return name if "/versions/" in name else (await mainspring.registry.model(name)).latest_version
