"""Scheduled drift checks by the running service: real NATS, Postgres and gRPC, the inference door scripted."""

import asyncio
import math
from typing import Any

import asyncpg

from mainspring.events.v1.evaluation_events_pb2 import EvaluationDriftDetected
from mainspring.events.v1.inference_events_pb2 import ResponseCompleted
from mainspring_evaluator.application.drift import DRIFT_WORK
from mainspring_eventkit.bus import Bus
from mainspring_svckit.mapping import duration_to_proto
from mainspring_svckit.work import CHANNEL
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.waiting import eventually

from .plane import MODEL, SUITE, version
from .processes import Evaluator, all_let_go

MONITOR = "projects/p/driftMonitors/d"
SAMPLE = 30


class Watched:
    """A released version that people ask, and a monitor of it whose hour comes when a test says so."""

    def __init__(self, evaluator: Evaluator, bus: Bus, database: asyncpg.Connection) -> None:
        self._evaluator, self._bus, self._database = evaluator, bus, database
        self.answers = 0

    async def people_ask(self) -> None:
        """A window of fresh questions, answered by the release and told as a door tells of them."""
        for _ in range(SAMPLE):
            self.answers += 1
            await publish(
                self._bus,
                ResponseCompleted(
                    answer=f"projects/p/answers/a{self.answers:05}",
                    model_version=version(1),
                    release=f"{MODEL}/releases/1",
                    messages=[{"role": "ROLE_USER", "content": f"fresh question {self.answers}"}],  # type: ignore[list-item]
                    text="what the release said",
                    latency=duration_to_proto(0.25),
                    finish_reason="STOP",
                    caller="somebody",
                ),
            )

        async def sampled() -> bool:
            return await self._database.fetchval("SELECT count(*) FROM traffic_answer") == self.answers

        await eventually(sampled, within_s=30, what="the questions to be sampled")

    async def the_hour_comes(self) -> None:
        """As if the interval had passed: what is planned is due."""
        due = "UPDATE work SET run_after = now() WHERE kind = $1 AND key = $2 AND state = 'ready' RETURNING 1"
        assert await self._database.fetchval(due, DRIFT_WORK, MONITOR) == 1, "the next check is planned"
        await self._database.execute("SELECT pg_notify($1, $2)", CHANNEL, DRIFT_WORK)

    async def planned_again(self) -> None:
        """Waits until a check has ended and the next one is planned."""

        async def later() -> bool:
            wanted = "SELECT run_after > now() AND lease_expires_at IS NULL FROM work WHERE kind = $1 AND key = $2"
            return bool(await self._database.fetchval(wanted, DRIFT_WORK, MONITOR))

        await eventually(later, within_s=30, what="the check to end")

    async def reports(self, count: int) -> list[Any]:
        """All reports, newest first, when there are so many."""

        async def made() -> list[Any] | None:
            found = (await self._evaluator.call("ListDriftReports", parent=MONITOR)).drift_reports
            return list(found) if len(found) >= count else None

        found = await eventually(made, within_s=30, what=f"{count} reports")
        assert found is not None
        assert len(found) == count
        return found


async def test_f1_fresh_questions_that_are_answered_worse_raise_one_alarm_whoever_is_killed(
    evaluator: Evaluator, bus: Bus, event_tap: EventTap
) -> None:
    plane = evaluator.plane
    await evaluator.register(1)
    plane.released = version(1)
    await evaluator.put_suite(scorers=["answer_words", "empty_answers", "rouge_l"])
    monitor = {
        "name": MONITOR,
        "model": MODEL,
        "evaluation_suite": SUITE,
        "sample_items": SAMPLE,
        "interval": duration_to_proto(3_600),
    }
    await evaluator.call("UpdateDriftMonitor", drift_monitor=monitor, allow_missing=True)
    database = await asyncpg.connect(evaluator.database_url)
    try:
        watched = Watched(evaluator, bus, database)
        await watched.people_ask()
        await watched.the_hour_comes()
        (first,) = await watched.reports(1)
        assert (first.reference, first.items, first.model_version, first.alarm) == (True, SAMPLE, version(1), False)
        assert sum(plane.asked.values()) == SAMPLE, "the released version is asked anew"
        await watched.planned_again()

        plane.dull.add(version(1))
        await watched.people_ask()
        plane.stop_after = SAMPLE + 10
        plane.may_answer.clear()
        await watched.the_hour_comes()

        async def in_the_midst() -> bool:
            return sum(plane.asked.values()) >= SAMPLE + 10

        await eventually(in_the_midst, within_s=30, what="the second check to be in the midst")
        await asyncio.gather(*(replica.kill() for replica in evaluator.replicas))
        plane.stop_after = math.inf
        plane.may_answer.set()
        await asyncio.gather(*(replica.start() for replica in evaluator.replicas))
        second, _ = await watched.reports(2)
        assert (second.alarm, second.items, second.reference) == (True, SAMPLE, False)
        assert [signal.signal for signal in second.signals if signal.alarm] == ["answer_words"]
        (told,) = await event_tap.wait_for(EvaluationDriftDetected, within_s=30)
        assert (told.drift_report, told.model, told.model_version) == (second.name, MODEL, version(1))
        assert list(told.signals) == ["answer_words"]
        await watched.planned_again()

        await asyncio.gather(*(replica.stop() for replica in evaluator.replicas))
        await asyncio.gather(*(replica.start() for replica in evaluator.replicas))
        asked = sum(plane.asked.values())
        await watched.the_hour_comes()
        await watched.planned_again()
        assert [report.name for report in await watched.reports(2)] == [second.name, first.name]
        assert sum(plane.asked.values()) == asked, "no window is measured twice"
        assert (await evaluator.call("GetDriftMonitor", name=MONITOR)).drift_monitor.latest_report == second.name
        await all_let_go(evaluator)
        assert len({event.id for event in event_tap.events if isinstance(event.data, EvaluationDriftDetected)}) == 1
    finally:
        await database.close()
