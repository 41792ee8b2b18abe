"""Reads `deploy/nats/topology.yaml` and brings a server to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml
from nats.js import JetStreamContext, api
from nats.js.errors import BadRequestError, NotFoundError

from mainspring_eventkit.catalog import filter_of
from mainspring_svckit.errors import Unavailable

EVENTS_STREAM = "MAINSPRING_EVENTS"
DLQ_STREAM = "MAINSPRING_DLQ"
ROUTING_BUCKET = "mainspring-routing"
ACK_WAIT_S = 10.0


@dataclass(frozen=True)
class ConsumerSpec:
    """A durable consumer: the inbox of one reaction, shared by all replicas."""

    name: str
    events: tuple[str, ...]
    attempts: int = 8
    max_ack_pending: int = 256

    @property
    def filters(self) -> list[str]:
        """The subjects that it gets."""
        return [filter_of(event) for event in self.events]

    @property
    def takes_unknown(self) -> bool:
        """Whether it gets types by pattern, so that a newer release may send it some that this one does not know."""
        return any(event.endswith(">") for event in self.events)


@dataclass(frozen=True)
class Topology:
    """Everything that the bus must have."""

    streams: tuple[api.StreamConfig, ...]
    buckets: tuple[api.KeyValueConfig, ...]
    consumers: dict[str, ConsumerSpec]


@cache
def load(replicas: int = 1) -> Topology:
    """The declared topology.

    Args:
        replicas: Copies of each stream; 3 in a cluster.
    """
    text = (resources.files("mainspring_eventkit") / "topology.yaml").read_text()
    declared: dict[str, Any] = yaml.safe_load(text)
    streams = tuple(
        api.StreamConfig(
            name=stream["name"],
            subjects=stream["subjects"],
            max_age=stream["max_age_days"] * 86400,
            max_bytes=stream["max_bytes"],
            duplicate_window=stream["duplicate_window_s"],
            storage=api.StorageType.FILE,
            # A full stream refuses new messages, and the outbox keeps them; it never drops old ones silently.
            discard=api.DiscardPolicy.NEW,
            num_replicas=replicas,
            allow_direct=True,
        )
        for stream in declared["streams"]
    )
    buckets = tuple(
        api.KeyValueConfig(bucket=bucket["name"], history=1, storage=api.StorageType.FILE, replicas=replicas)
        for bucket in declared["buckets"]
    )
    consumers = {spec["name"]: ConsumerSpec(spec["name"], tuple(spec["events"])) for spec in declared["consumers"]}
    return Topology(streams, buckets, consumers)


async def apply(js: JetStreamContext, topology: Topology) -> None:
    """Makes or updates everything declared; repeating changes nothing."""
    for stream in topology.streams:
        try:
            await js.update_stream(stream)
        except NotFoundError:
            await js.add_stream(stream)
    for bucket in topology.buckets:
        try:
            await js.create_key_value(bucket)
        except BadRequestError:
            await js.key_value(
                bucket.bucket
            )  # It is there, with older settings; routing tables do not need newer ones.
    for spec in topology.consumers.values():
        await js.add_consumer(EVENTS_STREAM, _consumer_config(spec))


async def verify(js: JetStreamContext, spec: ConsumerSpec) -> None:
    """Checks that the server has a consumer as it is declared.

    Raises:
        Unavailable: TOPOLOGY_MISSING, the stream or consumer is not there or differs; apply the topology.
    """
    try:
        info = await js.consumer_info(EVENTS_STREAM, spec.name)
    except NotFoundError as err:
        raise _missing(spec.name, "is missing") from err
    present = info.config.filter_subjects or [info.config.filter_subject]
    if present != spec.filters:
        raise _missing(spec.name, f"filters {present}, not {spec.filters}")


def _consumer_config(spec: ConsumerSpec) -> api.ConsumerConfig:
    return api.ConsumerConfig(
        durable_name=spec.name,
        filter_subject=spec.filters[0] if len(spec.filters) == 1 else None,
        filter_subjects=spec.filters if len(spec.filters) > 1 else None,
        deliver_policy=api.DeliverPolicy.ALL,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_deliver=-1,
        max_ack_pending=spec.max_ack_pending,
    )


def _missing(consumer: str, what: str) -> Unavailable:
    message = f"consumer {consumer} on stream {EVENTS_STREAM} {what}; run 'mainspring events apply'"
    return Unavailable("TOPOLOGY_MISSING", message, metadata={"consumer": consumer})
