"""`datasets ingestions` and `datasets cancel`."""

from __future__ import annotations

from typing import Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project


def register(datasets: typer.Typer) -> None:
    """Adds the commands to the group."""
    datasets.command()(ingestions)
    datasets.command()(cancel)


def ingestions(project: Project = DEFAULT_PROJECT, limit: Limit = 20, data: Data = None, json_: Json = False) -> None:
    """Lists ingestions, newest first: how far each is, the version that it made, or why there is none."""
    from mainspring_client.cli.output import print_json, print_table, progress_text, short, when
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.data.ingestions(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "ingestion": lambda i: short(i.name),
            "recipe": lambda i: short(i.ingestion_recipe_version or i.ingestion_recipe),
            "state": progress_text,
            "asked for": lambda i: when(i.create_time),
            "version": lambda i: short(i.dataset_version),
            "error": lambda i: i.error.message,
        },
        f"no ingestions in {project}; 'mainspring datasets import FILE --dataset ID' asks for one",
    )


def cancel(
    ingestion: Annotated[str, typer.Argument(help="Ingestion id; 'mainspring datasets ingestions' lists them.")],
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Cancels an ingestion that has not ended; nothing of it is published."""
    from mainspring_client.cli.output import print_json, state_of
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import IngestionName

    name = expand(IngestionName, project, ingestion, "ingestion")
    cancelled = with_client(data, lambda mainspring: mainspring.data.cancel_ingestion(name))
    if json_:
        print_json(cancelled)
    else:
        print(f"{cancelled.name} is {state_of(cancelled)}")
