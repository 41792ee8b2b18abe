"""The pages of annotators: queues, and one item after the other to be labelled or skipped."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui
from starlette.requests import Request

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import annotation_pb2
from mainspring.data.v1.annotation_service_pb2 import ClaimAnnotationItemResponse
from mainspring_console.adapters.services import View
from mainspring_console.domain.wording import moment, short, state
from mainspring_console.transport.frame import ViewOf, page, shown, table
from mainspring_svckit.errors import MainspringError, NotFound

Label = annotation_pb2.Label
ReadLabel = Callable[[], Label]
_PREFERRED = {
    Label.PREFERRED_FIRST: "The first",
    Label.PREFERRED_SECOND: "The second",
    Label.PREFERRED_TIE: "Neither",
}


def register_annotation(view_of: ViewOf) -> None:
    """Makes the pages known to NiceGUI."""

    @ui.page("/annotation")
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

    @ui.page("/annotation/{queue}")
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
        ui.label(short(self._queue.name)).classes("text-xl")
        if self._queue.guidelines:
            with ui.expansion("Guidelines", value=True).classes("w-full"):
                ui.label(self._queue.guidelines).classes("whitespace-pre-wrap")
        self._place = ui.column().classes("w-full")
        with self._place:
            ui.button("Next item", on_click=self._next)

    async def _next(self) -> None:
        """Shows the next item, or that there is none."""
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

    def _show(self, claimed: ClaimAnnotationItemResponse) -> None:
        item = claimed.annotation_item
        for message in item.messages:
            _text(state(chat_pb2.ChatMessage.Role.Name(message.role)), message.content)
        for number, candidate in enumerate(item.candidates):
            _text(("the first answer", "the second answer")[number], candidate)
        if item.HasField("suggestion"):
            source = f" by {item.suggestion.source}" if item.suggestion.source else ""
            said = f"suggested{source}, {item.suggestion.confidence:.0%} sure: {in_words(item.suggestion.label)}"
            ui.label(said).classes("opacity-80")
        read = label_form(self._queue.label_schema)
        comment = ui.input("Remark for whoever decides").classes("w-full")

        async def send(label: Label | None) -> None:
            try:
                await self._view.annotate(item.name, label, str(comment.value or ""))
            except MainspringError as err:
                ui.notify(err.message, type="negative")
                return
            await self._next()

        with ui.row().classes("items-center"):
            ui.button("Submit", on_click=lambda: send(read()))
            ui.button("Skip", on_click=lambda: send(None)).props("outline")
            ui.label(f"reserved for you until {moment(claimed.expire_time.ToDatetime())} UTC").classes("opacity-70")


def label_form(schema: annotation_pb2.LabelSchema) -> ReadLabel:
    """Fields for a label of a schema; what is returned reads them."""
    match schema.WhichOneof("kind"):
        case "choice" if schema.choice.several:
            several = ui.select(list(schema.choice.choices), multiple=True, label="Choices").classes("w-96")
            return lambda: Label(choices=several.value or [])
        case "choice":
            one = ui.radio(list(schema.choice.choices)).props("inline")
            return lambda: Label(choices=[str(one.value)] if one.value is not None else [])
        case "rating":
            worst, best = schema.rating.worst, schema.rating.best
            ui.label(f"{worst} is the worst, {best} the best")
            rating = ui.radio(list(range(worst, best + 1))).props("inline")
            return lambda: Label(rating=int(rating.value)) if rating.value is not None else Label()
        case "preference":
            better = ui.radio(_PREFERRED).props("inline")
            return lambda: Label(preferred=better.value or Label.PREFERRED_UNSPECIFIED)
        case _:
            text = ui.textarea("What the answer should be").classes("w-full")
            return lambda: Label(text=str(text.value or ""))


def in_words(label: Label) -> str:
    """A label for people."""
    if label.preferred:
        return _PREFERRED[label.preferred].lower()
    if label.HasField("rating"):
        return str(label.rating)
    return ", ".join(label.choices) or label.text


def _text(who: str, content: str) -> None:
    with ui.card().classes("w-full"):
        ui.label(who).classes("text-sm opacity-70")
        ui.label(content).classes("whitespace-pre-wrap break-words")
