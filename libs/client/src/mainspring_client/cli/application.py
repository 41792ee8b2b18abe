"""The command itself: its groups, its exit status, its errors."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from mainspring_client.cli import (
    access,
    advise,
    annotate,
    compress,
    data,
    demo,
    evaluation,
    events,
    flywheel,
    gating,
    guards,
    lineage,
    merge,
    models,
    restoring,
    runs,
    search,
    stack,
    talk,
    train,
    webhooks,
    work,
)
from mainspring_client.cli.options import group

app = group(
    "Mainspring, the self-hosted flywheel for language models: data in, tuned and measured models out.\n\n"
    "Begin with 'mainspring up'. Exit status: 0 it worked, 1 it failed, 2 the command was not understood."
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("mainspring-client"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Takes options that stand before the command."""
    del version


stack.register(app)
restoring.register(app)
access.register(app)
train.register(app)
advise.register(app)
flywheel.register(app)
demo.register(app)
app.add_typer(data.datasets, name="datasets")
app.add_typer(annotate.annotate, name="annotate")
app.add_typer(models.models, name="models")
app.add_typer(runs.runs, name="runs")
app.add_typer(search.search, name="search")
app.add_typer(work.evals, name="evals")
app.add_typer(models.releases, name="releases")
app.add_typer(models.rollouts, name="rollouts")
app.add_typer(gating.policies, name="policies")
app.add_typer(gating.prompts, name="prompts")
app.add_typer(guards.guards, name="guards")
compress.register(app)
merge.register(app)
evaluation.register(app)
lineage.register(app)
talk.register(app)
app.add_typer(data.collections, name="collections")
app.add_typer(events.events, name="events")
app.add_typer(webhooks.webhooks, name="webhooks")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command and leaves the process with its exit status."""
    try:
        app(arguments, prog_name="mainspring")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has enough, for example `head`.
        sys.stderr.close()
        sys.exit(1)
    except Exception as err:
        from mainspring_client.cli.output import print_error
        from mainspring_client.stack.component import ComponentFailed
        from mainspring_svckit.errors import MainspringError

        if isinstance(err, MainspringError):
            print_error(err)
        elif isinstance(err, ComponentFailed):
            print(f"error COMPONENT_FAILED: {err}", file=sys.stderr)
        else:
            raise
        sys.exit(1)
    sys.exit(0)
