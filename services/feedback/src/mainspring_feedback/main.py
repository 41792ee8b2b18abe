"""Wires feedback."""

from __future__ import annotations

from mainspring.feedback.v1 import feedback_service_pb2_grpc as pb_grpc
from mainspring_eventkit.outbox import CHANNEL as OUTBOX_CHANNEL
from mainspring_eventkit.service import Events
from mainspring_feedback.adapters import postgres
from mainspring_feedback.adapters.announcements import OutboxAnnouncements
from mainspring_feedback.application.examples import Examples
from mainspring_feedback.application.items import Items
from mainspring_feedback.application.ports import Ports
from mainspring_feedback.application.triggers import WORK_KIND, Triggers
from mainspring_feedback.domain.triggers import Firing
from mainspring_feedback.settings import FeedbackSettings
from mainspring_feedback.transport.events import Reactions
from mainspring_feedback.transport.grpc import NAME, FeedbackServicer
from mainspring_svckit import work
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.clock import SystemClock
from mainspring_svckit.ids import new_id
from mainspring_svckit.lifecycle import Process, run_main
from mainspring_svckit.work import Lease, Worker, WorkQueue

PACKAGE = "mainspring_feedback"


async def serve(process: Process, settings: FeedbackSettings) -> int:
    """Builds everything and serves until told to stop."""
    database = await process.database(PACKAGE)
    listener = process.listener(OUTBOX_CHANNEL, work.CHANNEL)
    events = await Events.connect(process, database, listener)
    ports = Ports(
        transactions=database,
        answers=postgres.answers(database),
        items=postgres.items(database),
        lessons=postgres.lessons(database),
        judged_models=postgres.judged_models(database),
        triggers=postgres.triggers(database),
        announcements=OutboxAnnouncements(events.outbox),
        files=ArtifactStore(settings.artifact_url),
        work=WorkQueue(database),
        clock=SystemClock(),
        new_id=new_id,
    )
    triggers, examples = Triggers(ports), Examples(ports)
    items = Items(ports, triggers)

    async def write_examples(lease: Lease) -> None:
        await examples.run(Firing(**lease.item.payload), lease)

    async def postpone(lease: Lease, error: Exception) -> None:
        await examples.postpone(Firing(**lease.item.payload))

    worker = Worker(
        database,
        listener,
        WORK_KIND,
        write_examples,
        on_exhausted=postpone,
        lease_s=settings.work_lease_s,
        poll_s=settings.work_lease_s / 6,
    )
    process.intake(worker.run(), "examples")
    events.consume("feedback-answers", Reactions(items).on_response_completed, concurrency=4)

    servicer = FeedbackServicer(ports, items, triggers)
    process.grpc_server(database).add(NAME, pb_grpc.add_FeedbackServiceServicer_to_server, servicer)
    return await process.run()


def main() -> None:
    """The command `mainspring-feedback`."""
    run_main("feedback", PACKAGE, FeedbackSettings, serve)


if __name__ == "__main__":
    main()
