"""`datasets synthesize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project

if TYPE_CHECKING:
    from mainspring.data.v1 import dataset_pb2, ingestion_pb2
    from mainspring_client.client import Mainspring


def synthesize(
    version: Annotated[str, typer.Argument(help="DATASET/VERSION, or DATASET@TAG, whose train rows are the examples.")],
    model: Annotated[str, typer.Option(help="Released model that writes: MODEL, MODEL/VERSION or MODEL@ALIAS.")],
    method: Annotated[str, typer.Option(help="paraphrase, or instructions.")] = "paraphrase",
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Rows to ask for.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of sampling.")] = 1,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Has a model write rows like those of a version, and makes a version with them.

    They go through the dataset's recipe like all others, are marked as synthetic, and are in the train split only.
    """
    from mainspring.data.v1 import ingestion_pb2
    from mainspring_client.cli.output import Ticker, print_fields, print_json, progress_text
    from mainspring_client.cli.run import with_client
    from mainspring_client.cli.versions import resolve
    from mainspring_client.resources import expand_model
    from mainspring_client.synthesis import Method
    from mainspring_client.synthesis import synthesize as make
    from mainspring_svckit.errors import PreconditionFailed
    from mainspring_svckit.status import error_info

    if method not in set(Method):
        raise typer.BadParameter(f"write {' or '.join(Method)}", param_hint="--method")

    async def body(mainspring: Mainspring) -> dataset_pb2.DatasetVersion:
        with Ticker(quiet=json_) as ticker:
            work: ingestion_pb2.Ingestion = await make(
                mainspring,
                await resolve(mainspring, project, version),
                expand_model(project, model),
                Method(method),
                count,
                seed=seed,
                on_progress=lambda done, total: ticker.tell(f"writing {done} of {total} rows"),
            )
            async for update in mainspring.data.watch_ingestion(work.name):
                ticker.tell(progress_text(update))
                work = update
        if work.state != ingestion_pb2.Ingestion.STATE_SUCCEEDED:
            raise PreconditionFailed(error_info(work.error).reason or "INGESTION_CANCELLED", work.error.message)
        return await mainspring.data.version(work.dataset_version)

    made = with_client(data, body)
    if json_:
        print_json(made)
    else:
        print_fields(
            {
                "version": made.name,
                "rows in": made.input_rows,
                "kept": sum(split.rows for split in made.splits),
                "next": "'mainspring datasets diff' shows what was added, 'datasets refused' what the recipe refused",
            }
        )
