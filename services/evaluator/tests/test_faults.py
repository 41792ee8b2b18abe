"""What the evaluator survives: copies that the bus takes for new, late commits, an older database, bytes."""

import math

from mainspring.evaluation.v1 import run_pb2
from mainspring.events.v1.evaluation_events_pb2 import EvaluationRunCompleted, EvaluationRunFailed
from mainspring_eventkit.bus import Bus
from mainspring_svckit.ids import new_id
from mainspring_testkit.events import EventTap, committed_late, publish
from mainspring_testkit.plugin import Token
from mainspring_testkit.requests import assert_refused
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import Surroundings

from .plane import Plane, version
from .processes import Evaluator, all_let_go, start_evaluator, stuck_in_the_midst


async def test_f4_f12_a_hundred_copies_that_the_bus_takes_for_new_are_one_run(
    evaluator: Evaluator, bus: Bus, event_tap: EventTap
) -> None:
    await evaluator.put_suite()
    registered = await evaluator.register(1)
    # As after a bus that was away for longer than it remembers what it has: the same event, each time a new message.
    for _ in range(100):
        await publish(bus, registered, event_id="registered-1")
    await publish(bus, await evaluator.register(2))
    completed = await event_tap.wait_for(EvaluationRunCompleted, count=2, within_s=60)
    assert {one.candidate for one in completed} == {version(1), version(2)}
    await all_let_go(evaluator)
    runs = (await evaluator.call("ListEvaluationRuns", parent="projects/p")).evaluation_runs
    assert sorted(run.candidate for run in runs) == [version(1), version(2)]


async def test_f21_an_event_that_commits_late_with_a_lower_number_is_told_of_too(
    evaluator: Evaluator, event_tap: EventTap
) -> None:
    """Somebody holds a lower number of the outbox open while a run ends."""
    failed = "projects/p/evaluationRuns/late"
    async with committed_late(evaluator.database_url, EvaluationRunFailed(evaluation_run=failed), failed):
        await evaluator.put_suite()
        await evaluator.register(1)
        await evaluator.create(version(1), request_id=new_id())
        await event_tap.wait_for(EvaluationRunCompleted, within_s=60)
    (told,) = await event_tap.wait_for(EvaluationRunFailed)
    assert told.evaluation_run == failed


async def test_f22_an_older_copy_of_the_database_ends_its_runs_with_the_same_figures(
    surroundings: Surroundings,
    postgres: PostgresServer,
    artifact_url: str,
    plane: tuple[Plane, str],
    event_tap: EventTap,
) -> None:
    database = await postgres.new_database("mainspring_evaluator")
    evaluator = await start_evaluator(surroundings, database, artifact_url, plane)
    run = await stuck_in_the_midst(evaluator)
    for replica in evaluator.replicas:
        await replica.stop()
    backup = await postgres.backup(database)
    evaluator.plane.stop_after = math.inf
    evaluator.plane.may_answer.set()
    for replica in evaluator.replicas:
        await replica.start()
    first = (await evaluator.watch(run.name))[-1]
    after = await evaluator.create(version(1), request_id=new_id())
    await evaluator.watch(after.name)
    await event_tap.wait_for(EvaluationRunCompleted, count=2)

    for replica in evaluator.replicas:
        await replica.stop()
        replica.env["MAINSPRING_DATABASE_URL"] = backup
        await replica.start()
    # The run that the copy knows as half done goes on; the one that it has never seen leaves its name unused.
    again = (await evaluator.watch(run.name))[-1]
    assert again.state == first.state == run_pb2.EvaluationRun.STATE_SUCCEEDED
    assert list(again.results) == list(first.results)
    third = await evaluator.create(version(1), request_id=new_id())
    assert third.name not in {run.name, after.name}
    told = await event_tap.wait_for(EvaluationRunCompleted, count=3)
    assert [list(one.results) for one in told if one.evaluation_run == run.name] == [list(first.results)] * 2


async def test_b2_bytes_that_are_no_request_are_refused_and_the_service_goes_on(
    evaluator: Evaluator, token: Token
) -> None:
    methods = ("GetEvaluationRun", "CreateEvaluationRun", "ListEvaluationItems", "GetEvaluationSuite")
    replica = evaluator.replicas[0]
    await assert_refused(replica.channel, "mainspring.evaluation.v1.EvaluationService", methods, token("admin"))
    assert await replica.is_ready()
