"""`mainspring reconcile`: after a backup was restored."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from mainspring_client.cli.options import Data

_SERVICE, _MODULE = "registry", "mainspring_registry.main"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(reconcile)


def reconcile(
    repair: Annotated[
        bool, typer.Option("--repair", help="Put back what was signed, and burn the other numbers.")
    ] = False,
    data: Data = None,
) -> None:
    """Says what the bus has heard and the registry's database, restored from an older backup, has not; prints JSON.

    Works on the local stack while it runs. Exit status 1 when something is left to be repaired.
    """
    import psutil

    from mainspring_client.stack.folder import DataFolder
    from mainspring_client.stack.state import StackState
    from mainspring_svckit.errors import PreconditionFailed

    folder = DataFolder.at(data)
    process = StackState.load(folder.state_file).processes.get(_SERVICE)
    if process is None or not process.alive:
        message = f"no registry runs in {folder.root}; start the stack with 'mainspring up'"
        raise PreconditionFailed("STACK_NOT_RUNNING", message, {"data": str(folder.root)})
    # The job has the service's own settings and secrets, which only its process and its owner see.
    words = [sys.executable, "-P", "-m", _MODULE, "reconcile", *(["--repair"] if repair else [])]
    done = subprocess.run(words, env=psutil.Process(process.pid).environ(), check=False)
    raise typer.Exit(done.returncode)
