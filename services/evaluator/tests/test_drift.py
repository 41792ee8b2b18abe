"""Drift: the released version is asked today's questions on schedule, and a loss is told."""

import random
from dataclasses import replace
from typing import Any

import pytest

from mainspring.events.v1.evaluation_events_pb2 import EvaluationDriftDetected
from mainspring.events.v1.feedback_events_pb2 import FeedbackItemRecorded
from mainspring.events.v1.inference_events_pb2 import ResponseCompleted
from mainspring_evaluator.adapters.traffic import PostgresTraffic
from mainspring_evaluator.application.drift import DRIFT_WORK, DriftChecks, Monitors, Traffic
from mainspring_evaluator.application.generation import Generation
from mainspring_evaluator.application.ports import Traffic as TrafficPort
from mainspring_evaluator.domain.drift import Asked, DriftMonitor
from mainspring_evaluator.domain.suites import Judge, JudgePanel, Retrieval
from mainspring_evaluator.transport.drift import asked_of, monitor_from_proto, monitor_to_proto, report_to_proto
from mainspring_evaluator.transport.events import Reactions
from mainspring_svckit.database import Database
from mainspring_svckit.errors import NotFound, PreconditionFailed
from mainspring_svckit.work import LeaseLost
from mainspring_testkit.fakes import FakeLease, FakeTransactions
from mainspring_testkit.plugin import DatabaseFor

from .fakes import FIRST, MODEL, FakeTraffic
from .test_use_cases import SUITE, World

WATCHED = replace(SUITE, scorers=("answer_words", "empty_answers", "rouge_l"))
MONITOR = DriftMonitor("projects/p/driftMonitors/d", MODEL, SUITE.name, interval_s=60, sample_items=40)


class Watch:
    """A world with a released version that says `words` words, and a monitor."""

    def __init__(self) -> None:
        self.world = World()
        self.world.catalogue.released = FIRST
        self.checks = DriftChecks(
            self.world.ports, Generation(self.world.ports, concurrency=2, tries=1, retry_wait_s=0)
        )
        self.monitors, self.traffic = Monitors(self.world.ports), Traffic(self.world.ports)
        self.random, self.asked = random.Random(1), 0
        self.world.inference.said[FIRST] = lambda prompt: "word"

    async def start(self) -> None:
        await self.world.suites.put(WATCHED, etag="", allow_missing=True)
        await self.monitors.put(MONITOR, etag="", allow_missing=True)

    async def people_ask(self, count: int, *, words: int = 8, latency_s: float = 0.5, good: bool | None = None) -> None:
        for _ in range(count):
            self.asked += 1
            length = words + self.random.randint(-2, 2)
            question = " ".join(f"w{self.random.randint(0, 99)}" for _ in range(length))
            name = f"projects/p/answers/a{self.asked:05}"
            slow = latency_s * self.random.uniform(0.8, 1.2)
            await self.traffic.answered(Asked(name, MODEL, FIRST, (("user", question),), "said", slow, 3))
            if good is not None:
                await self.traffic.judged(name, self.random.random() < (0.9 if good else 0.3))

    async def check(self) -> Any:
        before = len(self.world.reports.rows)
        await self.checks.check(MONITOR.name, FakeLease())
        reports = sorted((row.value for row in self.world.reports.rows.values()), key=lambda report: report.number)
        return reports[-1] if len(reports) > before else None


@pytest.fixture
async def watch() -> Watch:
    made = Watch()
    await made.start()
    return made


async def test_the_first_check_is_what_later_ones_are_compared_with_and_no_change_is_no_alarm(watch: Watch) -> None:
    await watch.people_ask(60, good=True)
    first = await watch.check()
    assert (first.reference, first.items, first.signals, first.model_version) == (True, 40, (), FIRST)
    assert "rouge_l" not in first.figures, "nobody wrote references"
    assert await watch.check() is None, "no question is measured twice"
    await watch.people_ask(40, good=True)
    second = await watch.check()
    assert {signal.signal for signal in second.signals} >= {"approval", "question_words", "served_latency"}
    assert second.alarms == ()
    assert watch.world.outbox.emitted == []
    assert (DRIFT_WORK, MONITOR.name) in watch.world.work.queued
    assert watch.world.inference.held == set()


@pytest.mark.parametrize(
    ("change", "signal"),
    [
        ({"latency_s": 0.9}, "served_latency"),
        ({"words": 14}, "question_words"),
        ({"good": False}, "approval"),
    ],
)
async def test_a_loss_is_an_alarm_and_is_told(watch: Watch, change: dict[str, Any], signal: str) -> None:
    await watch.people_ask(40, good=True)
    await watch.check()
    await watch.people_ask(40, **{"good": True, **change})
    report = await watch.check()
    assert report.alarms == (signal,)
    (event,) = watch.world.outbox.emitted
    assert event == EvaluationDriftDetected(
        drift_report=report.name, model=MODEL, model_version=FIRST, signals=[signal]
    )
    shown = report_to_proto(report)
    assert (shown.alarm, shown.items) == (True, 40)


async def test_a_gain_is_no_alarm_and_a_version_that_answers_emptily_is_one(watch: Watch) -> None:
    await watch.people_ask(40)
    await watch.check()
    await watch.people_ask(40, latency_s=0.2)
    assert (await watch.check()).alarms == ()
    watch.world.inference.said[FIRST] = lambda prompt: ""
    await watch.people_ask(40, latency_s=0.5)
    assert set((await watch.check()).alarms) == {"answer_words", "empty_answers"}


async def test_with_too_few_questions_or_nothing_released_a_check_waits(watch: Watch) -> None:
    await watch.people_ask(19)
    assert await watch.check() is None
    watch.world.catalogue.released = ""
    await watch.people_ask(40)
    assert await watch.check() is None
    assert (DRIFT_WORK, MONITOR.name) in watch.world.work.queued


async def test_the_released_version_is_asked_with_the_passages_of_the_suite(watch: Watch) -> None:
    context = Retrieval("projects/p/collections/c")
    await watch.world.suites.put(replace(WATCHED, context=context), etag="", allow_missing=False)
    await watch.people_ask(40)
    assert await watch.check() is not None
    assert watch.world.inference.contexts["answer"] == {context}


async def test_f13_a_checker_without_its_lease_writes_nothing(watch: Watch) -> None:
    await watch.people_ask(40)
    with pytest.raises(LeaseLost):
        await watch.checks.check(MONITOR.name, FakeLease(lost=True))
    assert watch.world.reports.rows == {}
    assert watch.world.inference.held == set()


async def test_traffic_is_kept_only_where_somebody_needs_it(watch: Watch) -> None:
    paused = await watch.monitors.put(replace(MONITOR, paused=True), etag="", allow_missing=False)
    assert (DRIFT_WORK, MONITOR.name) not in watch.world.work.queued
    await watch.people_ask(1)
    assert watch.world.traffic.rows == {}
    with pytest.raises(PreconditionFailed):
        await watch.monitors.check_now(MONITOR.name)
    panel = JudgePanel((Judge("j", FIRST),))
    await watch.world.suites.put(replace(WATCHED, scorers=("judge_rubric",), judges=panel), etag="", allow_missing=True)
    await watch.people_ask(1)
    assert len(watch.world.traffic.rows) == 1, "people's judgements of it are what a judge is compared with"
    assert monitor_from_proto(monitor_to_proto(paused)) == paused.value
    with pytest.raises(NotFound):
        await watch.monitors.put(replace(MONITOR, name="projects/p/driftMonitors/none"), etag="", allow_missing=False)


async def test_only_what_people_ask_a_release_is_traffic(watch: Watch) -> None:
    reactions = Reactions(watch.world.runs, watch.traffic)

    class Heard:
        def __init__(self, data: Any) -> None:
            self.data = data

    good = ResponseCompleted(
        answer="projects/p/answers/a",
        model_version=FIRST,
        release=f"{MODEL}/releases/1",
        messages=[{"role": "ROLE_USER", "content": "why?"}],  # type: ignore[list-item]
        text="because",
        finish_reason="STOP",
        caller="somebody",
    )
    for change in ({"release": ""}, {"caller": "service:evaluator"}, {"finish_reason": "ERROR"}, {"messages": []}):
        bad = ResponseCompleted()
        bad.CopyFrom(good)
        bad.MergeFrom(ResponseCompleted(**change))  # type: ignore[arg-type]
        for name, value in change.items():
            if not value:
                bad.ClearField(name)  # type: ignore[arg-type]
        await reactions.on_answered(Heard(bad))  # type: ignore[arg-type]
    assert watch.world.traffic.rows == {}
    for _ in range(2):
        await reactions.on_answered(Heard(good))  # type: ignore[arg-type]
    judged = FeedbackItemRecorded(answer=good.answer, kind="CORRECTION", value=0)
    await reactions.on_judged(Heard(judged))  # type: ignore[arg-type]
    (kept,) = watch.world.traffic.rows.values()
    assert (kept.messages, kept.text, kept.good) == ((("user", "why?"),), "because", False)


class TrafficContract:
    """What every store of traffic does. Subclasses give `kept` and `transaction`."""

    async def test_the_newest_after_a_name_come_first_and_judged_ones_apart(
        self, kept: TrafficPort, transaction: Any
    ) -> None:
        def asked(number: int, version: str = FIRST) -> Asked:
            messages = (("system", "s"), ("user", f"q\x00{number}"))
            return Asked(f"projects/p/answers/{version[-1]}{number}", MODEL, version, messages, "t\x00", 0.5, 2)

        async with transaction():
            for number in (1, 2, 3, 3):
                await kept.add(asked(number))
            await kept.add(asked(4, f"{MODEL}/versions/2"))
            await kept.judge(asked(2).name, False)
            await kept.judge("projects/p/answers/none", True)
        async with transaction():
            assert await kept.newest(FIRST, "", 2) == [asked(3), replace(asked(2), good=False)]
            assert await kept.newest(FIRST, asked(2).name, 9) == [asked(3)]
            (judged,) = await kept.judged(MODEL, 9)
        assert (judged.messages[1].content, judged.text, judged.good) == ("q\x002", "t\x00", False)


class TestFakeTraffic(TrafficContract):
    @pytest.fixture
    def kept(self) -> TrafficPort:
        return FakeTraffic()

    @pytest.fixture
    def transaction(self) -> Any:
        return FakeTransactions().transaction


class TestPostgresTraffic(TrafficContract):
    @pytest.fixture
    async def database(self, database_for: DatabaseFor) -> Database:
        return await database_for("mainspring_evaluator")

    @pytest.fixture
    def kept(self, database: Database) -> TrafficPort:
        return PostgresTraffic(database)

    @pytest.fixture
    def transaction(self, database: Database) -> Any:
        return database.transaction


def test_an_answer_is_read_with_all_that_a_check_needs() -> None:
    data = ResponseCompleted(answer="projects/p/answers/a", model_version=FIRST, text="t")
    assert asked_of(data).model == MODEL
