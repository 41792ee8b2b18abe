"""`webhooks`: events by HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

if TYPE_CHECKING:
    from mainspring.registry.v1 import webhook_pb2
    from mainspring_client.client import Mainspring

Endpoint = Annotated[str, typer.Argument(help="Endpoint id.")]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", "-t", help="Event type that is sent; may be repeated. Default: releases and revocations."),
]

webhooks = group("Events by HTTP, signed as Standard Webhooks wants it, for programs without a connection to the bus.")


@webhooks.command()
def create(
    endpoint: Endpoint,
    url: Annotated[str, typer.Option(help="Where events are posted; https, a public address.")],
    event_type: Types = None,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Makes an endpoint and prints its secret, this once."""
    from mainspring_client.cli.output import print_json, to_dict
    from mainspring_client.cli.run import with_client

    made, secret = with_client(data, lambda m: m.webhooks.create(project, endpoint, url, event_type or ()))
    if json_:
        print_json({**to_dict(made), "secret": secret})
    else:
        print(f"{made.name} is told of events\nsecret, shown this once: {secret}")


@webhooks.command("list")
def list_endpoints(
    project: Project = DEFAULT_PROJECT, limit: Limit = 50, data: Data = None, json_: Json = False
) -> None:
    """Lists endpoints by name."""
    from mainspring_client.cli.output import print_json, print_table, short, state_of
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda m: collect(m.webhooks.endpoints(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "endpoint": lambda e: short(e.name),
            "url": lambda e: e.url,
            "state": state_of,
            "reason": lambda e: e.disabled_reason,
            "types": lambda e: ", ".join(e.event_types) or "releases and revocations",
        },
        f"no webhook endpoints in {project}; 'mainspring webhooks create ID --url URL' makes one",
    )


@webhooks.command()
def update(
    endpoint: Endpoint,
    url: Annotated[str, typer.Option(help="Another address; it gets another secret.")] = "",
    event_type: Types = None,
    disabled: Annotated[
        bool | None, typer.Option("--disable/--enable", help="Stop sending, or begin again.", show_default=False)
    ] = None,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Changes what is given; the rest stays."""
    from mainspring_client.cli.output import print_json, state_of, to_dict
    from mainspring_client.cli.run import with_client

    async def body(mainspring: Mainspring) -> tuple[webhook_pb2.WebhookEndpoint, str]:
        known = await mainspring.webhooks.endpoint(_endpoint(project, endpoint))
        if url:
            known.url = url
        if event_type is not None:
            known.ClearField("event_types")
            known.event_types.extend(event_type)
        if disabled is not None:
            known.disabled = disabled
        return await mainspring.webhooks.update(known)

    changed, secret = with_client(data, body)
    if json_:
        print_json({**to_dict(changed), "secret": secret})
        return
    print(f"{changed.name} is {state_of(changed)}")
    if secret:
        print(f"secret, shown this once: {secret}")


@webhooks.command()
def rotate(endpoint: Endpoint, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Makes a new secret; the old one signs too for a day."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client

    secret = with_client(data, lambda m: m.webhooks.rotate_secret(_endpoint(project, endpoint)))
    if json_:
        print_json({"secret": secret})
    else:
        print(f"secret, shown this once: {secret}")


@webhooks.command()
def delete(endpoint: Endpoint, project: Project = DEFAULT_PROJECT, data: Data = None) -> None:
    """Removes an endpoint; what it had not been told is not sent any more."""
    from mainspring_client.cli.run import with_client

    name = _endpoint(project, endpoint)
    with_client(data, lambda m: m.webhooks.delete(name))
    print(f"{name} is removed")


@webhooks.command()
def deliveries(
    endpoint: Endpoint,
    dead: Annotated[bool, typer.Option("--dead", help="Only dead letters.")] = False,
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 20,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Lists an endpoint's deliveries, newest first."""
    from mainspring.registry.v1 import webhook_pb2
    from mainspring_client.cli.output import print_json, print_table, short, state_of, when
    from mainspring_client.cli.run import with_client

    async def body(mainspring: Mainspring) -> list[webhook_pb2.WebhookDelivery]:
        found = list[webhook_pb2.WebhookDelivery]()
        async for one in mainspring.webhooks.deliveries(_endpoint(project, endpoint)):
            if not dead or one.state == webhook_pb2.WebhookDelivery.STATE_DEAD:
                found.append(one)
            if len(found) == limit:
                break
        return found

    found = with_client(data, body)
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "delivery": lambda d: d.event_id,
            "event": lambda d: d.event_type.removeprefix("mainspring."),
            "about": lambda d: short(d.subject),
            "state": state_of,
            "attempts": lambda d: d.attempts,
            "answer": lambda d: d.last_status or "",
            "next": lambda d: when(d.next_attempt_time),
            "problem": lambda d: d.last_error,
        },
        "no deliveries",
    )


@webhooks.command()
def replay(
    endpoint: Endpoint,
    deliveries: Annotated[list[str], typer.Argument(help="Deliveries from the list that are dead.")],
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
) -> None:
    """Sends dead letters again, with a full set of attempts."""
    from mainspring_client.cli.run import with_client
    from mainspring_svckit.names import WebhookDeliveryName

    names = [str(WebhookDeliveryName(project, endpoint, delivery)) for delivery in deliveries]

    async def body(mainspring: Mainspring) -> None:
        for name in names:
            await mainspring.webhooks.replay(name)
            print(f"{name} is on its way again")

    with_client(data, body)


def _endpoint(project: str, endpoint: str) -> str:
    from mainspring_client.resources import expand
    from mainspring_svckit.names import WebhookEndpointName

    return expand(WebhookEndpointName, project, endpoint, "endpoint")
