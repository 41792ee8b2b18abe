"""`merge`: one adapter made of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project

if TYPE_CHECKING:
    from mainspring.registry.v1 import merge_pb2
    from mainspring_client.client import Mainspring

_METHODS = ("linear", "ties", "dare-linear", "dare-ties")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(merge)


def merge(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER...", help="MODEL/VERSION or MODEL@ALIAS, with =WEIGHT after it where it is not 1."
        ),
    ],
    method: Annotated[str, typer.Option(help=f"How they become one: {', '.join(_METHODS)}.")] = "linear",
    density: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of each adapter's values that is kept; 0: a half. Not for linear."),
    ] = 0,
    rank: Annotated[
        int, typer.Option(min=0, max=1024, help="Rank of the result; 0: the sum of the ranks. Not for linear.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")] = 0,
    model: Annotated[str, typer.Option(help="Model that gets the version [default: the first adapter's].")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Print the merge's name and do not wait.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Makes one adapter of several that were tuned on the same base. Status 1 on failure.

    The result is a version like any other: its model's suites measure it, the gate decides on it, and it names the
    versions that it was merged from.
    """
    from mainspring.registry.v1 import merge_pb2
    from mainspring_client.cli.output import Ticker, print_fields, print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.errors import PreconditionFailed
    from mainspring_svckit.names import ModelName
    from mainspring_svckit.status import error_info

    if method not in _METHODS:
        raise typer.BadParameter(f"must be one of {', '.join(_METHODS)}", param_hint="--method")
    wish = merge_pb2.Merge(
        sources=[_source(project, text) for text in adapters],
        model=expand(ModelName, project, model, "--model") if model else "",
        method=merge_pb2.MergeMethod.Value(f"MERGE_METHOD_{method.upper().replace('-', '_')}"),
        density=density,
        rank=rank,
        seed=seed,
    )

    async def body(mainspring: Mainspring) -> merge_pb2.Merge:
        done = await mainspring.merging.merge(project, wish)
        if detach:
            return done
        with Ticker(quiet=json_) as ticker:
            async for update in mainspring.merging.watch(done.name):
                done = update
                ticker.tell(f"merging {len(done.sources)} adapters: {done.State.Name(done.state)[6:].lower()}")
        if done.state != merge_pb2.Merge.STATE_SUCCEEDED:
            raise PreconditionFailed(error_info(done.error).reason or "MERGE_FAILED", done.error.message)
        return done

    done = with_client(data, body)
    if json_:
        print_json(done)
    elif detach:
        print(done.name)
    else:
        sources = "\n".join(f"{source.weight:g} x {source.model_version}" for source in done.sources)
        print_fields({"version": done.model_version, "merged from": sources})


def _source(project: str, text: str) -> merge_pb2.MergeSource:
    """`ADAPTER` or `ADAPTER=WEIGHT`."""
    from mainspring.registry.v1 import merge_pb2
    from mainspring_client.resources import expand_model

    name, _, weight = text.partition("=")
    try:
        return merge_pb2.MergeSource(model_version=expand_model(project, name), weight=float(weight or 1))
    except ValueError as err:
        raise typer.BadParameter(f"{text}: {weight} is no number", param_hint="ADAPTER") from err
