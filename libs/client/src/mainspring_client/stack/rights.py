"""Who may do what on the bus of the local stack. Nobody but the administrator has more than their part needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mainspring_client.stack.nats import NatsUser
from mainspring_client.stack.services import ServiceSpec
from mainspring_eventkit.topology import EVENTS_STREAM, ROUTING_BUCKET, Topology

ADMIN = "admin"
SUBSCRIBER = "subscriber"
_API = "$JS.API"
_INBOX = "_INBOX.>"
_KV = f"KV_{ROUTING_BUCKET}"
_READ_EVENTS = (
    f"{_API}.INFO",
    f"{_API}.STREAM.INFO.{EVENTS_STREAM}",
    f"{_API}.STREAM.MSG.GET.{EVENTS_STREAM}",
    f"{_API}.DIRECT.GET.{EVENTS_STREAM}",
)
_ROUTING: dict[str, tuple[str, ...]] = {
    "": (),
    "read": (
        f"{_API}.STREAM.INFO.{_KV}",
        f"{_API}.STREAM.MSG.GET.{_KV}",
        f"{_API}.DIRECT.GET.{_KV}.>",
        # A watch is an ephemeral consumer of the bucket.
        f"{_API}.CONSUMER.CREATE.{_KV}",
        f"{_API}.CONSUMER.CREATE.{_KV}.>",
        f"{_API}.CONSUMER.INFO.{_KV}.*",
        f"{_API}.CONSUMER.DELETE.{_KV}.*",
        f"$JS.FC.{_KV}.>",
    ),
}
_ROUTING["write"] = (*_ROUTING["read"], f"$KV.{ROUTING_BUCKET}.>")
# What outside programs may follow: nothing in it was written by a person.
_FOLLOWED = (
    "registry",
    "evaluation.run",
    "evaluation.drift",
    "training.run",
    "data.dataset_version",
    "inference.rollout",
)


def user_names(specs: Iterable[ServiceSpec]) -> list[str]:
    """Every user of the bus."""
    return [ADMIN, SUBSCRIBER, *(spec.name for spec in specs)]


def users(specs: Sequence[ServiceSpec], topology: Topology, passwords: Mapping[str, str]) -> list[NatsUser]:
    """Every user with their rights."""
    return [
        NatsUser(ADMIN, passwords[ADMIN]),
        _subscriber(passwords[SUBSCRIBER], topology),
        *(_service(spec, passwords[spec.name], topology) for spec in specs),
    ]


def consumers_of(spec: ServiceSpec, topology: Topology) -> list[str]:
    """The durable consumers of a service: those that are named after it."""
    return [name for name in topology.consumers if name.startswith(f"{spec.name}-")]


def _service(spec: ServiceSpec, password: str, topology: Topology) -> NatsUser:
    allowed = [*_READ_EVENTS, *_ROUTING[spec.routing]]
    if spec.area:
        allowed.append(f"mainspring.events.*.{spec.area}.>")
    for consumer in consumers_of(spec, topology):
        allowed += [
            f"{_API}.CONSUMER.INFO.{EVENTS_STREAM}.{consumer}",
            f"{_API}.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{consumer}",
            f"$JS.ACK.{EVENTS_STREAM}.{consumer}.>",
            f"mainspring.dlq.{consumer}",
        ]
    return NatsUser(spec.name, password, allowed, [_INBOX])


def _subscriber(password: str, topology: Topology) -> NatsUser:
    """Makes consumers of its own on what may be followed, and cannot touch those of the services."""
    allowed = [f"{_API}.INFO", f"{_API}.STREAM.INFO.{EVENTS_STREAM}", f"$JS.ACK.{EVENTS_STREAM}.>"]
    # The subject on which a consumer is made ends with its filter, so the filter can be bounded here.
    allowed += [f"{_API}.CONSUMER.CREATE.{EVENTS_STREAM}.*.mainspring.events.*.{part}.>" for part in _FOLLOWED]
    verbs = ("INFO", "DELETE", "MSG.NEXT")
    allowed += [f"{_API}.CONSUMER.{verb}.{EVENTS_STREAM}.*" for verb in verbs]
    denied = [f"{_API}.CONSUMER.CREATE.{EVENTS_STREAM}.{name}.>" for name in topology.consumers]
    denied += [f"{_API}.CONSUMER.{verb}.{EVENTS_STREAM}.{name}" for verb in verbs for name in topology.consumers]
    denied += [f"$JS.ACK.{EVENTS_STREAM}.{name}.>" for name in topology.consumers]
    return NatsUser(SUBSCRIBER, password, allowed, [_INBOX], denied)
