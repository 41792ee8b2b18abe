"""`up`, `down`, `status`, `logs`, `token`: the local stack."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli.options import Data, Json

if TYPE_CHECKING:
    from mainspring_client.stack.folder import DataFolder
    from mainspring_client.stack.options import Options
    from mainspring_client.stack.state import StackState

Port = Annotated[
    int | None, typer.Option(min=1, max=65535, show_default=False, help="Port to use, instead of a free one.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(logs)


def up(
    data: Data = None,
    gateway_port: Port = None,
    console_port: Port = None,
    nats_port: Port = None,
    postgres_port: Port = None,
    port: Annotated[
        list[str] | None,
        typer.Option("--port", metavar="NAME=PORT", help="Any other port by its name, for example registry=7001."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SERVICE.SETTING=VALUE",
            help="A setting of one service, kept for later starts; an empty value takes it back.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="native|ray",
            show_default=False,
            help="Who refines rows: processes of this machine, or a Ray cluster; kept for later starts.",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="[ray://]HOST:PORT", show_default=False, help="The Ray cluster; kept for later starts."),
    ] = None,
    import_root: Annotated[
        list[Path] | None,
        typer.Option(
            "--import-root", help="A folder from which models may be imported by path; kept for later starts."
        ),
    ] = None,
    triton: Annotated[
        bool | None, typer.Option("--triton/--no-triton", help="Whether to start Triton.", show_default=False)
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and print what happens; for containers.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Longest wait for everything to be ready, in seconds.")] = 180,
    table: Annotated[Path | None, typer.Option(hidden=True)] = None,
    json_: Json = False,
) -> None:
    """Starts the local stack: NATS, Postgres, Triton and all services. A second start finds all data."""
    from mainspring_client.stack.folder import DataFolder
    from mainspring_client.stack.state import StackState

    folder = DataFolder.at(data)
    before = StackState.load(folder.state_file)
    ports = _numbers(port or [])
    named = {"gateway": gateway_port, "console": console_port, "nats": nats_port, "postgres": postgres_port}
    ports |= {name: number for name, number in named.items() if number is not None}
    named_settings = {"data-ingest.engine": engine, "data-ingest.ray_address": ray_address}
    settings = [*(setting or []), *(f"{name}={value}" for name, value in named_settings.items() if value)]
    options = _options(before, ports, settings, import_root or [], triton, table)
    if foreground:
        from mainspring_client.stack.supervisor import supervise

        sys.exit(supervise(folder, options))
    if before.supervised:
        message = f"a stack runs in {folder.root} already; options are not kept now: give them after 'mainspring down'"
        print(message, file=sys.stderr)
    state = start_stack(folder, options, timeout, quiet=json_)
    if json_:
        _print_status_json(folder, state)
    else:
        _print_addresses(folder, state)


def start_stack(
    folder: DataFolder, options: Options | None = None, timeout_s: float = 180, *, quiet: bool = False
) -> StackState:
    """Starts a stack unless one runs, waits until it is ready with a progress display, and returns its state.

    Raises:
        Unavailable: As `control.follow`.
    """
    from mainspring_client.cli.output import Ticker
    from mainspring_client.stack import control
    from mainspring_client.stack.state import StackState

    before = StackState.load(folder.state_file)
    if options is None:
        options = _options(before, {}, [], [], None, None)
    launched = None if before.supervised else control.launch(folder, options)
    state, shown = before, len(before.notices) if launched is None else 0
    with Ticker(quiet=quiet) as ticker:
        for state in control.follow(folder, launched, timeout_s):
            for notice in state.notices[shown:]:
                ticker.keep(notice.text)
            shown = len(state.notices)
            ticker.tell(_progress(state))
    return state


def down(data: Data = None) -> None:
    """Stops the local stack and keeps its data; whatever is left of a stack that crashed is ended too."""
    from mainspring_client.cli.output import Ticker
    from mainspring_client.stack import control
    from mainspring_client.stack.folder import DataFolder
    from mainspring_client.stack.state import Health, StackState

    folder = DataFolder.at(data)
    ran = StackState.load(folder.state_file).supervised
    state = StackState()
    with Ticker() as ticker:
        for state in control.stop(folder):
            left = [p.name for p in state.processes.values() if p.health is not Health.STOPPED]
            if left:
                ticker.tell(f"stopping; still up: {', '.join(left)}")
    found = state.notices[-1].text if state.notices and "left running" in state.notices[-1].text else ""
    if found:
        print(found)
    print(f"stopped; the data stays in {folder.root}" if ran or found else f"nothing runs in {folder.root}")


def status(
    data: Data = None,
    project: Annotated[
        list[str] | None, typer.Option("--project", "-p", help="Projects whose newest turn to show [default: all].")
    ] = None,
    json_: Json = False,
) -> None:
    """Shows processes, addresses, readiness, and the newest turn of each project's loop. Status 1 when nothing runs."""
    from mainspring_client.stack import control
    from mainspring_client.stack.folder import DataFolder
    from mainspring_client.stack.state import StackState

    folder = DataFolder.at(data)
    state = StackState.load(folder.state_file)
    if not state.supervised and not json_:
        alive = [process.name for process in state.processes.values() if process.alive]
        if alive:
            print(
                f"the supervisor is gone, but {', '.join(alive)} still run; 'mainspring up' or 'mainspring down' ends"
                " them",
                file=sys.stderr,
            )
        control.require_running(folder)
    cycles = _newest_cycles(folder, project) if state.supervised else {}
    if json_:
        _print_status_json(folder, state, cycles)
        if not state.supervised:
            sys.exit(1)
        return
    _print_processes(state)
    _print_addresses(folder, state)
    _print_cycles(cycles)
    for notice in state.notices[-5:]:
        print(f"{time.strftime('%H:%M:%S', time.localtime(notice.time))}  {notice.text}")


def logs(
    service: Annotated[
        str | None, typer.Argument(help="Service, nats, postgres, triton or supervisor; default: all.")
    ] = None,
    data: Data = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of each log to begin with.")] = 20,
) -> None:
    """Prints the end of log files."""
    from mainspring_client.stack import control
    from mainspring_client.stack.folder import DataFolder
    from mainspring_svckit.errors import NotFound

    folder = DataFolder.at(data)
    known = sorted(path.stem for path in folder.logs.glob("*.log")) if folder.logs.exists() else []
    if service is not None and service not in known:
        error = NotFound("Log", service)
        error.add_note(f"there are logs of {', '.join(known) or 'nothing; was the stack ever started?'}")
        raise error
    chosen = [service] if service else known
    prefix = {name: f"{name:<{max(map(len, chosen))}} | " if service is None else "" for name in chosen}
    places: dict[str, int] = {}
    for name in chosen:
        path = folder.log_of(name)
        places[name] = path.stat().st_size
        tail = control.last_lines(path, lines) if lines else ""
        for line in tail.splitlines():
            print(f"{prefix[name]}{line}")
    while follow:
        for name in chosen:
            for line in _new_lines(folder.log_of(name), places, name):
                print(f"{prefix[name]}{line}", flush=True)
        time.sleep(0.5)


def _options(
    before: StackState,
    ports: dict[str, int],
    settings: list[str],
    import_roots: list[Path],
    triton: bool | None,
    table: Path | None,
) -> Options:
    """What was asked for now, upon what was asked for before; ports that were taken before are kept elsewhere."""
    from mainspring_client.stack.options import Options

    kept: dict[str, Any] = before.options
    merged: dict[str, dict[str, str]] = {name: dict(values) for name, values in kept.get("settings", {}).items()}
    for text in settings:
        target, equals, value = text.partition("=")
        service, dot, name = target.partition(".")
        if not (equals and dot and service and name):
            raise typer.BadParameter(f"{text!r} is not SERVICE.SETTING=VALUE", param_hint="--set")
        of_service = merged.setdefault(service, {})
        if value:
            of_service[name.lower()] = value
        else:
            of_service.pop(name.lower(), None)
    roots = [*kept.get("import_roots", []), *(str(root.expanduser().resolve()) for root in import_roots)]
    return Options(
        ports=ports,
        settings=merged,
        import_roots=list(dict.fromkeys(roots)),
        triton=triton if triton is not None else kept.get("triton", True),
        table=str(table.resolve()) if table is not None else kept.get("table", ""),
    )


def _numbers(pairs: list[str]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        if not number.isdecimal() or not 0 < int(number) < 65536:
            raise typer.BadParameter(f"{pair!r} is not NAME=PORT", param_hint="--port")
        numbers[name] = int(number)
    return numbers


def _progress(state: StackState) -> str:
    from mainspring_client.stack.state import Health

    ready = [process for process in state.processes.values() if process.health is Health.READY]
    late = [f"{p.name} ({p.health})" for p in state.processes.values() if p.health is not Health.READY]
    return f"{len(ready)}/{len(state.processes)} ready" + (f"; waiting for {', '.join(late)}" if late else "")


def _print_addresses(folder: DataFolder, state: StackState) -> None:
    from mainspring_client.cli.output import print_fields

    addresses = state.addresses
    shown = {
        "gateway": f"{addresses['gateway']}/v1" if addresses.get("gateway") else "(not installed)",
        "console": addresses.get("console") or "(not installed)",
        "nats": addresses.get("nats", ""),
        "postgres": addresses.get("postgres", ""),
        "triton": addresses.get("triton", ""),
        "token": folder.admin_token,
        "data": folder.root,
    }
    print_fields(shown)


def _print_processes(state: StackState) -> None:
    from mainspring_client.cli.output import print_table
    from mainspring_client.stack import control

    services: dict[str, str] = state.addresses.get("services", {})
    rows = [(process, control.usage(process.pid) if process.alive else None) for process in state.processes.values()]
    total = sum(used.memory_bytes for _, used in rows if used is not None) >> 20
    print_table(
        rows,
        {
            "process": lambda row: row[0].name,
            "state": lambda row: row[0].health,
            "pid": lambda row: row[0].pid or "",
            "restarts": lambda row: row[0].restarts or "",
            "MiB": lambda row: row[1].memory_bytes >> 20 if row[1] else "",
            "address": lambda row: services.get(row[0].name) or state.addresses.get(row[0].name, ""),
            "detail": lambda row: row[0].detail,
        },
        "no processes",
    )
    print(f"memory of all: {total} MiB")


def _print_cycles(cycles: dict[str, Any]) -> None:
    from mainspring_client.cli.output import printable, when

    for project, cycle in cycles.items():
        print(f"\nnewest turn of {project}: {cycle.name.rsplit('/', 1)[-1]}")
        for step in cycle.steps:
            kind = step.event_type.removeprefix("mainspring.").removesuffix(".v1")
            print(f"  {when(step.time)}  {kind:<34} {printable(step.subject)}")


def _print_status_json(folder: DataFolder, state: StackState, cycles: dict[str, Any] | None = None) -> None:
    from mainspring_client.cli.output import print_json
    from mainspring_client.stack import control

    processes: dict[str, Any] = {}
    for process in state.processes.values():
        used = control.usage(process.pid) if process.alive else control.Usage(0, 0)
        processes[process.name] = {
            "state": str(process.health),
            "pid": process.pid,
            "restarts": process.restarts,
            "memory_bytes": used.memory_bytes,
            "detail": process.detail,
            "log": str(folder.log_of(process.name)),
        }
    print_json(
        {
            **state.addresses,
            "running": state.supervised,
            "ready": state.supervised and state.ready,
            "phase": str(state.phase) if state.supervised else "stopped",
            "supervisor_pid": state.supervisor_pid if state.supervised else 0,
            "data": str(folder.root),
            "admin_token_file": str(folder.admin_token),
            "nats_subscriber_url_file": str(folder.subscriber_url),
            "processes": processes,
            "cycles": cycles or {},
            "notices": [{"time": notice.time, "text": notice.text} for notice in state.notices],
        }
    )


def _newest_cycles(folder: DataFolder, projects: list[str] | None) -> dict[str, Any]:
    """The newest turn by project; without those of which the registry cannot tell now."""
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.client import Mainspring
    from mainspring_svckit.errors import MainspringError

    # Every project that has ever stored a file has a folder in the store.
    chosen = projects or sorted(path.name for path in folder.artifacts.iterdir() if path.is_dir())

    async def read(mainspring: Mainspring) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for project in chosen:
            with contextlib.suppress(MainspringError):
                newest = await collect(mainspring.registry.cycles(project), 1)
                if newest:
                    found[project] = newest[0]
        return found

    return with_client(folder.root, read) if chosen else {}


def _new_lines(path: Path, places: dict[str, int], name: str) -> Iterator[str]:
    """Whole lines that came since the last look; from the beginning when the file was put aside."""
    try:
        size = path.stat().st_size
        if size < places[name]:
            places[name] = 0
        if size == places[name]:
            return
        with path.open("rb") as file:
            file.seek(places[name])
            text = file.read(size - places[name])
    except OSError:
        return
    whole = text[: text.rfind(b"\n") + 1]
    places[name] += len(whole)
    yield from whole.decode(errors="replace").splitlines()
