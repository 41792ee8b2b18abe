"""`events`: the bus, for operators."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from mainspring_eventkit.bus import Bus
    from mainspring_eventkit.dead_letters import DeadLetter

T = TypeVar("T")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

events = group("Events on the bus, and those that a consumer gave up.")
dlq = group("Dead letters: events that a consumer gave up, kept with the reason.")
events.add_typer(dlq, name="dlq")


@events.command()
def tail(
    event_type: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            "-t",
            help="Event type, or a pattern like 'mainspring.registry.>'; may be repeated [default: releases and"
            " revocations].",
        ),
    ] = None,
    since: Annotated[
        str, typer.Option(help="Begin so long ago: 30s, 10m, 2h, 7d; or a time like 2026-01-31T12:00.")
    ] = "",
    durable: Annotated[str, typer.Option(help="Name under which the bus remembers what was shown.")] = "",
    count: Annotated[int, typer.Option(min=0, help="Leave after so many events; 0 goes on until interrupted.")] = 0,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Prints events as they happen: what releases, runs, evaluations and roll-outs tell."""
    from mainspring_client.cli.output import print_json, printable, to_dict
    from mainspring_client.connection import Endpoints
    from mainspring_client.subscription import RELEASE_EVENTS, subscribe

    begin = _time(since) if since else None
    url = Endpoints.find(data=data).nats_url

    async def main() -> None:
        types = event_type or list(RELEASE_EVENTS)
        async for event in subscribe(url, project, types, durable=durable or None, since=begin, limit=count):
            if json_:
                about = {"id": event.id, "type": event.type, "subject": event.subject, "cycle": event.cycle}
                print_json({**about, "time": event.time.isoformat(), "data": to_dict(event.data)}, indent=None)
            else:
                kind = event.type.removeprefix("mainspring.").removesuffix(".v1")
                print(f"{event.time:%Y-%m-%d %H:%M:%S}  {kind:<34} {printable(event.subject)}", flush=True)

    asyncio.run(main())


@events.command()
def apply(
    data: Data = None,
    nats_url: Annotated[
        str,
        typer.Option(
            envvar="MAINSPRING_NATS_URL", help="Servers of another installation, with an administrator's user."
        ),
    ] = "",
    replicas: Annotated[int, typer.Option(min=1, max=5, help="Copies of each stream; 3 in a cluster.")] = 1,
) -> None:
    """Brings the bus to the declared streams, buckets and consumers. Repeating changes nothing."""
    from mainspring_eventkit import topology

    async def body(bus: Bus) -> None:
        await topology.apply(bus.jetstream, topology.load(replicas))

    _with_bus(data, body, nats_url)
    declared = topology.load(replicas)
    print(
        f"{len(declared.streams)} streams, {len(declared.buckets)} buckets and {len(declared.consumers)} consumers are"
        " as declared"
    )


@dlq.command("list")
def list_dead(limit: Limit = 50, data: Data = None, json_: Json = False) -> None:
    """Lists dead letters, oldest first."""
    from mainspring_client.cli.output import print_json, print_table
    from mainspring_client.cli.run import collect
    from mainspring_eventkit import dead_letters

    found = _with_bus(data, lambda bus: collect(dead_letters.list_dead(bus), limit))
    if json_:
        print_json([_letter(letter) for letter in found])
        return
    print_table(
        found,
        {
            "number": lambda d: d.sequence,
            "consumer": lambda d: d.consumer,
            "reason": lambda d: d.reason,
            "attempts": lambda d: d.attempts,
            "type": lambda d: d.headers.get("ce-type", ""),
            "subject": lambda d: d.headers.get("ce-subject", ""),
            "first seen": lambda d: d.first_seen[:19],
        },
        "no dead letters",
    )


@dlq.command()
def show(
    number: Annotated[int, typer.Argument(min=1, help="Number from the list.")], data: Data = None, json_: Json = False
) -> None:
    """Shows a dead letter with its headers and its body."""
    from mainspring_client.cli.output import print_fields, print_json
    from mainspring_eventkit import dead_letters

    letter = _with_bus(data, lambda bus: dead_letters.show_dead(bus, number))
    values = _letter(letter)
    if json_:
        print_json(values)
        return
    headers: dict[str, str] = values.pop("headers")
    print_fields({**values, **headers})


@dlq.command()
def replay(
    numbers: Annotated[list[int], typer.Argument(min=1, help="Numbers from the list.")], data: Data = None
) -> None:
    """Publishes dead letters again; consumers that have handled the event do nothing."""
    from mainspring_eventkit import dead_letters

    async def body(bus: Bus) -> None:
        for number in numbers:
            await dead_letters.replay_dead(bus, number)
            print(f"published {number} again")

    _with_bus(data, body)


def _with_bus(data: Path | None, body: Callable[[Bus], Awaitable[T]], nats_url: str = "") -> T:
    """What `body` returns, with the administrator's connection to the bus."""
    from mainspring_client.stack import control, credentials
    from mainspring_client.stack.folder import DataFolder
    from mainspring_eventkit.bus import Bus

    url = nats_url
    if not url:
        folder = DataFolder.at(data)
        state = control.require_running(folder)
        password = credentials.bus_password(folder, "admin")
        url = f"nats://admin:{password}@127.0.0.1:{state.ports['nats']}"

    async def main() -> T:
        bus = await Bus.connect(url, name="mainspring-cli", wait_s=10)
        try:
            return await body(bus)
        finally:
            await bus.close()

    return asyncio.run(main())


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "number": letter.sequence,
        "consumer": letter.consumer,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "first_seen": letter.first_seen,
        "published_on": letter.subject,
        "headers": letter.headers,
        "body": letter.body.decode(errors="replace"),
    }


def _time(text: str) -> datetime:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match:
        return datetime.now(UTC) - timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither like 10m nor a time", param_hint="--since") from None
