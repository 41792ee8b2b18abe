"""`demo`: the loop turned twice on real code, with a table of what happened."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import Json

if TYPE_CHECKING:
    from mainspring_client.demo.report import Report
    from mainspring_client.demo.task import Material
    from mainspring_client.stack.folder import DataFolder

REPORT = "demo-report.json"
_LOOK_EVERY_S = 3.0


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(demo)


def demo(
    source: Annotated[
        Path | None,
        typer.Option(
            help="Folder with Python code [default: the code that is installed here].",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data folder of the demo's own stack [default: $MAINSPRING_DEMO_DATA or ~/.mainspring-demo].",
            show_default=False,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Turns the loop twice on real code: tunes, proves, releases, serves, collects corrections, tunes again.

    The task is to write the one-line summary of a Python function. The stack has a data folder of its own, is left
    running, and is stopped by 'mainspring down --data FOLDER', or at once with DEMO_DOWN=1. The report is written to
    demo-report.json in that folder. Status 1 when a step did not happen. A second run begins from nothing.
    """
    from mainspring_client.demo.report import Report, print_report
    from mainspring_client.stack import control
    from mainspring_client.stack.folder import DataFolder
    from mainspring_pysource import default_source

    chosen = data or Path(os.environ.get("MAINSPRING_DEMO_DATA") or Path.home() / ".mainspring-demo")
    folder = DataFolder.at(chosen)
    report = Report(source=str(source) if source is not None else default_source())
    try:
        _run(folder, source, report, quiet=json_)
    finally:
        if folder.root.exists():
            report.write(folder.root / REPORT)
        if os.environ.get("DEMO_DOWN") == "1":
            for _ in control.stop(folder):
                pass
    if json_:
        sys.stdout.write((folder.root / REPORT).read_text())
    else:
        print_report(report)
        print(f"report: {folder.root / 'demo-report.json'}")
        if os.environ.get("DEMO_DOWN") != "1":
            print(f"the stack runs on; stop it with: mainspring down --data {folder.root}")


def _run(folder: DataFolder, source: Path | None, report: Report, *, quiet: bool) -> None:
    from mainspring_client.cli.output import Ticker
    from mainspring_client.cli.stack import start_stack
    from mainspring_client.demo import task
    from mainspring_client.demo.report import MemoryWatch
    from mainspring_client.stack.services import MARK

    with Ticker(quiet=quiet) as ticker, report.timed("read code"):
        ticker.keep(f"reading {report.source}")
        material = task.collect(source)
    with report.timed("start the stack"):
        _begin_from_nothing(folder)
        folder.root.mkdir(parents=True, exist_ok=True)
        report.write(folder.root / REPORT)
        report.addresses = start_stack(folder, quiet=quiet).addresses
    watch, ended = MemoryWatch(MARK, str(folder.root)), threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            watch.look()

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        asyncio.run(_turn(folder, material, report, quiet=quiet))
    finally:
        ended.set()
        watching.join()
        report.peak_memory_bytes = watch.peak_bytes


async def _turn(folder: DataFolder, material: Material, report: Report, *, quiet: bool) -> None:
    from mainspring_client.cli.output import Ticker
    from mainspring_client.client import Mainspring
    from mainspring_client.demo.door import Gateway
    from mainspring_client.demo.loop import PROJECT, Demo
    from mainspring_client.demo.proof import prove
    from mainspring_client.demo.task import NAME

    token = folder.admin_token.read_text().strip()
    gateway = Gateway(report.addresses["gateway"], token, PROJECT)
    with Ticker(quiet=quiet) as ticker:
        async with Mainspring.connect(data=folder.root) as mainspring:
            await Demo(mainspring, gateway, report, ticker).run(material)
            report.proof = await prove(mainspring.registry, f"projects/{PROJECT}/models/{NAME}", folder.signing_keys)


def _begin_from_nothing(folder: DataFolder) -> None:
    """Ends and removes an earlier demo; a folder that holds anything but a stack is left alone.

    Raises:
        InvalidInput: NOT_A_DEMO_FOLDER.
    """
    import shutil

    from mainspring_client.stack import control
    from mainspring_svckit.errors import InvalidInput

    if not folder.root.exists() or not any(folder.root.iterdir()):
        return
    # Written by a demo only; another stack's folder has none, and its data is somebody's.
    if not (folder.root / REPORT).exists():
        message = f"{folder.root} holds something that is no demo's; choose another folder with --data"
        raise InvalidInput(message, reason="NOT_A_DEMO_FOLDER")
    for _ in control.stop(folder):
        pass
    shutil.rmtree(folder.root)
