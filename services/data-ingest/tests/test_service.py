"""Data-ingest as its users meet it: gRPC, events in and out, two replicas, real NATS and Postgres."""

import asyncio
import json
from typing import Any

import psutil
import pytest
from google.protobuf import json_format

from mainspring.common.v1 import artifact_pb2
from mainspring.data.v1 import dataset_pb2, ingestion_pb2, recipe_pb2
from mainspring.events.v1.data_events_pb2 import DatasetVersionPublished
from mainspring.events.v1.feedback_events_pb2 import PreferencesReady
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.topology import DLQ_STREAM
from mainspring_svckit.errors import InvalidInput, MainspringError, NotFound, PreconditionFailed
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_from_proto, artifact_to_proto
from mainspring_svckit.status import error_info
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.waiting import eventually

from .harness import CSV, DATASET, ENDED, JSONL, LONG, RECIPE, DataIngest, pairs


def preferences(examples: artifact_pb2.Artifact, recipe: str = RECIPE) -> PreferencesReady:
    return PreferencesReady(
        retraining_trigger="projects/p/retrainingTriggers/t",
        model="projects/p/models/m",
        ingestion_recipe=recipe,
        examples=examples,
        item_count=1,
    )


def example(prompt: str, answer: str) -> bytes:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}).encode() + b"\n"


async def test_b9_a_file_becomes_a_version_and_every_row_is_accounted_for(
    ingest: DataIngest, event_tap: EventTap
) -> None:
    await ingest.put_recipe(prompt_template="Describe {input}.")
    bad = b'mr,ref\n"name[X]","fine row"\n"name[Y]","unterminated\nname[Z],too,many,columns\n\xff\x80broken,bytes\n'
    done = await ingest.ingest(bad + b'"name[W]","fine row two"\n', format=CSV)
    assert (done.state, done.dataset_version) == (ingestion_pb2.Ingestion.STATE_SUCCEEDED, f"{DATASET}/versions/1")
    assert (done.progress.done, done.progress.total) == (5, 5)
    version = await ingest.version(done.dataset_version)
    assert (version.input_rows, sum(split.rows for split in version.splits)) == (5, 2)
    assert {refusal.reason: refusal.rows for refusal in version.refusals} == {dataset_pb2.REFUSAL_REASON_UNREADABLE: 3}
    rows = await ingest.rows(version)
    assert sorted(row["messages"][1]["content"] for row in rows) == ["fine row", "fine row two"]
    assert rows[0]["messages"][0]["content"].startswith("Describe name[")
    first = await ingest.call("ListRefusedRows", parent=version.name, page_size=2)
    rest = await ingest.call("ListRefusedRows", parent=version.name, page_size=2, page_token=first.next_page_token)
    assert [row.line for row in [*first.refused_rows, *rest.refused_rows]] == [3, 4, 5]
    assert rest.next_page_token == ""
    (event,) = await event_tap.wait_for(DatasetVersionPublished)
    assert (event.dataset_version, event.root_sha256, event.refused_rows) == (version.name, version.root_sha256, 3)
    assert (event.ingestion, event.ingestion_recipe, event.supersedes) == (done.name, RECIPE, "")
    assert list(event.source_sha256s) == [source.sha256 for source in version.sources]
    assert event_tap.events[-1].cycle == done.cycle == version.cycle
    dataset = (await ingest.call("GetDataset", name=DATASET)).dataset
    assert dataset.latest_version == version.name


async def test_b9_each_row_says_in_which_step_it_was_refused_or_changed(ingest: DataIngest) -> None:
    repair, length = recipe_pb2.TextRepair(), recipe_pb2.LengthFilter(min_words=2)
    steps = [recipe_pb2.RecipeStep(text_repair=repair), recipe_pb2.RecipeStep(length_filter=length)]
    await ingest.put_recipe(steps=steps)
    answers = ["cafÃ© one", "short", "two words", "naÃ¯ve two", 4]
    rows = [json.dumps({"mr": f"q{number}", "ref": answer}) for number, answer in enumerate(answers)]
    done = await ingest.ingest("\n".join(rows).encode())
    version = await ingest.version(done.dataset_version)
    refused = (await ingest.call("ListRefusedRows", parent=version.name)).refused_rows
    assert [(row.line, row.step, row.step_number) for row in refused] == [(2, "length_filter", 2), (5, "reading", 0)]
    first = await ingest.call("ListChangedRows", parent=version.name, page_size=1)
    rest = await ingest.call("ListChangedRows", parent=version.name, page_token=first.next_page_token, page_size=1)
    changed = [*first.changed_rows, *rest.changed_rows]
    assert [(row.line, [(step.step, step.step_number) for step in row.steps]) for row in changed] == [
        (1, [("text_repair", 1)]),
        (4, [("text_repair", 1)]),
    ]
    assert rest.next_page_token == ""
    ids = {row["row_id"]: row["line"] for row in await ingest.rows(version)}
    assert [ids[row.row_id] for row in changed] == [1, 4]


async def test_the_same_again_is_the_same_version(ingest: DataIngest, event_tap: EventTap) -> None:
    await ingest.put_recipe()
    first = await ingest.ingest(pairs(30))
    again = await ingest.ingest(pairs(30))
    assert again.name != first.name
    assert again.dataset_version == first.dataset_version
    more = await ingest.ingest(pairs(30), pairs(10, 30))
    assert more.dataset_version == f"{DATASET}/versions/2"
    before = {row["row_id"]: row["split"] for row in await ingest.rows(await ingest.version(first.dataset_version))}
    after = {row["row_id"]: row["split"] for row in await ingest.rows(await ingest.version(more.dataset_version))}
    assert (len(before), len(after)) == (30, 40)
    assert before.items() <= after.items()
    assert len(await event_tap.wait_for(DatasetVersionPublished, count=2)) == 2


async def test_i2_preferences_are_added_once_however_often_they_are_told(
    ingest: DataIngest, bus: Bus, event_tap: EventTap
) -> None:
    await ingest.put_recipe()
    await ingest.ingest(pairs(20))
    cycle = new_id()
    examples = await ingest.upload(example("q3", "better") + example("new", "n"))
    for _ in range(5):
        await publish(bus, preferences(examples), cycle=cycle, event_id="ready-1")
    _, event = await event_tap.wait_for(DatasetVersionPublished, count=2)
    assert event_tap.events[-1].cycle == cycle
    version = await ingest.version(event.dataset_version)
    rows = await ingest.rows(version)
    assert (version.input_rows, len(rows)) == (22, 22)
    assert len({row["split"] for row in rows if row["messages"][0]["content"] == "q3"}) == 1
    assert len((await ingest.call("ListIngestions", parent="projects/p")).ingestions) == 2
    assert await ingest.version_names() == ["2", "1"]


async def test_i2_preferences_that_come_together_are_all_in_the_newest_version(
    ingest: DataIngest, bus: Bus, event_tap: EventTap
) -> None:
    await ingest.put_recipe()
    await ingest.ingest(pairs(5))
    for number in range(4):
        await publish(bus, preferences(await ingest.upload(example(f"new {number}", "a"))), cycle=new_id())
    events = await event_tap.wait_for(DatasetVersionPublished, count=5, within_s=60)
    rows = await ingest.rows(await ingest.version(events[-1].dataset_version))
    assert {f"new {number}" for number in range(4)} <= {row["messages"][0]["content"] for row in rows}
    assert await ingest.version_names() == ["5", "4", "3", "2", "1"]


@pytest.mark.parametrize(
    "point",
    [
        "ingestion:after-claim",
        "artifacts:before-rename",
        "ingestion:mid-shards",
        "artifacts:after-put",
        "ingestion:before-commit",
        "outbox:before-publish",
        "outbox:after-publish",
    ],
)
async def test_f1_killed_at_any_point_an_ingestion_gives_one_version(
    ingest: DataIngest, event_tap: EventTap, point: str
) -> None:
    await ingest.put_recipe()
    uploaded = await ingest.upload(pairs(20))
    first, second = ingest.replicas
    await second.stop()
    await first.kill()
    await first.start(ready=False, MAINSPRING_CRASH_AT=point)
    ingest.replicas = [first]
    await eventually(first.is_ready, within_s=30)
    sources = [ingestion_pb2.Source(artifact=uploaded, format=JSONL)]
    wish = {"parent": "projects/p", "ingestion_recipe": RECIPE, "sources": sources, "request_id": new_id()}
    started = (await ingest.call("CreateIngestion", **wish)).ingestion
    assert await first.wait() == 137
    await second.start()
    ingest.replicas = [second]
    assert (await ingest.call("CreateIngestion", **wish)).ingestion == started  # I1, I2
    done = await ingest.watch(started.name)
    assert done.dataset_version == f"{DATASET}/versions/1"
    assert await ingest.version_names() == ["1"]
    assert len(await ingest.rows(await ingest.version(done.dataset_version))) == 20
    assert len(await event_tap.wait_for(DatasetVersionPublished, within_s=45)) == 1


async def test_f1_killed_with_its_preferences_a_replica_loses_none(
    ingest: DataIngest, bus: Bus, event_tap: EventTap
) -> None:
    await ingest.put_recipe()
    examples = await ingest.upload(example("new", "n"))
    first, second = ingest.replicas
    await second.stop()
    await first.kill()
    await first.start(ready=False, MAINSPRING_CRASH_AT="data-ingest-preferences:before-ack")
    await publish(bus, preferences(examples), cycle=new_id())
    assert await first.wait() == 137
    await second.start()
    ingest.replicas = [second]
    await event_tap.wait_for(DatasetVersionPublished, within_s=45)
    assert len((await ingest.call("ListIngestions", parent="projects/p")).ingestions) == 1


def refining_processes(ingest: DataIngest) -> list[psutil.Process]:
    replicas = [psutil.Process(replica.pid) for replica in ingest.replicas]
    return [child for replica in replicas for child in replica.children(recursive=True)]


def is_reading(work: ingestion_pb2.Ingestion) -> bool:
    return work.progress.phase == "reading" or work.state in ENDED


async def test_f1_a_killed_refining_process_costs_nothing_but_time(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    started = await ingest.start(pairs(LONG))
    assert (await ingest.watch(started.name, is_reading)).progress.phase == "reading"
    (child,) = refining_processes(ingest)
    child.kill()
    done = await ingest.watch(started.name)
    assert done.dataset_version == f"{DATASET}/versions/1"
    assert (await ingest.version(done.dataset_version)).input_rows == LONG


async def test_f20_a_stopping_replica_hands_its_ingestion_over(ingest: DataIngest, event_tap: EventTap) -> None:
    await ingest.put_recipe()
    started = await ingest.start(pairs(LONG))
    assert (await ingest.watch(started.name, is_reading)).progress.phase == "reading"
    (busy,) = [replica for replica in ingest.replicas if psutil.Process(replica.pid).children()]
    assert await busy.stop() == 0
    ingest.replicas = [replica for replica in ingest.replicas if replica is not busy]
    done = await ingest.watch(started.name)
    assert done.dataset_version == f"{DATASET}/versions/1"
    assert len(await event_tap.wait_for(DatasetVersionPublished)) == 1


async def test_a_running_ingestion_is_cancelled(ingest: DataIngest, tmp_path: Any) -> None:
    await ingest.put_recipe()
    started = await ingest.start(pairs(LONG))
    assert (await ingest.watch(started.name, is_reading)).progress.phase == "reading"
    cancelled = (await ingest.call("CancelIngestion", name=started.name)).ingestion
    assert cancelled.state == ingestion_pb2.Ingestion.STATE_CANCELLED

    async def nothing_is_left() -> bool:
        return not refining_processes(ingest) and list((tmp_path / "scratch").iterdir()) == []

    await eventually(nothing_is_left, within_s=20, what="the refining process and its files to be gone")
    with pytest.raises(PreconditionFailed) as caught:
        await ingest.call("CancelIngestion", name=started.name)
    assert caught.value.reason == "ILLEGAL_STATE_TRANSITION"
    with pytest.raises(NotFound):
        await ingest.call("GetDataset", name=DATASET)
    assert (await ingest.ingest(pairs(3))).dataset_version == f"{DATASET}/versions/1"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "SOURCE_EMPTY"),
        (b"mr,ref\n", "SOURCE_HAS_NO_ROWS"),
        (b"a,b\n1,2\n", "SOURCE_LACKS_COLUMN"),
        ("mr,ref\né,ü\n".encode("latin-1"), "SOURCE_NOT_UTF8"),
        (b"\x1f\x8b\x08\x00", "SOURCE_UNREADABLE"),
    ],
)
async def test_b9_files_that_cannot_be_read_fail_with_a_reason(ingest: DataIngest, data: bytes, reason: str) -> None:
    await ingest.put_recipe()
    failed = await ingest.ingest(data, format=CSV)
    assert failed.state == ingestion_pb2.Ingestion.STATE_FAILED
    assert error_info(failed.error).reason == reason
    assert "'x.jsonl'" in failed.error.message
    assert (await ingest.call("ListDatasets", parent="projects/p")).datasets == []


async def test_two_datasets_first_versions_at_once_are_numbered_without_gaps(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    started = [await ingest.start(pairs(5, start)) for start in (0, 100, 200)]
    done = await asyncio.gather(*(ingest.watch(work.name) for work in started))
    assert sorted(work.dataset_version.rsplit("/", 1)[-1] for work in done) == ["1", "2", "3"]


async def test_f12_events_that_make_no_sense_are_put_aside(ingest: DataIngest, bus: Bus, event_tap: EventTap) -> None:
    await ingest.put_recipe()
    examples = await ingest.upload(example("new", "n"))
    await publish(bus, preferences(examples, "projects/p/ingestionRecipes/gone"), cycle=new_id())
    await publish(bus, preferences(examples, "projects/q/ingestionRecipes/r"), cycle=new_id())
    await publish(bus, preferences(examples), cycle=new_id())
    assert len(await event_tap.wait_for(DatasetVersionPublished)) == 1

    async def both_are_dead_letters() -> bool:
        return (await bus.stream(DLQ_STREAM)).last == 2

    await eventually(both_are_dead_letters)


async def test_f10_examples_that_are_not_there_fail_the_ingestion(ingest: DataIngest, bus: Bus) -> None:
    await ingest.put_recipe()
    gone = artifact_pb2.Artifact(sha256="0" * 64, size_bytes=5)
    await publish(bus, preferences(gone), cycle=new_id())

    async def failed() -> bool:
        listed = (await ingest.call("ListIngestions", parent="projects/p")).ingestions
        return [error_info(work.error).reason for work in listed] == ["ARTIFACT_NOT_FOUND"]

    await eventually(failed)


async def test_uploads_are_bounded_and_of_one_project(ingest: DataIngest) -> None:
    stored = await ingest.upload(b"x" * 5_000_000, ["..", "evil.csv"][-1], chunk_bytes=1 << 20)
    assert stored == artifact_to_proto(artifact_from_proto(stored))
    assert (stored.size_bytes, stored.media_type) == (5_000_000, "text/csv")
    failures: list[MainspringError] = []
    for options in (
        {"data": b"x" * (17 << 20)},
        {"data": b"x", "parent": "projects/q"},
        {"data": b"x", "parent": ""},
        {"data": b"x", "filename": "../x"},
        {"data": b"x" * (2 << 20), "chunk_bytes": 2 << 20},
    ):
        with pytest.raises(MainspringError) as caught:
            await ingest.upload(**options)  # type: ignore[arg-type]
        failures.append(caught.value)
    assert [failure.reason for failure in failures[:2]] == ["UPLOAD_TOO_LARGE", "PROJECT_NOT_FOUND"]
    assert all(isinstance(failure, InvalidInput) for failure in failures[2:])


async def test_requests_are_checked_and_repeats_are_one(ingest: DataIngest) -> None:
    recipe = (await ingest.put_recipe()).ingestion_recipe
    assert (recipe.prompt_template, recipe.max_field_characters) == ("{input}", 20_000)
    assert (recipe.split.train_percent, recipe.split.test_percent) == (80, 10)
    with pytest.raises(InvalidInput) as caught:
        await ingest.put_recipe(prompt_template="no place", split=recipe_pb2.SplitShares(train_percent=1))
    assert {violation.field for violation in caught.value.violations} == {
        "ingestion_recipe.prompt_template",
        "ingestion_recipe.split",
    }
    with pytest.raises(InvalidInput):
        await ingest.put_recipe(system_prompt="a\0b")
    with pytest.raises(NotFound):
        source = ingestion_pb2.Source(artifact=artifact_pb2.Artifact(sha256="0" * 64, size_bytes=1), format=CSV)
        await ingest.call("CreateIngestion", parent="projects/p", ingestion_recipe=RECIPE, sources=[source])
    request_id = new_id()
    both = [await ingest.start(pairs(3), request_id=request_id) for _ in range(2)]
    assert both[0] == both[1]
    assert len((await ingest.call("ListIngestions", parent="projects/p")).ingestions) == 1


STEPS: list[dict[str, Any]] = [
    {"text_repair": {}},
    {"markup_to_text": {}},
    {"length_filter": {"min_words": 2}},
    {"quality_filter": {}},
    {"language_filter": {"languages": ["en"]}},
    {"personal_data": {"rules": [{"kind": "PERSONAL_DATA_KIND_IBAN", "action": "PERSONAL_DATA_ACTION_REFUSE"}]}},
    {"near_duplicates": {"threshold": 0.8}},
]


def recipe_steps(*steps: dict[str, Any]) -> list[recipe_pb2.RecipeStep]:
    return [json_format.ParseDict(step, recipe_pb2.RecipeStep()) for step in steps]


def rows_of(*pairs: tuple[str, str]) -> bytes:
    return b"".join(json.dumps({"mr": prompt, "ref": answer}).encode() + b"\n" for prompt, answer in pairs)


async def report_adds_up(ingest: DataIngest, version: dataset_pb2.DatasetVersion) -> None:
    answer = await ingest.call("GetDatasetReport", name=version.name, plot=True)
    report = answer.dataset_report
    assert (report.input_rows, report.kept_unchanged_rows, report.kept_changed_rows) == (8, 1, 2)
    assert sum(refusal.rows for refusal in report.refusals) == 5
    reached = report.before.rows
    for step, wanted in zip(report.steps, STEPS, strict=True):
        assert [step.step] == list(wanted)
        assert step.passed_rows + sum(refusal.rows for refusal in step.refusals) == reached
        reached = step.passed_rows
    assert {finding.name: finding.count for finding in report.steps[5].findings} == {"EMAIL_ADDRESS": 1, "IBAN": 1}
    assert (report.before.rows, report.after.rows) == (8, 3)
    assert (report.before.diversity.sample_rows, report.after.diversity.sample_rows) == (8, 3)
    assert 1 < report.after.diversity.vendi_score <= 3
    assert report.after.diversity.vectors == "lexical"
    assert answer.plot_png.startswith(b"\x89PNG")
    manifest = json.loads(await ingest.artifacts.read("p", artifact_from_proto(version.manifest)))
    assert manifest["report"]["sha256"] == version.report.sha256
    assert json.loads(await ingest.artifacts.read("p", artifact_from_proto(version.report)))["input_rows"] == 8


async def test_b9_a_messy_file_becomes_a_clean_version(ingest: DataIngest) -> None:
    stored = (await ingest.put_recipe(steps=recipe_steps(*STEPS))).ingestion_recipe
    assert [step.WhichOneof("step") for step in stored.steps] == [name for step in STEPS for name in step]
    assert stored.steps[6].near_duplicates.shingle_words == 3  # Defaults are shown.
    sentence = "The Eagle is a cheap coffee shop near Burger King, and children are welcome there."
    messy = rows_of(
        ("q1", "Itâ€™s a <b>cafÃ©</b> by the river, and it is cheap."),
        ("q2", "You can write to me@example.com to book a table there."),
        ("q3", "ok"),
        ("q4", "!!! ??? !!! ??? !!! ???"),
        ("q5", "Dieses Lokal am Fluss ist leider nicht kinderfreundlich."),
        ("q6", "Please pay to GB29NWBK60161331926819 before you come."),
        ("q7", sentence),
        ("q7", sentence.upper()),
    )
    done = await ingest.ingest(messy)
    version = await ingest.version(done.dataset_version)
    answers = {row["line"]: row["messages"][1]["content"] for row in await ingest.rows(version)}
    assert answers == {
        1: "It’s a café by the river, and it is cheap.",
        2: "You can write to <EMAIL_ADDRESS> to book a table there.",
        7: sentence,
    }
    await report_adds_up(ingest, version)
    refused = (await ingest.call("ListRefusedRows", parent=version.name)).refused_rows
    names = [dataset_pb2.RefusalReason.Name(row.reason).removeprefix("REFUSAL_REASON_") for row in refused]
    assert [(row.line, name) for row, name in zip(refused, names, strict=True)] == [
        (3, "WRONG_LENGTH"),
        (4, "LOW_QUALITY"),
        (5, "WRONG_LANGUAGE"),
        (6, "PERSONAL_DATA"),
        (8, "NEAR_DUPLICATE"),
    ]


async def test_evaluation_sets_are_kept_out_whether_version_or_file(ingest: DataIngest) -> None:
    await ingest.put_recipe(split=recipe_pb2.SplitShares(test_percent=100))
    held_out = await ingest.ingest(pairs(20))
    file = await ingest.upload(rows_of(("q30", "x")), "held-out.jsonl")
    wanted = [
        recipe_pb2.RecipeStep(decontamination=recipe_pb2.Decontamination(dataset_version=held_out.dataset_version)),
        recipe_pb2.RecipeStep(decontamination=recipe_pb2.Decontamination(file=file)),
    ]
    await ingest.put_recipe(dataset="projects/p/datasets/tuning", steps=wanted)
    version = await ingest.version((await ingest.ingest(pairs(40))).dataset_version)
    rows = await ingest.rows(version)
    assert {row["messages"][0]["content"] for row in rows} == {f"q{number}" for number in range(20, 40)} - {"q30"}
    leaks = {refusal.reason: refusal.rows for refusal in version.refusals}
    assert leaks == {dataset_pb2.REFUSAL_REASON_EVALUATION_LEAK: 21}


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"language_filter": {}},
        {"language_filter": {"languages": ["xx"]}},
        {"near_duplicates": {"threshold": 0.2}},
        {"decontamination": {}},
        {"decontamination": {"dataset_version": f"{DATASET}/versions/9"}},
        {"decontamination": {"dataset_version": "projects/q/datasets/d/versions/1"}},
        {"decontamination": {"file": {"sha256": "0" * 64, "size_bytes": "1"}}},
    ],
)
async def test_steps_that_cannot_be_are_refused_when_they_are_written(ingest: DataIngest, step: Any) -> None:
    with pytest.raises((InvalidInput, NotFound)):
        await ingest.put_recipe(steps=recipe_steps(step))
    with pytest.raises(NotFound):
        await ingest.call("GetIngestionRecipe", name=RECIPE)
