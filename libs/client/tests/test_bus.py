"""Rights on the bus, and subscriptions, on a real NATS server with the users of the local stack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client

from mainspring.events.v1.data_events_pb2 import DatasetVersionPublished
from mainspring.events.v1.inference_events_pb2 import ResponseCompleted
from mainspring.events.v1.registry_events_pb2 import ModelReleased, ModelVersionRegistered, ReleaseRevoked
from mainspring_client.stack import rights
from mainspring_client.stack.component import Running, free_port, start
from mainspring_client.stack.nats import nats_component, user_url
from mainspring_client.stack.services import SERVICES
from mainspring_client.subscription import RELEASE_EVENTS, subscribe
from mainspring_eventkit import topology
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.catalog import subject_of, type_of
from mainspring_eventkit.cloudevents import Event
from mainspring_eventkit.dead_letters import list_dead
from mainspring_eventkit.topology import DLQ_STREAM, EVENTS_STREAM, ROUTING_BUCKET
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_testkit.events import publish
from mainspring_testkit.waiting import eventually

_DENIED = (nats.errors.TimeoutError, TimeoutError)


class Server:
    """The bus of the local stack with all its users."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        passwords = {name: f"secret{number}" for number, name in enumerate(rights.user_names(SERVICES))}
        self.users = {user.name: user for user in rights.users(SERVICES, topology.load(), passwords)}
        self.running: Running | None = None
        self.errors: dict[str, list[str]] = {}

    async def start(self) -> None:
        self.running = await start(nats_component(self.folder, self.port, list(self.users.values())))
        await self.running.wait_ready()
        client = await self.connect("admin")
        await topology.apply(client.jetstream(), topology.load())
        await client.close()

    async def stop(self) -> None:
        assert self.running is not None
        await self.running.stop()

    def url(self, user: str) -> str:
        return user_url(self.users[user], self.port)

    async def connect(self, user: str) -> Client:
        client = Client()
        heard = self.errors[user] = []

        async def failed(err: Exception) -> None:
            heard.append(str(err))

        await client.connect(self.url(user), allow_reconnect=False, error_cb=failed)
        return client

    async def may_publish(self, user: str, subject: str) -> bool:
        """Whether the server lets a user publish there."""
        client = await self.connect(user)
        try:
            await client.publish(subject, b"{}")
            # The client may send its first PING before what it has buffered.
            await client.flush()
            await client.flush()
        finally:
            await client.close()
        return not any("permissions violation" in error.lower() for error in self.errors[user])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path / "nats")
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture
async def publisher(server: Server) -> AsyncIterator[Bus]:
    bus = await Bus.connect(server.url("admin"), name="test")
    try:
        yield bus
    finally:
        await bus.close()


async def test_a3_a_service_publishes_events_of_its_own_area_only(server: Server) -> None:
    areas = {spec.name: spec.area for spec in SERVICES}
    for name, area in areas.items():
        for other in filter(None, areas.values()):
            allowed = await server.may_publish(name, f"mainspring.events.p.{other}.thing.happened.v1")
            assert allowed == (other == area), f"{name} publishing events of {other}"


async def test_a3_a_service_reads_its_own_consumers_only(server: Server) -> None:
    declared = topology.load().consumers
    for spec in SERVICES:
        own = set(rights.consumers_of(spec, topology.load()))
        for consumer in declared:
            for subject in (
                f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{consumer}",
                f"$JS.ACK.{EVENTS_STREAM}.{consumer}.1.1.1.1.1",
                f"mainspring.dlq.{consumer}",
            ):
                assert await server.may_publish(spec.name, subject) == (consumer in own), f"{spec.name} on {subject}"
    owned = [name for spec in SERVICES for name in rights.consumers_of(spec, topology.load())]
    assert sorted(owned) == sorted(declared)


@pytest.mark.parametrize(
    "subject",
    [
        f"$JS.API.STREAM.DELETE.{EVENTS_STREAM}",
        f"$JS.API.STREAM.PURGE.{EVENTS_STREAM}",
        f"$JS.API.STREAM.UPDATE.{EVENTS_STREAM}",
        f"$JS.API.CONSUMER.CREATE.{EVENTS_STREAM}.mine.mainspring.events.>",
        f"$JS.API.CONSUMER.DELETE.{EVENTS_STREAM}.registry-runs",
        f"$JS.API.STREAM.MSG.GET.{DLQ_STREAM}",
        "$SYS.REQ.SERVER.PING",
        "_INBOX.somebody",
    ],
)
async def test_a3_no_service_manages_the_bus(server: Server, subject: str) -> None:
    for user in ("registry", "gateway", "inference", "subscriber"):
        assert not await server.may_publish(user, subject), user


async def test_a_service_can_do_all_that_it_must(server: Server) -> None:
    bus = await Bus.connect(server.url("registry"), name="registry")
    try:
        await bus.ping()
        event = ModelReleased(release="projects/p/models/m/releases/1", model="projects/p/models/m")
        await publish(bus, event)
        state = await bus.stream()
        assert await bus.message_id_at(state.last) is not None
        spec = topology.load().consumers["registry-cycles"]
        await topology.verify(bus.jetstream, spec)
        pull = await bus.jetstream.pull_subscribe_bind("registry-cycles", EVENTS_STREAM)
        (message,) = await pull.fetch(1, timeout=5)
        await bus.publish("mainspring.dlq.registry-cycles", message.data, {}, message_id="x")
        await message.ack_sync()
        info = await bus.jetstream.consumer_info(EVENTS_STREAM, "registry-cycles")
        assert (info.num_ack_pending, info.num_pending) == (0, 0)
    finally:
        await bus.close()
    operator = await Bus.connect(server.url("admin"), name="operator")
    assert [letter.body async for letter in list_dead(operator)] == [message.data]
    await operator.close()


async def test_inference_writes_the_routing_tables_and_doors_read_them(server: Server) -> None:
    writer, reader = await server.connect("inference"), await server.connect("gateway")
    try:
        bucket = await writer.jetstream().key_value(ROUTING_BUCKET)
        await bucket.put("p.m", b"table")
        seen = await reader.jetstream().key_value(ROUTING_BUCKET)
        watcher = await seen.watchall()
        entry = await watcher.updates(timeout=5)
        assert entry is not None
        assert (await seen.get("p.m")).value == b"table"
        await watcher.stop()
        with pytest.raises(_DENIED):
            await asyncio.wait_for(seen.put("p.m", b"forged"), 2)
        assert (await bucket.get("p.m")).value == b"table"
        assert await server.may_publish("registry", f"$KV.{ROUTING_BUCKET}.p.m") is False
    finally:
        await writer.close()
        await reader.close()


def released(number: int, model: str = "m") -> ModelReleased:
    name = f"projects/p/models/{model}"
    return ModelReleased(release=f"{name}/releases/{number}", model=name, release_number=number)


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(30):
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    return found


def numbers(events: list[Event]) -> list[int]:
    return [event.data.release_number for event in events if isinstance(event.data, ModelReleased)]


async def test_i4_a_durable_subscriber_hears_each_release_once_and_in_order(server: Server, publisher: Bus) -> None:
    begin = datetime.now(UTC)
    url = server.url("subscriber")
    first = subscribe(url, "p", durable="backend", since=begin)
    for number in (1, 2, 3):
        for _ in range(3):  # The bus delivers at least once.
            await publish(publisher, released(number), event_id=f"e{number}")
        await publish(publisher, DatasetVersionPublished(dataset_version="projects/p/datasets/d/versions/1"))
        await publish(publisher, ModelVersionRegistered(model_version="projects/p/models/m/versions/1"))
    assert numbers(await take(first, 2)) == [1, 2]
    await first.aclose()  # pyright: ignore[reportAttributeAccessIssue] - it is a generator.

    # What came while nobody listened is heard, beginning with what was not handled to its end.
    await publish(publisher, released(4))
    await publish(publisher, ReleaseRevoked(release="projects/p/models/m/releases/4", model="projects/p/models/m"))
    later = await take(subscribe(url, "p", durable="backend"), 4)
    assert numbers(later) == [2, 3, 4]
    assert type_of(later[-1].data) == RELEASE_EVENTS[1]
    assert later[0].id == "e2"


async def test_whoever_wants_a_number_of_events_has_handled_them_all(server: Server, publisher: Bus) -> None:
    begin = datetime.now(UTC)
    for number in (1, 2, 3):
        await publish(publisher, released(number))
    wanted = subscribe(server.url("subscriber"), "p", durable="backend", since=begin, limit=2)
    assert numbers([event async for event in wanted]) == [1, 2]
    later = subscribe(server.url("subscriber"), "p", durable="backend", limit=1)
    assert numbers([event async for event in later]) == [3]


async def test_a_subscriber_without_a_name_begins_now_or_at_a_time(server: Server, publisher: Bus) -> None:
    url, begin = server.url("subscriber"), datetime.now(UTC)
    await publish(publisher, released(1))
    await publish(publisher, released(1), event_id="other-project")
    replayed = await take(subscribe(url, "p", RELEASE_EVENTS[:1], since=begin), 1)
    assert numbers(replayed) == [1]
    only_new = asyncio.create_task(take(subscribe(url, "p", RELEASE_EVENTS[:1]), 1))

    async def listening() -> bool:
        info = await publisher.jetstream.consumers_info(EVENTS_STREAM)
        return any(consumer.name.startswith("ephemeral-") and consumer.num_waiting for consumer in info)

    await eventually(listening, what="the subscriber to listen")
    await publish(publisher, released(2))
    assert numbers(await only_new) == [2]


async def test_f3_f24_a_subscriber_goes_on_after_the_bus_was_killed_or_lost_its_disk(
    server: Server, publisher: Bus, tmp_path: Path
) -> None:
    import shutil

    url = server.url("subscriber")
    heard: list[int] = []

    async def listen() -> None:
        async for event in subscribe(url, "p", durable="backend", since=datetime(2026, 1, 1, tzinfo=UTC)):
            heard.extend(numbers([event]))

    listener = asyncio.create_task(listen())
    await publish(publisher, released(1), event_id="e1")

    async def heard_to(number: int) -> None:
        async def there() -> bool:
            return number in heard

        await eventually(there, within_s=90, what=f"release {number} to be heard")

    await heard_to(1)
    for number, wipe in ((2, False), (3, True)):
        assert server.running is not None
        server.running.process.kill()
        await server.running.process.wait()
        if wipe:
            shutil.rmtree(tmp_path / "nats" / "jetstream")
        await server.start()

        async def connected() -> bool:
            return publisher.client.is_connected

        await eventually(connected, what="the publisher to be connected")
        await publish(publisher, released(1), event_id="e1")  # Outboxes publish again what the stream may have lost.
        await publish(publisher, released(number), event_id=f"e{number}")
        await heard_to(number)
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)
    assert heard == [1, 2, 3]


async def test_a3_a_subscriber_cannot_follow_what_people_wrote(server: Server, publisher: Bus) -> None:
    del publisher
    answers = subscribe(server.url("subscriber"), "p", [type_of(ResponseCompleted)])
    with pytest.raises(PreconditionFailed) as caught:
        await anext(answers)
    assert caught.value.reason == "SUBSCRIPTION_REFUSED"


async def test_an_event_of_a_newer_release_is_passed_over(server: Server, publisher: Bus) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "new", "ce-type": "mainspring.registry.model.praised.v9"}
    begin = datetime.now(UTC)
    await publisher.publish(subject_of("p", "mainspring.registry.model.praised.v9"), b"{}", headers, message_id="new")
    await publish(publisher, released(1))
    events = subscribe(server.url("subscriber"), "p", ["mainspring.registry.>"], since=begin)
    assert numbers(await take(events, 1)) == [1]


@pytest.mark.parametrize(
    ("project", "types", "durable"),
    [
        ("P", RELEASE_EVENTS, None),
        ("p", ["mainspring.x.v1"], None),
        ("p", ["mainspring.nothing.>"], None),
        ("p", RELEASE_EVENTS, "a.b"),
    ],
)
async def test_a_subscription_that_cannot_be_is_refused(project: str, types: list[str], durable: str | None) -> None:
    with pytest.raises(InvalidInput):
        await anext(subscribe("nats://x", project, types, durable=durable))
