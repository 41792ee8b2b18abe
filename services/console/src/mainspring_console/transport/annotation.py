"""The pages of annotators: queues, and one item after the other to be labelled or skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import markdown2
from nicegui import events, ui
from starlette.requests import Request

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import annotation_pb2
from mainspring.data.v1.annotation_service_pb2 import ClaimAnnotationItemResponse
from mainspring_console.adapters.services import View
from mainspring_console.domain.wording import moment, short, state
from mainspring_console.transport.frame import ViewOf, heading, page, route, shown, table, written
from mainspring_svckit.errors import MainspringError, NotFound

Label = annotation_pb2.Label
_PREFERRED = {
    Label.PREFERRED_FIRST: "The first",
    Label.PREFERRED_SECOND: "The second",
    Label.PREFERRED_TIE: "Neither",
}
# Digits are for the form, unless somebody writes them into a field.
_DIGIT = """(event) => /^[0-9]$/.test(event.key) && !event.ctrlKey && !event.altKey && !event.metaKey
    && !event.target.matches("input, textarea") && emit(Number(event.key))"""


@dataclass(frozen=True)
class LabelForm:
    """The fields of a label.

    Attributes:
        read: The label as it stands in them.
        radio: Where one of several things is chosen, if it is.
        digits: What each digit key chooses there.
    """

    read: Callable[[], Label]
    radio: ui.radio | None = None
    digits: Mapping[int, Any] = field(default_factory=dict[int, Any])

    def press(self, digit: int) -> None:
        """Takes a digit key."""
        if self.radio is not None and digit in self.digits:
            self.radio.set_value(self.digits[digit])

    @property
    def keys(self) -> str:
        """What keys do, for people."""
        digits = [digit for digit in self.digits if digit <= 9]
        choosing = f"keys {digits[0]} to {digits[-1]} choose, " if digits else ""
        return f"{choosing}Ctrl+Enter submits"


def register_annotation(view_of: ViewOf) -> None:
    """Makes the pages known to NiceGUI."""

    @route("/annotation")
    async def annotation(request: Request) -> None:
        view = view_of(request)
        with page("Annotation", view.project):

            async def listed() -> None:
                rows = [
                    (
                        queue.name.rsplit("/", 1)[-1],
                        queue.label_schema.WhichOneof("kind"),
                        queue.items,
                        queue.labelled_items,
                        queue.disputed_items,
                    )
                    for queue in await view.queues()
                ]
                columns = ("Queue", "Asks for", "Items", "Labelled", "Disputed")
                empty = "There is no queue yet: 'mainspring annotate create' makes one."
                table(columns, rows, empty=empty, link="/annotation/{}")

            await shown(listed)

    @route("/annotation/{queue}")
    async def one_queue(queue: str, request: Request) -> None:
        view = view_of(request)
        with page("Annotation", view.project):

            async def desk() -> None:
                await Desk(view, await view.queue(queue)).build()

            await shown(desk)


class Desk:
    """Where somebody works on a queue: guidelines, and the item that he has."""

    def __init__(self, view: View, queue: annotation_pb2.AnnotationQueue) -> None:
        self._view, self._queue = view, queue

    async def build(self) -> None:
        """Builds it. Nothing is claimed before it is asked for."""
        heading(short(self._queue.name))
        if self._queue.guidelines:
            with ui.expansion("Guidelines", value=True).classes("w-full"):
                _markdown(self._queue.guidelines)
        # It takes the focus with each item, so that whoever works with the keyboard is where the work is.
        self._place = ui.column().classes("w-full").props('tabindex=-1 role=group aria-label="Item"')
        self._place.style("outline: none")
        self._place.on("keydown", self._press, js_handler=_DIGIT)
        self._place.on("keydown.ctrl.enter", self._submit)
        self._claimed: ClaimAnnotationItemResponse | None = None
        with self._place:
            ui.button("Next item", on_click=self._next)

    async def _next(self) -> None:
        """Shows the next item, or that there is none."""
        self._claimed = None
        self._place.clear()
        with self._place:
            try:
                self._show(await self._view.claim(self._queue.name))
            except NotFound as err:
                ui.label(err.message).classes("opacity-70")
                ui.button("Look again", on_click=self._next).props("outline")
            except MainspringError as err:
                ui.label(err.message)
                ui.button("Try again", on_click=self._next).props("outline")
            ui.run_javascript(f"getHtmlElement({self._place.id})?.focus()")

    def _show(self, claimed: ClaimAnnotationItemResponse) -> None:
        item = claimed.annotation_item
        for message in item.messages:
            _text(state(chat_pb2.ChatMessage.Role.Name(message.role)), message.content)
        for number, candidate in enumerate(item.candidates):
            _text(("the first answer", "the second answer")[number], candidate)
        if item.HasField("suggestion"):
            by = f"suggestion by {item.suggestion.source}" if item.suggestion.source else "suggestion"
            _text(f"{by}, {item.suggestion.confidence:.0%} sure", in_words(item.suggestion.label))
        self._form = label_form(self._queue.label_schema)
        self._comment = ui.input("Remark for whoever decides").classes("w-full")
        self._claimed = claimed
        with ui.row().classes("items-center"):
            ui.button("Submit", on_click=self._submit)
            ui.button("Skip", on_click=lambda: self._send(None)).props("outline")
            ui.label(self._form.keys).classes("opacity-70")
            ui.label(f"reserved for you until {moment(claimed.expire_time.ToDatetime())} UTC").classes("opacity-70")

    def _press(self, event: events.GenericEventArguments) -> None:
        if self._claimed is not None:
            self._form.press(int(event.args))

    async def _submit(self) -> None:
        if self._claimed is not None:
            await self._send(self._form.read())

    async def _send(self, label: Label | None) -> None:
        """Says it once, however often a button is pressed meanwhile."""
        claimed, self._claimed = self._claimed, None
        if claimed is None:
            return
        try:
            await self._view.annotate(claimed.annotation_item.name, label, str(self._comment.value or ""))
        except MainspringError as err:
            self._claimed = claimed
            ui.notify(err.message, type="negative")
            return
        await self._next()


def label_form(schema: annotation_pb2.LabelSchema) -> LabelForm:
    """Fields for a label of a schema."""
    match schema.WhichOneof("kind"):
        case "choice" if schema.choice.several:
            several = ui.select(list(schema.choice.choices), multiple=True, label="Choices").classes("w-full max-w-96")
            return LabelForm(lambda: Label(choices=several.value or []))
        case "choice":
            choices = list(schema.choice.choices)
            one = _radio({choice: choice for choice in choices})
            return LabelForm(
                lambda: Label(choices=[] if one.value is None else [str(one.value)]),
                one,
                dict(enumerate(choices, 1)),
            )
        case "rating":
            worst, best = schema.rating.worst, schema.rating.best
            ui.label(f"{worst} is the worst, {best} the best")
            ratings = range(worst, best + 1)
            rating = _radio({number: str(number) for number in ratings})
            return LabelForm(
                lambda: Label() if rating.value is None else Label(rating=int(rating.value)),
                rating,
                {number: number for number in ratings},
            )
        case "preference":
            better = _radio(_PREFERRED)
            return LabelForm(
                lambda: Label(preferred=better.value or Label.PREFERRED_UNSPECIFIED),
                better,
                dict(enumerate(_PREFERRED, 1)),
            )
        case _:
            text = ui.textarea("What the answer should be").classes("w-full")
            return LabelForm(lambda: Label(text=str(text.value or "")))


def _radio(options: dict[Any, str]) -> ui.radio:
    return ui.radio(options).props("inline aria-label=Label")


def in_words(label: Label) -> str:
    """A label for people."""
    if label.preferred:
        return _PREFERRED[label.preferred].lower()
    if label.HasField("rating"):
        return str(label.rating)
    return ", ".join(label.choices) or label.text


def _markdown(text: str) -> None:
    """What somebody wrote in Markdown; HTML in it is shown as it stands."""
    html = markdown2.markdown(text, safe_mode="escape", extras=["fenced-code-blocks", "tables"])
    ui.html(html, sanitize=True).classes("nicegui-markdown w-full").props("dir=auto")


def _text(who: str, content: str) -> None:
    with ui.card().classes("w-full"):
        written(who).classes("text-sm opacity-70")
        written(content).classes("w-full")
