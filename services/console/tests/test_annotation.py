"""The annotators' desk, used as a person uses it; behind it data-ingest's methods on real gRPC."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nicegui import ui
from nicegui.testing import User, user_simulation

from mainspring.data.v1 import annotation_pb2
from mainspring_console.adapters.services import Services
from mainspring_console.transport.annotation import in_words
from mainspring_console.transport.pages import register
from mainspring_console.transport.session import COOKIE, PROJECT_COOKIE
from mainspring_svckit.auth import TokenVerifier
from mainspring_testkit.neighbours import ServeNeighbours
from mainspring_testkit.plugin import Token

from .fakes import QUEUE, Label, Queue, Schema

SEVERAL = Schema(choice=Schema.Choice(choices=["a", "b"], several=True))
CHOICE = Schema(choice=Schema.Choice(choices=["good", "bad"]))


@asynccontextmanager
async def desk(queue: Queue, neighbours: ServeNeighbours, verifier: TokenVerifier, token: str) -> AsyncIterator[User]:
    """Somebody before the console."""
    found = await neighbours(queue, "data.v1.AnnotationService")
    names = ("data-ingest", "trainer", "evaluator", "registry", "embedder", "inference", "feedback")
    async with user_simulation(lambda: None) as user:
        register(Services(dict.fromkeys(names, found.channel)), verifier)
        user.http_client.cookies.set(COOKIE, token)
        user.http_client.cookies.set(PROJECT_COOKIE, "p")
        yield user


async def test_an_annotator_claims_labels_and_skips(
    neighbours: ServeNeighbours, verifier: TokenVerifier, token: Token
) -> None:
    suggestion = annotation_pb2.Suggestion(label=Label(choices=["bad"]), confidence=0.75, source="m/3")
    queue = Queue(CHOICE, "first question", "second question", suggestion=suggestion)
    async with desk(queue, neighbours, verifier, token("annotator")) as user:
        await user.open("/annotation")
        await user.should_see("choice")
        await user.open("/annotation/q")
        shown = [html.content for html in user.find(kind=ui.html).elements]
        assert "<p>Be <em>kind</em>, &lt;b&gt;not&lt;/b&gt;.</p>\n" in shown
        await user.should_not_see("first question")
        user.find("Next item").click()
        await user.should_see("first question")
        await user.should_see("suggestion by m/3, 75% sure")
        await user.should_see("reserved for you until 2026-01-02 03:04:05 UTC")
        user.find("Submit").click()
        await user.should_see("this queue wants a choice, and nothing else")
        await user.should_see("first question")
        with user:
            next(iter(user.find(ui.radio).elements)).set_value("good")
            next(iter(user.find(ui.input).elements)).set_value("sure")
        user.find("Submit").click()
        await user.should_see("second question")
        user.find(kind=ui.button, content="Skip").click()
        await user.should_see("Look again")
    labelled, skipped = queue.said
    assert (labelled.name, list(labelled.label.choices), labelled.comment) == (f"{QUEUE}/items/2", ["good"], "sure")
    assert (skipped.name, skipped.HasField("label")) == (f"{QUEUE}/items/1", False)


@pytest.mark.parametrize(
    ("schema", "field", "value", "label"),
    [
        (
            Schema(choice=Schema.Choice(choices=["a", "b"], several=True)),
            ui.select,
            ["b", "a"],
            Label(choices=["b", "a"]),
        ),
        (Schema(rating=Schema.Rating(worst=0, best=3)), ui.radio, 0, Label(rating=0)),
        (Schema(text=Schema.Text()), ui.textarea, "so it should be", Label(text="so it should be")),
        (
            Schema(preference=Schema.Preference()),
            ui.radio,
            Label.PREFERRED_SECOND,
            Label(preferred=Label.PREFERRED_SECOND),
        ),
    ],
)
async def test_each_schema_has_its_form(
    neighbours: ServeNeighbours, verifier: TokenVerifier, token: Token, schema: Any, field: Any, value: Any, label: Any
) -> None:
    queue = Queue(schema, "a question", candidates=["yes", "no"] if schema.HasField("preference") else [])
    async with desk(queue, neighbours, verifier, token("annotator")) as user:
        await user.open("/annotation/q")
        user.find("Next item").click()
        await user.should_see("a question")
        with user:
            field_shown: Any = next(iter(user.find(field).elements))
            field_shown.set_value(value)
        user.find("Submit").click()
        await user.should_see("Look again")
    assert [request.label for request in queue.said] == [label]


async def test_a_queue_that_is_not_there_is_said_in_its_place(
    neighbours: ServeNeighbours, verifier: TokenVerifier, token: Token
) -> None:
    async with desk(Queue(CHOICE), neighbours, verifier, token("annotator")) as user:
        await user.open("/annotation/other")
        await user.should_see("ANNOTATION_QUEUE_NOT_FOUND")


def test_labels_are_put_in_words() -> None:
    labels = (Label(choices=["a", "b"]), Label(rating=0), Label(text="t"), Label(preferred=Label.PREFERRED_TIE))
    assert list(map(in_words, labels)) == ["a, b", "0", "t", "neither"]
