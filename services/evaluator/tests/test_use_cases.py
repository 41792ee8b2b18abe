"""Use cases over fakes: what is measured, what is stored, what is announced."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mainspring.events.v1.evaluation_events_pb2 import EvaluationRunCompleted, EvaluationRunFailed
from mainspring_evaluator.adapters.announcements import OutboxAnnouncements
from mainspring_evaluator.adapters.scoring import ThreadScoring
from mainspring_evaluator.application.evaluation import Evaluation
from mainspring_evaluator.application.generation import Generation
from mainspring_evaluator.application.ports import Ports, Units
from mainspring_evaluator.application.runs import RELEASE_WORK, RUN_WORK, Runs, Suites
from mainspring_evaluator.application.sharing import Answering
from mainspring_evaluator.domain.drift import DriftMonitor
from mainspring_evaluator.domain.fidelity import PROBE_SCHEMA
from mainspring_evaluator.domain.runs import EvaluationRun, RunState
from mainspring_evaluator.domain.suites import EvaluationSuite, Sampling, SuiteVersion
from mainspring_evaluator.transport import mapping, suites
from mainspring_svckit.errors import (
    EtagMismatch,
    IllegalTransition,
    InvalidInput,
    MainspringError,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from mainspring_svckit.names import project_name_of
from mainspring_svckit.values import ServedUnit
from mainspring_svckit.work import LeaseLost
from mainspring_testkit.fakes import (
    FakeArtifacts,
    FakeClock,
    FakeLease,
    FakeNotifier,
    FakeOutbox,
    FakeRepository,
    FakeTransactions,
    FakeWork,
)

from .fakes import (
    BASE,
    DATA,
    FIRST,
    MODEL,
    SECOND,
    FakeAnswers,
    FakeCatalogue,
    FakeDatasets,
    FakeEmbeddings,
    FakeInference,
    FakeItemFiles,
    FakeItems,
    FakeObservations,
    FakeReports,
    FakeShards,
    FakeTraffic,
)

SUITE = EvaluationSuite("projects/p/evaluationSuites/s", MODEL, ("rouge_l", "bleu"), bootstrap_resamples=100)


def project(value: Any) -> str:
    return project_name_of(value.name)


@dataclass
class World:
    catalogue: FakeCatalogue = field(default_factory=FakeCatalogue)
    datasets: FakeDatasets = field(default_factory=FakeDatasets)
    inference: FakeInference = field(default_factory=FakeInference)
    item_files: FakeItemFiles = field(default_factory=FakeItemFiles)
    embeddings: FakeEmbeddings = field(default_factory=FakeEmbeddings)
    observations: FakeObservations = field(default_factory=FakeObservations)
    traffic: FakeTraffic = field(default_factory=FakeTraffic)
    reports: FakeReports = field(default_factory=FakeReports)
    answers: FakeAnswers = field(default_factory=FakeAnswers)
    shards: FakeShards = field(default_factory=FakeShards)
    items: FakeItems = field(default_factory=FakeItems)
    files: FakeArtifacts = field(default_factory=FakeArtifacts)
    outbox: FakeOutbox = field(default_factory=FakeOutbox)
    work: FakeWork = field(default_factory=FakeWork)
    notifier: FakeNotifier = field(default_factory=FakeNotifier)

    def __post_init__(self) -> None:
        ids = iter(f"run-{number}" for number in range(100))
        self.ports = Ports(
            transactions=FakeTransactions(),
            suites=FakeRepository[EvaluationSuite](parent=project, sort_key=lambda s: s.name),
            suite_versions=FakeRepository[SuiteVersion](
                parent=lambda v: v.suite.name, sort_key=lambda v: f"{v.suite.version:09}", newest_first=True
            ),
            item_files=self.item_files,
            embeddings=self.embeddings,
            observations=self.observations,
            traffic=self.traffic,
            monitors=FakeRepository[DriftMonitor](parent=project, sort_key=lambda m: m.name),
            reports=self.reports,
            runs=FakeRepository[EvaluationRun](parent=project, sort_key=lambda r: r.name, newest_first=True),
            items=self.items,
            answers=self.answers,
            shards=self.shards,
            catalogue=self.catalogue,
            datasets=self.datasets,
            inference=self.inference,
            scoring=ThreadScoring(),
            files=self.files,
            announcements=OutboxAnnouncements(self.outbox),  # type: ignore[arg-type]
            work=self.work,
            notifier=self.notifier,
            clock=FakeClock(),
            new_id=lambda: next(ids),
        )
        self.build()

    def build(self, *, tries: int = 3) -> None:
        """The use cases over the ports, and one replica's worker."""
        self.suites, self.runs = Suites(self.ports), Runs(self.ports, release_delay_s=1)
        generation = Generation(self.ports, concurrency=2, tries=tries, retry_wait_s=0)
        self.evaluation = Evaluation(self.ports, self.runs, generation)
        answering = Answering(self.ports, generation)

        async def do(shard: str) -> None:
            await answering.room()
            try:
                await answering.answer(shard, FakeLease())
            except LeaseLost:
                raise
            except MainspringError as err:
                await answering.give_up(shard, err.reason, err.message)

        self.shards.do = do

    async def run(self, candidate: str = FIRST, suite: EvaluationSuite = SUITE, baseline: str = "") -> EvaluationRun:
        """Writes the suite, asks for a run by hand and does it."""
        await self.suites.put(suite, etag="", allow_missing=True)
        run = await self.runs.create(suite.name, candidate, baseline)
        lease = FakeLease()
        await self.evaluation.run(run.name, lease)
        assert lease.completed
        return await self.stored(run.name)

    async def stored(self, name: str) -> EvaluationRun:
        found = await self.ports.runs.get(name)
        assert found is not None
        return found.value


@pytest.fixture
def world() -> World:
    return World()


async def test_a_version_is_measured_against_its_foundation_and_the_others_are_told(world: World) -> None:
    run = await world.run()
    assert (run.state, run.start_time is not None, run.end_time is not None) == (RunState.SUCCEEDED, True, True)
    assert (run.progress.done, run.progress.total, run.progress.unit) == (6, 6, "answers")
    assert run.findings is not None
    assert run.findings.items == 3
    rouge, bleu = run.findings.results
    assert (rouge.scorer, rouge.candidate.value, bleu.candidate.value) == ("rouge_l", 1.0, pytest.approx(100))
    assert rouge.difference is not None
    assert rouge.difference.low > 0
    assert run.findings.fidelity is None
    assert (run.findings.latency.p50_s, run.findings.latency.p95_s) == (2.0, 3.0)
    (event,) = world.outbox.emitted
    assert isinstance(event, EvaluationRunCompleted)
    assert (event.candidate_manifest_sha256, event.baseline, event.baseline_manifest_sha256) == ("m1", BASE, "mb")
    assert (event.dataset_version, event.dataset_root_sha256, event.items) == (DATA, "root", 3)
    assert event.suite_sha256 == SUITE.sha256
    assert not event.HasField("fidelity")
    assert world.outbox.cycles == ["cycle-of-1"], "a run by hand joins the turn of its candidate"
    assert ("watch", run.name) in world.notifier.sent


async def test_items_hold_both_texts_their_scores_and_all_references(world: World) -> None:
    run = await world.run()
    items = sorted((stored.value for stored in world.items.rows.values()), key=lambda item: item.index)
    assert [item.index for item in items] == [0, 1, 2]
    blue = next(item for item in items if item.prompt[0].content == "blue")
    assert (blue.run, blue.references) == (run.name, ("all of the violets are blue", "so very blue is the sky"))
    assert (blue.candidate_text, blue.baseline_text) == ("all of the violets are blue", "blue\ufffd")
    assert blue.candidate_scores["rouge_l"] == 1.0
    assert set(blue.baseline_scores) == {"rouge_l", "bleu"}
    assert mapping.item_to_proto(blue).messages[0].content == "blue"


async def test_a_registered_version_starts_one_run_for_each_suite_of_its_model(world: World) -> None:
    for suite in (
        SUITE,
        replace(SUITE, name="projects/p/evaluationSuites/t"),
        replace(SUITE, name="projects/p/evaluationSuites/other", model="projects/p/models/n"),
    ):
        await world.suites.put(suite, etag="", allow_missing=True)
    runs = await world.runs.react(MODEL, FIRST, "turn")
    assert [run.suite.name.rsplit("/", 1)[-1] for run in runs] == ["s", "t"]
    assert {run.cycle for run in runs} == {"turn"}
    assert set(world.work.queued) == {(RUN_WORK, run.name) for run in runs}
    await world.evaluation.run(runs[0].name, FakeLease())
    assert world.outbox.cycles == ["turn"]


async def test_the_baseline_is_the_wish_else_what_is_released_else_the_foundation(world: World) -> None:
    world.catalogue.released = FIRST
    released = await world.run(SECOND)
    wished = await world.run(SECOND, baseline=BASE)
    assert released.subjects is not None
    assert wished.subjects is not None
    assert (released.subjects.baseline, wished.subjects.baseline) == (FIRST, BASE)
    alone = await world.run(BASE, replace(SUITE, dataset_version=DATA))
    assert alone.subjects is not None
    assert alone.findings is not None
    assert alone.subjects.baseline == ""
    assert [(r.baseline, r.difference, r.p_value) for r in alone.findings.results] == [(None, None, 0)] * 2


async def test_what_was_answered_is_never_generated_again(world: World) -> None:
    first = await world.run(FIRST)
    world.inference.asked.clear()
    world.inference.held.clear()
    world.catalogue.released = FIRST
    second = await world.run(SECOND)
    assert {version for version, _ in world.inference.asked} == {SECOND}
    assert {version for version, _ in world.inference.held} == {SECOND}, "a baseline that is known needs no memory"
    assert second.findings is not None
    assert first.findings is not None
    assert second.findings.results[0].baseline == first.findings.results[0].candidate


async def test_f1_a_run_goes_on_with_what_it_was_about_and_asks_only_for_what_is_missing(world: World) -> None:
    await world.suites.put(SUITE, etag="", allow_missing=True)
    run = await world.runs.create(SUITE.name, SECOND)
    with pytest.raises(LeaseLost):
        await world.evaluation.run(run.name, FakeLease(lasts=6))
    done = len(world.inference.asked)
    world.catalogue.released = FIRST  # Something was released meanwhile; the run compares with what it began with.
    await world.evaluation.run(run.name, FakeLease())
    stored = await world.stored(run.name)
    assert stored.subjects is not None
    assert stored.subjects.baseline == BASE
    assert len(world.inference.asked) == len(set(world.inference.asked)) == 6
    assert 0 < done < 6
    assert stored.findings is not None
    assert stored.findings.generated_answers == 6, "those that the owner before shared out are of this run"
    assert (stored.progress.done, stored.progress.total) == (6, 6)
    assert world.shards.rows == {}


async def test_a_passing_trouble_is_sat_out_and_a_refusal_is_not(world: World) -> None:
    world.inference.failures["blue"] = [Unavailable("X", "away")] * 2
    assert (await world.run()).state is RunState.SUCCEEDED
    world.answers.rows.clear()
    world.inference.failures["red"] = [InvalidInput("too long", reason="CONTEXT_LENGTH_EXCEEDED")]
    with pytest.raises(PreconditionFailed) as caught:
        await world.run()
    assert caught.value.reason == "INFERENCE_FAILED"
    assert "item 1 was refused: CONTEXT_LENGTH_EXCEEDED" in caught.value.message


async def test_f13_a_worker_without_its_lease_writes_nothing(world: World) -> None:
    await world.suites.put(SUITE, etag="", allow_missing=True)
    run = await world.runs.create(SUITE.name, FIRST)
    with pytest.raises(LeaseLost):
        await world.evaluation.run(run.name, FakeLease(lost=True))
    assert await world.stored(run.name) == run
    assert world.outbox.emitted == []


@pytest.mark.parametrize("cause", ["no rows", "no dataset"])
async def test_b9_without_test_rows_a_run_cannot_end(world: World, cause: str) -> None:
    if cause == "no rows":
        world.datasets.rows = []
    else:
        world.catalogue.versions[FIRST] = replace(world.catalogue.versions[FIRST], dataset_version="")
    with pytest.raises(PreconditionFailed) as caught:
        await world.run()
    assert caught.value.reason == "NO_TEST_ROWS"


async def test_a_failed_run_says_why_lets_go_and_tells_the_others(world: World) -> None:
    await world.suites.put(SUITE, etag="", allow_missing=True)
    (run,) = await world.runs.react(MODEL, FIRST, "turn")
    await world.runs.give_up(run.name, "NO_TEST_ROWS", "none")
    stored = await world.stored(run.name)
    assert (stored.state, stored.error_reason) == (RunState.FAILED, "NO_TEST_ROWS")
    (event,) = world.outbox.emitted
    assert isinstance(event, EvaluationRunFailed)
    assert (event.candidate, event.reason, event.message) == (FIRST, "NO_TEST_ROWS", "none")
    assert world.outbox.cycles == ["turn"]
    assert (RELEASE_WORK, run.name) in world.work.queued
    shown = mapping.run_to_proto(stored)
    assert shown.error.message == "none"


async def test_models_are_let_go_however_often_it_is_asked(world: World) -> None:
    run = await world.run()
    assert (RELEASE_WORK, run.name) in world.work.queued
    world.inference.held.add((BASE, "somebody else"))
    for _ in range(2):
        await world.runs.release(run.name)
    assert world.inference.held == {(BASE, "somebody else")}


async def test_a_cancelled_run_leaves_the_queue_and_cannot_be_cancelled_again(world: World) -> None:
    await world.suites.put(SUITE, etag="", allow_missing=True)
    run = await world.runs.create(SUITE.name, FIRST)
    assert (await world.runs.cancel(run.name)).state is RunState.CANCELLED
    assert set(world.work.queued) == {(RELEASE_WORK, run.name)}
    assert world.outbox.emitted == []
    with pytest.raises(IllegalTransition):
        await world.runs.cancel(run.name)


async def test_fidelity_is_measured_with_the_candidates_probe(world: World) -> None:
    probe = {"schema": PROBE_SCHEMA, "positions": [{"prefix": p, "top": [[1, -0.1], [2, -3.0]]} for p in "ab"]}
    file = await world.files.put_bytes("p", json.dumps(probe).encode())
    world.catalogue.versions[FIRST] = replace(world.catalogue.versions[FIRST], probe=file)
    world.inference.tokens = {"a": {1: -0.1, 2: -3.0}, "b": {2: -0.1, 1: -3.0}}
    run = await world.run()
    assert run.findings is not None
    assert run.findings.fidelity is not None
    assert (run.findings.fidelity.top1_agreement, run.findings.fidelity.positions) == (0.5, 2)
    assert run.findings.fidelity.mean_kl_nats > 0.5
    world.inference.tokens = {"a": {}, "b": {}}
    with pytest.raises(PreconditionFailed) as caught:
        await world.run()
    assert caught.value.reason == "INFERENCE_FAILED"


async def test_a_suite_is_applied_as_it_stood_when_the_run_was_asked_for(world: World) -> None:
    await world.suites.put(SUITE, etag="", allow_missing=True)
    run = await world.runs.create(SUITE.name, FIRST)
    await world.suites.put(replace(SUITE, scorers=("chrf",), max_items=1), etag="", allow_missing=False)
    await world.evaluation.run(run.name, FakeLease())
    findings = (await world.stored(run.name)).findings
    assert findings is not None
    assert [result.scorer for result in findings.results] == ["rouge_l", "bleu"]
    assert findings.items == 3


async def test_max_items_and_sampling_are_those_of_the_suite(world: World) -> None:
    run = await world.run(suite=replace(SUITE, max_items=2, sampling=Sampling(17, 0.5, 3)))
    assert run.findings is not None
    assert run.findings.items == 2
    assert world.inference.sampling == Sampling(17, 0.5, 3)


def unit(number: int) -> ServedUnit:
    return ServedUnit(f"projects/p/prompts/q/versions/{number}", temperature=number / 4, max_output_tokens=9)


async def test_i7_a_candidate_is_asked_with_what_its_release_would_name_and_the_champion_with_what_it_serves_with(
    world: World,
) -> None:
    world.catalogue.released = SECOND
    world.catalogue.served = Units(unit(1), unit(2))
    run = await world.run(suite=replace(SUITE, sampling=Sampling(17, 0.0, 3)))
    assert world.inference.units == {FIRST: unit(1), SECOND: unit(2)}
    assert world.inference.sampling == Sampling(9, 0.5, 3)
    assert run.subjects is not None
    assert (run.subjects.candidate_unit, run.subjects.baseline_unit) == (unit(1), unit(2))
    (told,) = [event for event in world.outbox.emitted if isinstance(event, EvaluationRunCompleted)]
    assert (told.candidate_unit_sha256, told.baseline_unit_sha256) == (unit(1).sha256, unit(2).sha256)


async def test_i7_answers_of_another_prompt_are_not_taken_for_this_ones(world: World) -> None:
    await world.run()
    before = len(world.inference.asked)
    world.catalogue.served = Units(unit(1))
    await world.run()
    assert len(world.inference.asked) == 2 * before
    assert set(world.inference.units.values()) == {unit(1)}, "what serves nothing is asked as the candidate is"
    await world.run()
    assert len(world.inference.asked) == 2 * before


async def test_a_suite_that_cannot_be_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput) as caught:
        await world.suites.put(replace(SUITE, scorers=("bleu", "meteor")), etag="", allow_missing=True)
    assert caught.value.reason == "UNKNOWN_SCORER"
    assert [violation.field for violation in caught.value.violations] == ["evaluation_suite.scorers[1]"]
    with pytest.raises(NotFound):
        await world.suites.put(SUITE, etag="", allow_missing=False)
    stored = await world.suites.put(SUITE, etag="", allow_missing=True)
    await world.suites.put(SUITE, etag=stored.etag, allow_missing=False)
    with pytest.raises(EtagMismatch):
        await world.suites.put(SUITE, etag=stored.etag, allow_missing=False)


async def test_a_suite_survives_the_wire(world: World) -> None:
    suite = replace(SUITE, dataset_version=DATA, max_items=7, sampling=Sampling(9, 0.25, 4), confidence_level=0.9)
    stored = await world.suites.put(suite, etag="", allow_missing=True)
    message = suites.suite_to_proto(stored)
    assert suites.suite_from_proto(message) == suite
    assert (stored.value, message.version) == (replace(suite, version=1), 1)
    assert message.etag == stored.etag
    message.ClearField("sampling")
    message.ClearField("bootstrap_resamples")
    message.ClearField("confidence_level")
    defaults = suites.suite_from_proto(message)
    assert (defaults.sampling, defaults.bootstrap_resamples) == (Sampling(128, 0.0, 0), 1000)
    assert defaults.confidence_level == 0.95
