"""Use cases over fakes: what is stored, what is announced."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mainspring.events.v1.feedback_events_pb2 import FeedbackItemRecorded, PreferencesReady
from mainspring_feedback.adapters.announcements import OutboxAnnouncements
from mainspring_feedback.application.examples import Examples
from mainspring_feedback.application.items import CreateFeedbackItem, Items
from mainspring_feedback.application.judged import Filter, JudgedAnswers
from mainspring_feedback.application.ports import Ports
from mainspring_feedback.application.triggers import WORK_KIND, PutTrigger, Triggers, lesson_key
from mainspring_feedback.domain.answers import Answer, Turn
from mainspring_feedback.domain.judgements import FeedbackItem, Judgement, Kind
from mainspring_feedback.domain.triggers import Firing, RetrainingTrigger, Wishes
from mainspring_svckit.errors import EtagMismatch, InvalidInput, NotFound, Unavailable
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.names import project_name_of
from mainspring_svckit.pagination import Page
from mainspring_testkit.fakes import (
    FakeArtifacts,
    FakeClock,
    FakeLease,
    FakeOutbox,
    FakeRepository,
    FakeTransactions,
    FakeWork,
)

MODEL = "projects/p/models/m"
WISHES = Wishes(MODEL, "projects/p/ingestionRecipes/r", 3)
TRIGGER = PutTrigger("projects/p/retrainingTriggers/t", WISHES, "", True)


def wanting(command: PutTrigger = TRIGGER, **wishes: Any) -> PutTrigger:
    """A trigger with other wishes."""
    return replace(command, wishes=replace(command.wishes, **wishes))


@dataclass
class World:
    ports: Ports
    items: Items
    triggers: Triggers
    examples: Examples
    files: FakeArtifacts
    outbox: FakeOutbox
    work: FakeWork
    clock: FakeClock
    ids: int = 0

    async def answer(self, answer_id: str, prompt: str = "q", **changes: Any) -> str:
        answer = Answer(
            f"projects/p/answers/{answer_id}",
            MODEL,
            f"{MODEL}/versions/1",
            f"{MODEL}/releases/1",
            (Turn("system", "s"), Turn("user", prompt)),
            f"{answer_id} said",
            self.clock.now(),
        )
        await self.items.heard_of(replace(answer, **changes))
        return answer.name

    async def judge(self, answer: str, kind: Kind, value: float = 0, **judgement: str) -> FeedbackItem:
        self.ids += 1
        return await self.items.create(
            CreateFeedbackItem("p", f"i{self.ids:03}", answer, Judgement(kind, value, **judgement), "", "me")
        )

    async def correct(self, answer: str, text: str = "better") -> FeedbackItem:
        return await self.judge(answer, Kind.CORRECTION, correction=text)

    async def trigger(self) -> RetrainingTrigger:
        found = await self.ports.triggers.get(TRIGGER.name)
        assert found is not None
        return found.value

    def firings(self) -> list[Firing]:
        return [Firing(**payload) for (kind, _), payload in self.work.queued.items() if kind == WORK_KIND]

    async def taught(self, firing: Firing) -> list[list[dict[str, str]]]:
        """The conversations of the file that a firing gives."""
        return [line["messages"] for line in await self.lines(firing)]

    async def lines(self, firing: Firing) -> list[dict[str, Any]]:
        """The lines of the file that a firing gives."""
        await self.examples.run(firing, FakeLease())
        event = self.outbox.emitted[-1]
        assert isinstance(event, PreferencesReady)
        assert self.outbox.cycles[-1] == firing.cycle
        lines = (await self.files.read("p", artifact_from_proto(event.examples))).decode().splitlines()
        assert event.item_count == len(lines)
        return [json.loads(line) for line in lines]


@pytest.fixture
def world() -> World:
    def repository(parent: Any, key: Any = lambda value: value.name, newest_first: bool = False) -> Any:
        return FakeRepository(parent=parent, sort_key=key, newest_first=newest_first)

    def project(value: Any) -> str:
        return project_name_of(value.name)

    outbox, files, work, clock = FakeOutbox(), FakeArtifacts(), FakeWork(), FakeClock()
    numbers = iter(range(1, 1000))
    ports = Ports(
        transactions=FakeTransactions(),
        answers=repository(project),
        items=repository(project, newest_first=True),
        lessons=repository(lambda lesson: lesson.model, lambda lesson: lesson_key(lesson.number)),
        judged_models=repository(project),
        triggers=repository(project),
        announcements=OutboxAnnouncements(outbox),  # type: ignore[arg-type]
        files=files,
        work=work,
        clock=clock,
        new_id=lambda: f"cycle-{next(numbers)}",
    )
    triggers = Triggers(ports)
    return World(ports, Items(ports, triggers), triggers, Examples(ports), files, outbox, work, clock)


async def test_a_judgement_is_kept_with_its_version_and_told_without_text(world: World) -> None:
    item = await world.judge(await world.answer("a"), Kind.SCORE, 0.5)
    assert (item.author, item.model_version) == ("me", f"{MODEL}/versions/1")
    (event,) = world.outbox.emitted
    assert event == FeedbackItemRecorded(
        feedback_item=item.name,
        answer="projects/p/answers/a",
        model_version=f"{MODEL}/versions/1",
        release=f"{MODEL}/releases/1",
        kind="SCORE",
        value=0.5,
    )


async def test_an_answer_stays_as_it_was_first_told(world: World) -> None:
    name = await world.answer("a")
    await world.answer("a", "another prompt")
    found = await world.ports.answers.get(name)
    assert found is not None
    assert found.value.messages[-1].content == "q"


async def test_an_answer_that_may_be_on_its_way_is_worth_another_try(world: World) -> None:
    milliseconds = int(world.clock.now().timestamp() * 1000)
    young = f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7000-8000-000000000000"
    with pytest.raises(Unavailable) as caught:
        await world.correct(f"projects/p/answers/{young}")
    assert (caught.value.reason, caught.value.retry_after_s) == ("ANSWER_NOT_KNOWN_YET", 0.5)
    world.clock.advance(61)
    with pytest.raises(NotFound):
        await world.correct(f"projects/p/answers/{young}")
    with pytest.raises(NotFound):
        await world.judge(await world.answer("a"), Kind.PREFERENCE, 1, rejected_answer=f"projects/p/answers/{young}")


async def test_a_preference_needs_two_answers_to_the_same_messages(world: World) -> None:
    first, other = await world.answer("a"), await world.answer("b", "another prompt")
    for rejected in (first, other):
        with pytest.raises(InvalidInput):
            await world.judge(first, Kind.PREFERENCE, 1, rejected_answer=rejected)
    assert world.outbox.emitted == []


async def test_enough_lessons_turn_the_loop_once(world: World) -> None:
    await world.triggers.put(TRIGGER)
    answers = [await world.answer(str(number), f"q{number}") for number in range(5)]
    await world.judge(answers[4], Kind.SCORE, 1)  # No lesson.
    await world.correct(answers[0], "first try")
    await world.correct(answers[1])
    await world.correct(answers[0], "second try")
    assert ((await world.trigger()).pending_items, world.firings()) == (2, [])
    rejected = await world.answer("rejected", "q2")
    await world.judge(answers[2], Kind.PREFERENCE, 1, rejected_answer=rejected)
    trigger = await world.trigger()
    assert (trigger.pending_items, trigger.taken, trigger.last_fire_time) == (0, 4, world.clock.now())
    (firing,) = world.firings()
    chats = await world.taught(firing)
    assert [chat[-1] for chat in chats] == [
        {"role": "assistant", "content": text} for text in ("second try", "better", "2 said")
    ]
    assert chats[0][:-1] == [{"role": "system", "content": "s"}, {"role": "user", "content": "q0"}]


async def test_what_was_worse_and_thumbs_travel_beside_the_text(world: World) -> None:
    await world.triggers.put(wanting(min_items=3))
    answers = [await world.answer(str(number), f"q{number}") for number in range(5)]
    await world.judge(answers[3], Kind.THUMB, 0)
    await world.judge(answers[4], Kind.THUMB, 0)
    await world.judge(answers[4], Kind.THUMB, 1)
    await world.judge(answers[0], Kind.THUMB, 0)
    await world.correct(answers[0])
    await world.judge(answers[0], Kind.THUMB, 1)  # Of what was corrected; the correction says more.
    await world.correct(answers[1], "1 said")  # The person wrote what the model had said.
    assert ((await world.trigger()).pending_items, world.firings()) == (2, [])
    rejected = await world.answer("rejected", "q2")
    await world.judge(answers[2], Kind.PREFERENCE, 1, rejected_answer=rejected)
    (firing,) = world.firings()
    lines = {line["messages"][1]["content"]: line for line in await world.lines(firing)}
    assert all(line.pop("messages")[-1]["role"] == "assistant" for line in lines.values())
    assert lines == {
        "q0": {"rejected": "0 said"},
        "q1": {},
        "q2": {"rejected": "rejected said"},
        "q3": {"desirable": False},
        "q4": {"desirable": True},
    }


async def test_thumbs_count_when_the_trigger_says_so(world: World) -> None:
    await world.triggers.put(TRIGGER)
    answers = [await world.answer(str(number), f"q{number}") for number in range(3)]
    for answer in answers[:2]:
        await world.judge(answer, Kind.THUMB, 1)
    assert (await world.trigger()).pending_items == 0
    await world.triggers.put(wanting(count_thumbs=True))
    assert (await world.trigger()).pending_items == 2
    await world.correct(answers[0])  # It waits already.
    assert ((await world.trigger()).pending_items, world.firings()) == (2, [])
    await world.judge(answers[2], Kind.THUMB, 0)
    (firing,) = world.firings()
    assert [line.get("desirable") for line in await world.lines(firing)] == [None, True, False]


async def test_a_firing_takes_its_own_lessons_only(world: World) -> None:
    await world.triggers.put(wanting(min_items=2))
    for number in range(4):
        await world.correct(await world.answer(str(number), f"q{number}"), f"c{number}")
    await world.correct("projects/p/answers/0", "later")
    first, second = world.firings()
    assert first.cycle != second.cycle
    assert [chat[-1]["content"] for chat in await world.taught(first)] == ["c0", "c1"]
    assert [chat[-1]["content"] for chat in await world.taught(second)] == ["c2", "c3"]
    assert (await world.trigger()).pending_items == 1


async def test_many_lessons_are_read_in_pages(world: World) -> None:
    await world.triggers.put(wanting(min_items=1201))
    for number in range(1201):
        await world.correct(await world.answer(f"a{number}"), f"c{number}")
    await world.correct(await world.answer("later"), "not taken")
    (firing,) = world.firings()
    assert [chat[-1]["content"] for chat in await world.taught(firing)] == [f"c{number}" for number in range(1201)]


async def test_a_new_trigger_counts_what_is_there(world: World) -> None:
    for number in range(2):
        await world.correct(await world.answer(str(number)))
    await world.correct("projects/p/answers/0")
    stored = await world.triggers.put(TRIGGER)
    assert stored.value.pending_items == 2
    stored = await world.triggers.put(wanting(replace(TRIGGER, etag=stored.etag), min_items=2))
    assert (stored.value.pending_items, stored.value.firings) == (0, 1)
    assert len(world.firings()) == 1
    stored = await world.triggers.put(wanting(min_items=2))
    assert stored.value.firings == 1


async def test_every_trigger_of_the_model_counts_for_itself(world: World) -> None:
    await world.triggers.put(wanting(min_items=1))
    await world.triggers.put(wanting(replace(TRIGGER, name="projects/p/retrainingTriggers/u"), min_items=2))
    await world.triggers.put(
        wanting(replace(TRIGGER, name="projects/p/retrainingTriggers/v"), model="projects/p/models/other", min_items=1)
    )
    for number in range(2):
        await world.correct(await world.answer(str(number)))
    assert [(firing.trigger[-1], firing.after, firing.until) for firing in world.firings()] == [
        ("t", 0, 1),
        ("t", 1, 2),
        ("u", 0, 2),
    ]


async def test_what_the_project_does_not_keep_is_no_lesson(world: World) -> None:
    await world.triggers.put(wanting(min_items=1))
    await world.correct(await world.answer("a", messages=(), text=""))
    assert ((await world.trigger()).pending_items, world.firings()) == (0, [])


async def test_triggers_are_written_under_their_etag(world: World) -> None:
    with pytest.raises(NotFound):
        await world.triggers.put(replace(TRIGGER, allow_missing=False))
    stored = await world.triggers.put(TRIGGER)
    await world.triggers.put(wanting(replace(TRIGGER, etag=stored.etag), min_items=5))
    with pytest.raises(EtagMismatch):
        await world.triggers.put(replace(TRIGGER, etag=stored.etag))
    with pytest.raises(InvalidInput):
        await world.triggers.put(wanting(model="projects/p/models/UPPER"))


async def test_f9_a_firing_that_cannot_be_done_is_tried_again_later(world: World) -> None:
    await world.triggers.put(wanting(min_items=1))
    await world.correct(await world.answer("a"))
    (firing,) = world.firings()
    world.work.queued.clear()
    await world.examples.postpone(firing)
    assert world.firings() == [firing]


async def test_items_are_listed_newest_first_by_project_and_by_answer(world: World) -> None:
    first, second = await world.answer("a"), await world.answer("b")
    made = [await world.correct(first if number % 2 else second) for number in range(7)]
    whole, key = await world.items.page("projects/p", "", Page(5, None))
    rest, end = await world.items.page("projects/p", "", Page(5, key))
    assert [*whole, *rest] == made[::-1]
    assert end is None
    seen, key = await world.items.page("projects/p", first, Page(2, None))
    more, end = await world.items.page("projects/p", first, Page(2, key))
    assert [*seen, *more] == [item for item in made[::-1] if item.answer == first]
    assert end is None


async def judged(world: World, page_size: int = 50, **wanted: Any) -> list[tuple[str, str, str, bool | None]]:
    """Id of each judged answer, with what it teaches; page by page."""
    found: list[tuple[str, str, str, bool | None]] = []
    after: str | None = None
    while True:
        page, after = await JudgedAnswers(world.ports).page("projects/p", Filter(**wanted), Page(page_size, after))
        for one in page:
            example = one.example
            found.append((one.answer.name.rpartition("/")[2], example.text, example.rejected, example.desirable))
        if after is None:
            return found


@pytest.mark.parametrize("page_size", [1, 2, 50])
async def test_each_judged_answer_stands_once_with_what_teaches_most(world: World, page_size: int) -> None:
    a, b, c, d, e, silent = [await world.answer(name) for name in "abcdef"]
    silent = await world.answer("silent", messages=())
    await world.judge(a, Kind.SCORE, 0.9)
    await world.correct(b, "old")
    await world.judge(c, Kind.THUMB, 1)
    await world.judge(silent, Kind.THUMB, 1)
    await world.judge(d, Kind.PREFERENCE, 1, rejected_answer=e)
    await world.judge(c, Kind.SCORE, 0)
    await world.correct(b, "new")
    await world.judge(b, Kind.THUMB, 0)
    await world.judge(e, Kind.SCORE, 0.5)
    assert await judged(world, page_size) == [
        ("b", "new", "b said", None),
        ("c", "c said", "", True),
        ("d", "d said", "e said", None),
        ("a", "a said", "", True),
    ]


async def test_judged_answers_are_chosen_by_model_version_release_and_time(world: World) -> None:
    early = await world.answer("a")
    world.clock.advance(60)
    noon = world.clock.now()
    late = await world.answer("b", release=f"{MODEL}/releases/2")
    other = await world.answer(
        "c", model="projects/p/models/n", model_version="projects/p/models/n/versions/1", release=""
    )
    for answer in (early, late, other):
        await world.judge(answer, Kind.THUMB, 1)

    async def ids(**wanted: Any) -> list[str]:
        return [name for name, *_ in await judged(world, **wanted)]

    assert await ids() == ["c", "b", "a"]
    assert await ids(model=MODEL) == ["b", "a"]
    assert await ids(model_version="projects/p/models/n/versions/1") == ["c"]
    assert await ids(release=f"{MODEL}/releases/2") == ["b"]
    assert await ids(start=noon) == ["c", "b"]
    assert await ids(end=noon) == ["a"]


async def test_what_a_person_said_is_forgotten_and_teaches_nobody(world: World) -> None:
    await world.triggers.put(wanting(min_items=3))
    asked = await world.answer("a", "mail to  ADA@example.org")
    told = await world.answer("b")
    clean = await world.answer("c")
    await world.correct(asked)
    await world.correct(told, "ask Ada@Example.org")
    await world.correct(clean)
    judges = JudgedAnswers(world.ports)
    assert await judges.erase("projects/q", "ada@example.org") == (0, 0)
    assert await judges.erase("projects/p", "ada@example.org") == (1, 1)
    assert await judges.erase("projects/p", "ada@example.org") == (0, 0)
    assert await judged(world) == [("c", "better", "c said", None)]
    (firing,) = world.firings()
    assert [line["rejected"] for line in await world.lines(firing)] == ["c said"]
    (event,) = [event for event in world.outbox.emitted if isinstance(event, PreferencesReady)]
    assert event.item_count == 1
