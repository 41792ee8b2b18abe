"""`annotate suggest`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project

if TYPE_CHECKING:
    from mainspring_client.client import Mainspring
    from mainspring_client.suggesting import Suggested


def suggest(
    queue: Annotated[str, typer.Argument(help="Queue id.")],
    model: Annotated[str, typer.Option(help="Served model that is asked: MODEL, MODEL/VERSION or MODEL@ALIAS.")],
    again: Annotated[bool, typer.Option("--again", help="Ask about items that have a suggestion, too.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Most items to ask about; 0 for all.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Items asked about at a time.")] = 8,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Has a model suggest the labels of items that nobody has labelled; annotators see them, with how sure it is.

    The model gets the queue's guidelines and labels. What it answers beside these labels is not taken. Interrupted, the
    command goes on where it was when it is run again.
    """
    from mainspring_client.cli.output import Ticker, print_fields, print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand, expand_model
    from mainspring_client.suggesting import suggest as ask
    from mainspring_svckit.names import AnnotationQueueName

    name, asked = expand(AnnotationQueueName, project, queue, "queue"), expand_model(project, model)

    async def body(mainspring: Mainspring) -> Suggested:
        with Ticker(quiet=json_) as ticker:
            return await ask(
                mainspring,
                name,
                asked,
                again=again,
                limit=limit,
                concurrency=concurrency,
                on_progress=lambda done, total: ticker.progress(f"asked about {done} of {total} items", done, total),
            )

    found = asdict(with_client(data, body))
    if json_:
        print_json(found)
        return
    if example := found.pop("example"):
        found["for example"] = example
    print_fields(found)
