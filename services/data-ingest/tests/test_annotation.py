"""Annotation: rules without I/O, and the service with two replicas and several annotators."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import annotation_pb2 as messages
from mainspring.data.v1 import annotation_service_pb2 as pb
from mainspring.data.v1 import annotation_service_pb2_grpc as pb_grpc
from mainspring.data.v1 import data_service_pb2, data_service_pb2_grpc, ingestion_pb2, recipe_pb2
from mainspring_data_ingest.adapters.annotations import HashedDiversity
from mainspring_data_ingest.domain.annotation import (
    ITEM_STATES,
    Annotation,
    AnnotationItem,
    AnnotationQueue,
    ItemState,
    Label,
    LabelKind,
    LabelSchema,
    Preferred,
    item_id,
    krippendorff_alpha,
    report_of,
    row_of,
)
from mainspring_svckit.errors import (
    AlreadyExists,
    IllegalTransition,
    InvalidInput,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
)
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.ids import new_id
from mainspring_testkit.contracts.states import assert_as_declared
from mainspring_testkit.fakes import FakeClock
from mainspring_testkit.plugin import Token
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import ServiceProcess, Surroundings
from mainspring_testkit.waiting import eventually

from .harness import assert_accounted

QUEUE = "projects/p/annotationQueues/q"
CHOICE = LabelSchema(LabelKind.CHOICE, choices=("good", "bad", "unclear"))
NOW = FakeClock().now()
ITEM = AnnotationItem(f"{QUEUE}/items/a", QUEUE, (("user", "hi"), ("assistant", "hello")))


def said(annotator: str, choice: str | None) -> Annotation:
    return Annotation(annotator, Label((choice,)) if choice else None, "", NOW)


def test_states_are_as_the_contract_says() -> None:
    assert_as_declared(ITEM_STATES, "data/v1/annotation.proto", "AnnotationItem")


def test_an_item_is_final_when_all_agree_and_disputed_when_they_do_not() -> None:
    queue = AnnotationQueue(QUEUE, CHOICE, overlap=2)
    once = ITEM.annotated(said("ann", "good"), queue)
    assert once.state is ItemState.OPEN
    assert once.annotated(said("bob", None), queue).state is ItemState.OPEN, "a skip is no label"
    agreed = once.annotated(said("bob", "good"), queue)
    assert (agreed.state, agreed.label) == (ItemState.LABELLED, Label(("good",)))
    disputed = once.annotated(said("bob", "bad"), queue)
    assert (disputed.state, disputed.label) == (ItemState.DISPUTED, None)
    with pytest.raises(PreconditionFailed) as caught:
        disputed.adjudicated(Label(("bad",)), "bob")
    assert caught.value.reason == "ADJUDICATOR_TOOK_PART"
    decided = disputed.adjudicated(Label(("bad",)), "cleo")
    assert (decided.state, decided.label, decided.adjudicator) == (ItemState.LABELLED, Label(("bad",)), "cleo")
    with pytest.raises(IllegalTransition):
        decided.adjudicated(Label(("good",)), "dora")


@pytest.mark.parametrize(
    ("schema", "label"),
    [
        (CHOICE, Label(("other",))),
        (CHOICE, Label(("good", "bad"))),
        (CHOICE, Label()),
        (CHOICE, Label(("good",), text="and more")),
        (LabelSchema(LabelKind.RATING, worst=1, best=5), Label(rating=6)),
        (LabelSchema(LabelKind.TEXT, max_characters=3), Label(text="long")),
        (LabelSchema(LabelKind.TEXT), Label(text="  ")),
        (LabelSchema(LabelKind.PREFERENCE), Label(("first",))),
    ],
)
def test_labels_that_are_not_of_the_schema_are_refused(schema: LabelSchema, label: Label) -> None:
    with pytest.raises(InvalidInput) as caught:
        schema.check(label)
    assert caught.value.reason == "LABEL_INVALID"


def test_labels_become_rows_that_training_knows() -> None:
    answer = {"role": "assistant", "content": "hello"}
    prompt = {"role": "user", "content": "hi"}
    rating = LabelSchema(LabelKind.RATING, worst=1, best=5)
    assert row_of(replace(ITEM, label=Label(rating=5)), rating) == {"messages": [prompt, answer], "desirable": True}
    assert row_of(replace(ITEM, label=Label(rating=1)), rating) == {"messages": [prompt, answer], "desirable": False}
    assert row_of(replace(ITEM, label=Label(rating=3)), rating) is None
    text = row_of(replace(ITEM, label=Label(text="good day")), LabelSchema(LabelKind.TEXT))
    assert text == {"messages": [prompt, {"role": "assistant", "content": "good day"}]}
    pair = replace(ITEM, candidates=("a", "b"), messages=(("user", "hi"),))
    preference = LabelSchema(LabelKind.PREFERENCE)
    second = row_of(replace(pair, label=Label(preferred=Preferred.SECOND)), preference)
    assert second == {"messages": [prompt, {"role": "assistant", "content": "b"}], "rejected": "a"}
    assert row_of(replace(pair, label=Label(preferred=Preferred.TIE)), preference) is None
    assert row_of(ITEM, CHOICE) is None
    # Whoever labels it, what a model made stays marked.
    marked = row_of(replace(ITEM, label=Label(text="good day"), synthetic=True), LabelSchema(LabelKind.TEXT))
    assert text is not None
    assert marked == {**text, "synthetic": True}


def test_alpha_is_that_of_krippendorffs_own_example() -> None:
    # Krippendorff 2011, the example of four observers and twelve units: nominal 0.743, interval 0.849.
    a = [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None]
    b = [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3]
    c = [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None]
    d = [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None]
    units = [[str(value) for value in unit if value is not None] for unit in zip(a, b, c, d, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=0.0005)
    assert krippendorff_alpha(units, interval=True) == pytest.approx(0.849, abs=0.0005)
    assert krippendorff_alpha([["1", "1"], ["1", "1"]]) is None
    assert krippendorff_alpha([["1"], ["2"]]) is None
    assert krippendorff_alpha([["1", "1"], ["2", "2"]]) == 1


def test_the_report_counts_people_gold_and_labels() -> None:
    queue = AnnotationQueue(QUEUE, CHOICE, overlap=2)
    gold = replace(ITEM, gold=Label(("good",)), annotations=(said("ann", "good"), said("bob", "bad")))
    done = ITEM.annotated(said("ann", "good"), queue).annotated(said("bob", "good"), queue)
    skipped = ITEM.annotated(said("ann", None), queue)
    report = report_of(queue, [gold, done, skipped])
    by = {one.annotator: one for one in report.annotators}
    assert (by["ann"].labelled, by["ann"].skipped, by["ann"].gold_right, by["bob"].gold_right) == (2, 1, 1, 0)
    assert report.labels == {"good": 1}
    assert report.alpha_items == 2


async def test_diverse_texts_come_before_those_that_repeat() -> None:
    texts = ["the cat sat", "the cat sat down", "the cat sat there", "stocks fell sharply", "rain in spain"]
    order = await HashedDiversity().order(texts)
    assert sorted(order) == list(range(5))
    assert set(order[1:3]) == {3, 4}
    assert await HashedDiversity().order([]) == []


def test_the_same_question_is_one_item() -> None:
    assert item_id([("user", "hi")], []) == item_id([("user", "hi")], ())
    assert item_id([("user", "hi")], []) != item_id([("user", "hi")], ["a", "b"])


class Desk:
    """Two replicas, and people who label there."""

    def __init__(self, surroundings: Surroundings, replicas: list[ServiceProcess], token: Token, database: str) -> None:
        self.surroundings, self.replicas, self.token, self.database = surroundings, replicas, token, database
        self.turn = 0

    async def call(self, method: str, who: str = "boss", role: str = "contributor", **fields: Any) -> Any:
        self.turn += 1
        replica = self.replicas[self.turn % len(self.replicas)]
        caller = Caller(self.token(role, subject=who))
        request = getattr(pb, f"{method}Request")(**fields)
        stub: Any = pb_grpc.AnnotationServiceStub(replica.channel)
        return await caller.unary(getattr(stub, method), request, getattr(pb, f"{method}Response"))

    async def data(self, method: str, **fields: Any) -> Any:
        stub: Any = data_service_pb2_grpc.DataServiceStub(self.replicas[0].channel)
        request = getattr(data_service_pb2, f"{method}Request")(**fields)
        return await Caller(self.token("contributor")).unary(
            getattr(stub, method), request, getattr(data_service_pb2, f"{method}Response")
        )

    async def queue(self, **fields: Any) -> messages.AnnotationQueue:
        schema = messages.LabelSchema(choice=messages.LabelSchema.Choice(choices=["good", "bad"]))
        values: dict[str, Any] = {"label_schema": schema, **fields}
        queue = messages.AnnotationQueue(name=QUEUE, **values)
        return (await self.call("UpdateAnnotationQueue", annotation_queue=queue, allow_missing=True)).annotation_queue

    async def add(self, *prompts: str, **fields: Any) -> Any:
        items = [
            messages.AnnotationItem(
                messages=[chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_USER, content=prompt)], **fields
            )
            for prompt in prompts
        ]
        return await self.call("AddAnnotationItems", parent=QUEUE, annotation_items=items, request_id=new_id())

    async def claim(self, who: str) -> messages.AnnotationItem:
        return (await self.call("ClaimAnnotationItem", who, "annotator", parent=QUEUE)).annotation_item

    async def submit(self, who: str, name: str, choice: str = "") -> Any:
        label = {"label": messages.Label(choices=[choice])} if choice else {}
        return await self.call("SubmitAnnotation", who, "annotator", name=name, **label)

    async def expire(self) -> None:
        """Every reservation ends now, as if its time were over."""
        connection = await asyncpg.connect(self.database)
        await connection.execute("UPDATE annotation_lease SET expire_time = now() - interval '1 second'")
        await connection.close()


@pytest.fixture
async def desk(surroundings: Surroundings, postgres: PostgresServer, token: Token) -> Desk:
    database = await postgres.new_database("mainspring_data_ingest")
    replicas = [surroundings.replica("mainspring_data_ingest.main", database) for _ in range(2)]
    await asyncio.gather(*(replica.start() for replica in replicas))
    return Desk(surroundings, replicas, token, database)


async def test_people_label_what_becomes_a_dataset_version(desk: Desk) -> None:
    await desk.queue(overlap=2, guidelines="Be kind.")
    added = await desk.add("one", "two", "one")
    assert (added.added, added.known) == (2, 1)
    for who in ("ann", "bob"):
        for _ in range(2):
            item = await desk.claim(who)
            assert not item.annotations, "nobody sees what others said"
            answer = "bad" if who == "bob" and item.messages[0].content == "two" else "good"
            await desk.submit(who, item.name, answer)
    with pytest.raises(NotFound) as caught:
        await desk.claim("cleo")
    assert caught.value.reason == "ANNOTATION_ITEM_NOT_FOUND"
    queue = (await desk.call("GetAnnotationQueue", name=QUEUE)).annotation_queue
    assert (queue.items, queue.labelled_items, queue.disputed_items) == (2, 1, 1)
    report = (await desk.call("GetAnnotationReport", name=QUEUE)).annotation_report
    assert report.alpha_items == 2
    assert [one.labelled for one in report.annotators] == [2, 2]
    state = messages.AnnotationItem.STATE_DISPUTED
    (disputed,) = (await desk.call("ListAnnotationItems", parent=QUEUE, state=state)).annotation_items
    assert {one.annotator for one in disputed.annotations} == {"ann", "bob"}
    with pytest.raises(PermissionDenied):
        await desk.call("GetAnnotationItem", "ann", "annotator", name=disputed.name)
    await desk.call("AdjudicateAnnotationItem", name=disputed.name, label=messages.Label(choices=["bad"]))

    recipe = recipe_pb2.IngestionRecipe(
        name="projects/p/ingestionRecipes/r",
        dataset="projects/p/datasets/d",
        columns=recipe_pb2.ColumnMapping(messages_column="messages"),
    )
    await desk.data("UpdateIngestionRecipe", ingestion_recipe=recipe, allow_missing=True)
    published = await desk.call("PublishAnnotationQueue", name=QUEUE, ingestion_recipe=recipe.name)
    assert published.rows == 2

    async def there() -> bool:
        found = (await desk.data("GetIngestion", name=published.ingestion.name)).ingestion
        assert found.state != ingestion_pb2.Ingestion.STATE_FAILED, found.error.message
        return found.state == ingestion_pb2.Ingestion.STATE_SUCCEEDED

    await eventually(there, within_s=60, what="the version")
    version = (await desk.data("GetDatasetVersion", name="projects/p/datasets/d/versions/1")).dataset_version
    assert version.input_rows == 2
    await assert_accounted(desk.data, version)


async def test_f13_a_place_is_given_once_and_no_word_overwrites_another(desk: Desk) -> None:
    await desk.queue()
    await desk.add("only one")
    people = [f"person-{number}" for number in range(6)]
    claims = await asyncio.gather(*(desk.claim(who) for who in people), return_exceptions=True)
    (winner,) = [who for who, claim in zip(people, claims, strict=True) if not isinstance(claim, BaseException)]
    assert all(isinstance(claim, NotFound) for claim in claims if isinstance(claim, BaseException))
    item = await desk.claim(winner)
    with pytest.raises(PreconditionFailed) as caught:
        await desk.submit("stranger", item.name, "good")
    assert caught.value.reason == "ITEM_NOT_CLAIMED"
    await desk.expire()
    other = next(who for who in people if who != winner)
    assert (await desk.claim(other)).name == item.name
    with pytest.raises(PreconditionFailed) as caught:
        await desk.submit(winner, item.name, "bad")
    assert caught.value.reason == "LEASE_ENDED"
    await desk.submit(other, item.name, "good")
    with pytest.raises(AlreadyExists):
        await desk.submit(other, item.name, "bad")
    (kept,) = (await desk.call("ListAnnotationItems", parent=QUEUE)).annotation_items
    assert list(kept.label.choices) == ["good"]


async def test_f13_of_many_who_come_together_as_many_get_an_item_as_there_are_places(desk: Desk) -> None:
    await desk.queue(overlap=2)
    await desk.add(*(f"item {number}" for number in range(8)))
    claims = await asyncio.gather(*(desk.claim(f"person-{n}") for n in range(24)), return_exceptions=True)
    given = Counter(claim.name for claim in claims if not isinstance(claim, BaseException))
    assert len(given) == 8
    assert set(given.values()) == {2}
    assert all(isinstance(claim, NotFound) for claim in claims if isinstance(claim, BaseException))


async def test_f13_a_late_label_counts_while_nobody_took_the_place(desk: Desk) -> None:
    await desk.queue()
    await desk.add("slow")
    item = await desk.claim("ann")
    await desk.expire()
    await desk.submit("ann", item.name, "good")
    assert (await desk.call("GetAnnotationQueue", name=QUEUE)).annotation_queue.labelled_items == 1


async def test_gold_questions_are_asked_of_everybody_and_not_told(desk: Desk) -> None:
    await desk.queue(gold_every=2)
    await desk.add("a", "b")
    await desk.add("known", gold=messages.Label(choices=["good"]))
    got = list[str]()
    for who in ("ann", "bob"):
        for _ in range(2):
            try:
                item = await desk.claim(who)
            except NotFound:
                break
            assert not item.HasField("gold")
            got.append(f"{who} {item.messages[0].content}")
            await desk.submit(who, item.name, "good" if who == "ann" else "bad")
    assert {"ann known", "bob known"} <= set(got)
    report = (await desk.call("GetAnnotationReport", name=QUEUE)).annotation_report
    assert {one.annotator: one.gold_right for one in report.annotators} == {"ann": 1, "bob": 0}


async def test_unsure_suggestions_come_first_and_the_schema_stays_once_labelled(desk: Desk) -> None:
    await desk.queue(selection=messages.AnnotationQueue.SELECTION_UNCERTAINTY)
    sure = messages.Suggestion(label=messages.Label(choices=["good"]), confidence=0.9)
    unsure = messages.Suggestion(label=messages.Label(choices=["bad"]), confidence=0.5)
    await desk.add("sure", suggestion=sure)
    await desk.add("unsure", suggestion=unsure)
    item = await desk.claim("ann")
    assert (item.messages[0].content, item.suggestion.confidence) == ("unsure", 0.5)
    await desk.submit("ann", item.name)  # Skips.
    assert (await desk.claim("ann")).messages[0].content == "sure"
    with pytest.raises(PreconditionFailed) as caught:
        await desk.queue(label_schema=messages.LabelSchema(text=messages.LabelSchema.Text()))
    assert caught.value.reason == "LABELS_EXIST"
    with pytest.raises(InvalidInput):
        await desk.add("x", candidates=["only for preferences", "b"])


async def test_what_is_least_like_the_rest_comes_first_also_when_more_is_added(desk: Desk) -> None:
    await desk.queue()
    await desk.add("the cat sat", "the cat sat down", "the cat sat there", "stocks fell sharply", "rain in spain")
    await desk.queue(selection=messages.AnnotationQueue.SELECTION_DIVERSITY)

    async def asked() -> str:
        item = await desk.claim("ann")
        await desk.submit("ann", item.name, "good")
        return item.messages[0].content

    assert (await asked()).startswith("the cat sat"), "the most typical one"
    assert {await asked(), await asked()} == {"stocks fell sharply", "rain in spain"}
    await desk.add("ships sail north")
    assert {await asked(), await asked()} == {"ships sail north", "the cat sat down"}
    assert (await asked()).startswith("the cat sat")


async def test_what_people_or_the_model_disagree_on_comes_first(desk: Desk) -> None:
    await desk.queue(overlap=3, selection=messages.AnnotationQueue.SELECTION_DISAGREEMENT)
    await desk.add("agreed")
    await desk.add("doubted", suggestion=messages.Suggestion(label=messages.Label(choices=["good"]), confidence=0.9))
    await desk.add("untouched")

    async def asked(who: str, choice: str) -> str:
        item = await desk.claim(who)
        await desk.submit(who, item.name, choice)
        return item.messages[0].content

    assert [await asked("ann", "good"), await asked("ann", "bad")] == ["agreed", "doubted"]
    # Ann said of one what the model had not suggested; of what she has not seen nobody knows anything.
    assert [await asked("bob", choice) for choice in ("bad", "bad")] == ["doubted", "agreed"]
    # Now people disagree on the first, and the model with them on the second.
    assert [await asked("cleo", "good") for _ in range(3)] == ["agreed", "doubted", "untouched"]
    disputed = messages.AnnotationItem.STATE_DISPUTED
    found = (await desk.call("ListAnnotationItems", parent=QUEUE, state=disputed)).annotation_items
    assert [item.messages[0].content for item in found] == ["agreed", "doubted"]


async def test_suggestions_that_come_later_change_what_comes_first(desk: Desk) -> None:
    await desk.queue(selection=messages.AnnotationQueue.SELECTION_UNCERTAINTY)
    await desk.add("sure", "unsure")
    items = (await desk.call("ListAnnotationItems", parent=QUEUE)).annotation_items
    given = [
        pb.ItemSuggestion(
            annotation_item=item.name,
            suggestion=messages.Suggestion(label=messages.Label(choices=["good"]), confidence=confidence, source="m/3"),
        )
        for item, confidence in zip(items, (0.9, 0.4), strict=True)
    ]
    set_ = await desk.call("SetAnnotationSuggestions", parent=QUEUE, item_suggestions=given, request_id=new_id())
    assert (set_.suggested, set_.passed_over) == (2, 0)
    item = await desk.claim("ann")
    assert (item.messages[0].content, item.suggestion.source) == ("unsure", "m/3")
    await desk.submit("ann", item.name, "bad")
    set_ = await desk.call("SetAnnotationSuggestions", parent=QUEUE, item_suggestions=given)
    assert (set_.suggested, set_.passed_over) == (1, 1)
    with pytest.raises(PermissionDenied):
        await desk.call("SetAnnotationSuggestions", "ann", "annotator", parent=QUEUE, item_suggestions=given)


async def test_a3_queues_of_another_project_do_not_exist(desk: Desk, token: Token) -> None:
    await desk.queue()
    stranger = Caller(token("admin", project="other"))
    stub: Any = pb_grpc.AnnotationServiceStub(desk.replicas[0].channel)
    with pytest.raises(NotFound):
        await stranger.unary(
            stub.GetAnnotationQueue, pb.GetAnnotationQueueRequest(name=QUEUE), pb.GetAnnotationQueueResponse
        )
