"""The evaluator as its users meet it: gRPC, events in and out, two replicas, real NATS, Postgres and gRPC around it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mainspring.common.v1 import statistics_pb2
from mainspring.evaluation.v1 import run_pb2
from mainspring.events.v1.evaluation_events_pb2 import EvaluationRunCompleted, EvaluationRunFailed
from mainspring.events.v1.feedback_events_pb2 import FeedbackItemRecorded
from mainspring.events.v1.inference_events_pb2 import ResponseCompleted
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.topology import DLQ_STREAM
from mainspring_svckit.errors import InvalidInput, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.ids import new_id
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.servers import NatsServer, PostgresServer, scratch_folder
from mainspring_testkit.service import Surroundings
from mainspring_testkit.waiting import eventually

from .plane import BASE, DATA, MODEL, QUESTIONS, SUITE, Plane, version
from .processes import Evaluator, all_let_go, start_evaluator, stuck_in_the_midst


async def test_a_registered_version_is_measured_once_and_the_result_is_told(
    evaluator: Evaluator, bus: Bus, event_tap: EventTap
) -> None:
    suite = await evaluator.put_suite()
    probe = {"schema": "mainspring.fidelity_probe.v1", "positions": [{"prefix": "a", "top": [[5, math.log(0.8)]]}]}
    registered = await evaluator.register(1, probe=json.dumps(probe).encode())
    cycle = new_id()
    for _ in range(3):  # The bus delivers at least once; the effect is single.
        await publish(bus, registered, cycle=cycle, event_id="registered-1")
    (completed,) = await event_tap.wait_for(EvaluationRunCompleted, within_s=60)
    assert (completed.evaluation_suite, completed.candidate, completed.baseline) == (SUITE, version(1), BASE)
    assert completed.candidate_manifest_sha256 == registered.manifest.sha256
    assert completed.baseline_manifest_sha256 == "cd" * 32
    assert (completed.dataset_version, completed.dataset_root_sha256) == (DATA, "ab" * 32)
    assert completed.items == len(QUESTIONS)
    assert len(completed.suite_sha256) == 64
    scores = {result.scorer: result for result in completed.results}
    assert scores["rouge_l"].candidate.value == 1
    assert scores["rouge_l"].difference.low > 0.3
    assert scores["bleu"].candidate.value == pytest.approx(100)
    assert completed.fidelity.mean_kl_nats == pytest.approx(0, abs=1e-9)
    assert completed.fidelity.positions == 1
    assert {event.cycle for event in event_tap.events if event.data == completed} == {cycle}

    seen = await evaluator.watch(completed.evaluation_run)
    run = seen[-1]
    assert run.state == run_pb2.EvaluationRun.STATE_SUCCEEDED
    assert (run.progress.done, run.progress.total, run.progress.unit) == (48, 48, "answers")
    assert run.suite_sha256 == completed.suite_sha256
    assert run.candidate_latency.p95.ToNanoseconds() == 250_000_000
    assert run.cycle == cycle
    runs = (await evaluator.call("ListEvaluationRuns", parent="projects/p")).evaluation_runs
    assert [listed.name for listed in runs] == [run.name]
    first = await evaluator.call("ListEvaluationItems", parent=run.name, page_size=20)
    rest = await evaluator.call("ListEvaluationItems", parent=run.name, page_size=20, page_token=first.next_page_token)
    items = [*first.evaluation_items, *rest.evaluation_items]
    assert [item.index for item in items] == list(range(24))
    assert items[0].baseline_text == "this is \ufffd no answer at all"
    assert all(item.candidate_scores["rouge_l"] == 1 for item in items)
    assert {len(item.references) for item in items} == {1, 2}
    assert set(evaluator.plane.asked.values()) == {1}
    await all_let_go(evaluator)
    assert len(event_tap.of(EvaluationRunCompleted)) == 1
    assert suite.bootstrap_resamples == 200


async def test_i2_the_champions_answers_are_not_generated_again(evaluator: Evaluator) -> None:
    await evaluator.put_suite()
    await evaluator.register(1)
    await evaluator.register(2)
    first = (await evaluator.watch((await evaluator.create(version(1))).name))[-1]
    evaluator.plane.asked.clear()
    evaluator.plane.released = version(1)
    second = (await evaluator.watch((await evaluator.create(version(2))).name))[-1]
    assert second.baseline == version(1)
    assert {asked for asked, _ in evaluator.plane.asked} == {version(2)}
    assert second.results[0].baseline == first.results[0].candidate
    assert second.results[0].p_value == 1


async def test_f1_a_killed_replicas_run_goes_on_where_it_was(evaluator: Evaluator, event_tap: EventTap) -> None:
    await evaluator.put_suite()
    await evaluator.register(1)
    plane, (first, second) = evaluator.plane, evaluator.replicas
    await second.stop()
    evaluator.replicas = [first]
    plane.stop_after = 30
    plane.may_answer.clear()
    run = await evaluator.create(version(1), request_id=new_id())

    async def stuck() -> bool:
        found = await evaluator.call("GetEvaluationRun", name=run.name)
        return found.evaluation_run.progress.done >= 24

    await eventually(stuck, within_s=30, what="half of the answers to be kept")
    await first.kill()
    plane.stop_after = math.inf
    plane.may_answer.set()
    await second.start()
    evaluator.replicas = [second]
    done = (await evaluator.watch(run.name))[-1]
    assert done.state == run_pb2.EvaluationRun.STATE_SUCCEEDED
    assert len(plane.asked) == 48
    # What was kept is there; only what was in hand at the kill, eight asked and eight being kept, was asked for twice.
    assert sum(plane.asked.values()) <= 48 + 16
    await event_tap.wait_for(EvaluationRunCompleted)
    await all_let_go(evaluator)
    assert len(event_tap.of(EvaluationRunCompleted)) == 1


@pytest.mark.parametrize("point", ["evaluator-versions:before-commit", "evaluator-versions:before-ack"])
async def test_f1_killed_while_it_hears_of_a_version_it_still_starts_one_run(
    evaluator: Evaluator, bus: Bus, event_tap: EventTap, point: str
) -> None:
    await evaluator.put_suite()
    registered = await evaluator.register(1)
    first, second = evaluator.replicas
    await second.stop()
    await first.kill()
    await first.start(ready=False, MAINSPRING_CRASH_AT=point)
    await publish(bus, registered)
    assert await first.wait() == 137
    await second.start()
    evaluator.replicas = [second]
    await event_tap.wait_for(EvaluationRunCompleted, within_s=60)
    runs = (await evaluator.call("ListEvaluationRuns", parent="projects/p")).evaluation_runs
    assert len(runs) == 1


async def test_f16_the_engine_away_for_a_while_costs_time_and_not_the_run(evaluator: Evaluator) -> None:
    await evaluator.put_suite()
    await evaluator.register(1)
    evaluator.plane.away_for = 40
    done = (await evaluator.watch((await evaluator.create(version(1))).name))[-1]
    assert done.state == run_pb2.EvaluationRun.STATE_SUCCEEDED, done.error.message


async def test_a_cancelled_run_ends_at_once_and_lets_go(evaluator: Evaluator, event_tap: EventTap) -> None:
    await evaluator.put_suite()
    await evaluator.register(1)
    evaluator.plane.stop_after = 5
    evaluator.plane.may_answer.clear()
    run = await evaluator.create(version(1))

    async def stuck() -> bool:
        return sum(evaluator.plane.asked.values()) >= 5

    await eventually(stuck, what="answers to be asked for")
    cancelled = await evaluator.call("CancelEvaluationRun", name=run.name)
    assert cancelled.evaluation_run.state == run_pb2.EvaluationRun.STATE_CANCELLED
    await all_let_go(evaluator)
    with pytest.raises(PreconditionFailed) as caught:
        await evaluator.call("CancelEvaluationRun", name=run.name)
    assert caught.value.reason == "ILLEGAL_STATE_TRANSITION"
    evaluator.plane.may_answer.set()
    evaluator.plane.stop_after = math.inf
    other = await evaluator.watch((await evaluator.create(version(1))).name)
    assert other[-1].state == run_pb2.EvaluationRun.STATE_SUCCEEDED
    assert [event.evaluation_run for event in await event_tap.wait_for(EvaluationRunCompleted)] == [other[-1].name]
    assert event_tap.of(EvaluationRunFailed) == []


async def test_b9_f10_f16_a_run_that_cannot_end_says_why_and_lets_go(evaluator: Evaluator, event_tap: EventTap) -> None:
    await evaluator.put_suite()
    await evaluator.register(1)
    plane = evaluator.plane

    async def fails_with(reason: str, baseline: str = "") -> None:
        before = len(event_tap.of(EvaluationRunFailed))
        run = (await evaluator.watch((await evaluator.create(version(1), baseline=baseline)).name))[-1]
        assert run.state == run_pb2.EvaluationRun.STATE_FAILED
        failed = (await event_tap.wait_for(EvaluationRunFailed, count=before + 1))[-1]
        assert (failed.evaluation_run, failed.candidate, failed.reason) == (run.name, version(1), reason)
        assert failed.message == run.error.message
        await all_let_go(evaluator)

    await fails_with("MODEL_VERSION_NOT_FOUND", baseline=version(9))
    await evaluator.put_dataset(shards=0)
    await fails_with("NO_TEST_ROWS")
    await evaluator.put_dataset(damaged=True)
    await fails_with("DATASET_UNREADABLE")
    plane.dataset.manifest.sha256 = "ef" * 32
    await fails_with("DATASET_UNREADABLE")
    await evaluator.put_dataset()
    plane.refused.add(version(1))
    await fails_with("DEPLOYMENT_FAILED")
    plane.refused.clear()
    plane.away_for = 1_000_000
    await fails_with("INFERENCE_FAILED")
    plane.away_for = 0
    done = (await evaluator.watch((await evaluator.create(version(1))).name))[-1]
    assert done.state == run_pb2.EvaluationRun.STATE_SUCCEEDED, done.error.message


async def test_requests_are_checked_and_a3_other_projects_are_not_seen(evaluator: Evaluator) -> None:
    with pytest.raises(InvalidInput) as caught:
        await evaluator.put_suite(scorers=["bleu", "guesswork"])
    assert caught.value.reason == "UNKNOWN_SCORER"
    with pytest.raises(InvalidInput):
        await evaluator.put_suite(scorers=[])
    with pytest.raises(NotFound):
        await evaluator.create(version(1))
    stored = await evaluator.put_suite()
    assert (await evaluator.call("GetEvaluationSuite", name=SUITE)).evaluation_suite == stored
    listed = await evaluator.call("ListEvaluationSuites", parent="projects/p")
    assert list(listed.evaluation_suites) == [stored]
    await evaluator.register(1)
    request_id = new_id()
    both = [await evaluator.create(version(1), request_id=request_id) for _ in range(2)]
    assert both[0] == both[1]
    for method, fields in (
        ("GetEvaluationRun", {"name": both[0].name}),
        ("ListEvaluationItems", {"parent": both[0].name}),
        ("CancelEvaluationRun", {"name": both[0].name}),
        ("GetEvaluationSuite", {"name": SUITE}),
    ):
        with pytest.raises(NotFound):
            await evaluator.call(method, caller=evaluator.stranger, **fields)
    done = (await evaluator.watch(both[0].name))[-1]
    assert statistics_pb2.Fidelity() == done.fidelity


async def test_f23_without_its_settings_it_says_what_is_missing(
    surroundings: Surroundings, postgres: PostgresServer, tmp_path: Path
) -> None:
    replica = surroundings.replica("mainspring_evaluator.main", await postgres.new_database("mainspring_evaluator"))
    with pytest.raises(RuntimeError, match="registry_address"):
        await replica.start()


async def test_f3_a_bus_killed_during_a_run_hears_of_its_end_once(
    evaluator: Evaluator, nats_server: NatsServer, event_tap: EventTap
) -> None:
    run = await stuck_in_the_midst(evaluator)
    await nats_server.kill()
    evaluator.plane.stop_after = math.inf
    evaluator.plane.may_answer.set()
    assert (await evaluator.watch(run.name))[-1].state == run_pb2.EvaluationRun.STATE_SUCCEEDED
    await nats_server.start(with_topology=False)
    await event_tap.wait_for(EvaluationRunCompleted, within_s=60)
    await all_let_go(evaluator)
    assert len(event_tap.of(EvaluationRunCompleted)) == 1


async def test_f6_a_database_killed_during_a_run_costs_time_and_not_the_run(
    surroundings: Surroundings, artifact_url: str, plane: tuple[Plane, str]
) -> None:
    async with scratch_folder("f6") as folder:
        server = PostgresServer(folder)
        await server.start()
        try:
            database = await server.new_database("mainspring_evaluator")
            evaluator = await start_evaluator(surroundings, database, artifact_url, plane, run_attempts=20)
            run = await stuck_in_the_midst(evaluator)

            async def found() -> run_pb2.EvaluationRun:
                try:
                    return (await evaluator.call("GetEvaluationRun", name=run.name)).evaluation_run
                except Unavailable:
                    return run_pb2.EvaluationRun()

            async def kept() -> bool:
                return (await found()).progress.done >= 29

            await eventually(kept, within_s=30, what="what was answered to be kept")
            await server.kill()
            await server.start()

            async def reads_again() -> bool:
                return bool((await found()).name)

            # An answer that comes before that cannot be kept, and is asked for once more.
            await eventually(reads_again, within_s=60, what="the evaluator to reach its database")
            evaluator.plane.stop_after = math.inf
            evaluator.plane.may_answer.set()

            async def succeeded() -> bool:
                seen = await found()
                assert seen.state != run_pb2.EvaluationRun.STATE_FAILED, seen.error.message
                return seen.state == run_pb2.EvaluationRun.STATE_SUCCEEDED

            await eventually(succeeded, within_s=60, what="the run to end")
            # Only what was in flight when the database died may have been asked for twice.
            assert sum(evaluator.plane.asked.values()) <= 48 + 2 * 12
            for replica in evaluator.replicas:
                await replica.stop()
        finally:
            await server.stop()


async def test_f8_two_replicas_that_migrate_at_once_both_serve(
    surroundings: Surroundings, postgres: PostgresServer, artifact_url: str, plane: tuple[Plane, str]
) -> None:
    empty = await postgres.new_database()
    evaluator = await start_evaluator(surroundings, empty, artifact_url, plane, migrate_on_start=True)
    stored = await evaluator.put_suite()
    for _ in evaluator.replicas:
        assert (await evaluator.call("GetEvaluationSuite", name=SUITE)).evaluation_suite == stored


async def test_f12_events_without_sense_are_put_aside_and_their_neighbours_measured(
    evaluator: Evaluator, bus: Bus, event_tap: EventTap
) -> None:
    await evaluator.put_suite()
    good = await evaluator.register(1)
    monitor = {"name": "projects/p/driftMonitors/d", "model": MODEL, "evaluation_suite": SUITE}
    await evaluator.call("UpdateDriftMonitor", drift_monitor=monitor, allow_missing=True)
    shared: dict[str, Any] = {
        "release": f"{MODEL}/releases/1",
        "finish_reason": "STOP",
        "messages": [{"role": 2, "content": "q"}],
    }
    await publish(bus, ResponseCompleted(answer="projects/p/answers/a", model_version="nonsense", **shared))
    for _ in range(3):
        await publish(bus, ResponseCompleted(answer="projects/p/answers/b", model_version=version(1), **shared))
    await publish(
        bus,
        FeedbackItemRecorded(
            feedback_item="projects/p/feedbackItems/f", answer="projects/p/answers/none", kind="THUMB"
        ),
    )
    await publish(bus, good)
    await event_tap.wait_for(EvaluationRunCompleted, within_s=60)

    async def dead() -> bool:
        return (await bus.stream(DLQ_STREAM)).last == 1

    await eventually(dead, within_s=60, what="the one event without sense to be a dead letter")


async def test_a_drift_monitor_is_checked_on_demand_and_a_suite_has_versions(evaluator: Evaluator) -> None:
    await evaluator.put_suite()
    await evaluator.put_suite(max_items=3)
    listed = await evaluator.call("ListEvaluationSuiteVersions", parent=SUITE)
    assert [v.evaluation_suite.version for v in listed.evaluation_suite_versions] == [2, 1]
    monitor = {"name": "projects/p/driftMonitors/d", "model": MODEL, "evaluation_suite": SUITE}
    written = await evaluator.call("UpdateDriftMonitor", drift_monitor=monitor, allow_missing=True)
    assert (written.drift_monitor.sample_items, written.drift_monitor.interval.seconds) == (100, 86_400)
    await evaluator.call("CheckDriftMonitor", name="projects/p/driftMonitors/d")
    found = await evaluator.call("GetDriftMonitor", name="projects/p/driftMonitors/d")
    assert found.drift_monitor == written.drift_monitor
    assert not (await evaluator.call("ListDriftReports", parent="projects/p/driftMonitors/d")).drift_reports
    assert len((await evaluator.call("ListDriftMonitors", parent="projects/p")).drift_monitors) == 1
    for method, fields in (
        ("GetDriftMonitor", {"name": "projects/p/driftMonitors/d"}),
        ("CheckDriftMonitor", {"name": "projects/p/driftMonitors/d"}),
        ("ListDriftReports", {"parent": "projects/p/driftMonitors/d"}),
    ):
        with pytest.raises(NotFound):
            await evaluator.call(method, caller=evaluator.stranger, **fields)
    await evaluator.register(1)
    runs = [(await evaluator.watch((await evaluator.create(version(1))).name))[-1] for _ in range(2)]
    assert (runs[0].generated_answers, runs[1].generated_answers, runs[1].suite_version) == (6, 0, 2)
    compared = await evaluator.call("CompareEvaluationRuns", first=runs[0].name, second=runs[1].name)
    assert compared.common_items == len(compared.pairs) == 3
    assert {scorer.equal for scorer in compared.scorers} == {3}
    sizes = await evaluator.call("EstimateSampleSize", parent="projects/p", standard_deviation=1.0, effect=0.5)
    assert sizes.sample_sizes[0].items_needed == 35
    with pytest.raises(InvalidInput):
        await evaluator.call("ListEvaluationItems", parent=runs[0].name, outcome=1)
