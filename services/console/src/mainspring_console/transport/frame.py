"""What every page has around it: the menu, and a way to show errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from nicegui import ui
from starlette.requests import Request

from mainspring_console.adapters.services import View
from mainspring_svckit.errors import MainspringError

ViewOf = Callable[[Request], View]
"""What whoever sent a request may see."""
MENU = (
    ("/", "Overview"),
    ("/data", "Data"),
    ("/runs", "Training"),
    ("/evaluations", "Evaluations"),
    ("/releases", "Releases"),
    ("/playground", "Playground"),
    ("/feedback", "Feedback"),
    ("/annotation", "Annotation"),
)


@contextmanager
def page(title: str, project: str) -> Generator[None]:
    """The frame of a page."""
    ui.page_title(f"{title} – Mainspring")
    ui.dark_mode(None)
    with ui.header().classes("items-center gap-4 px-4"):
        ui.label("Mainspring").classes("text-lg font-bold")
        for path, name in MENU:
            ui.link(name, path).classes("text-white no-underline" + (" font-bold underline" if name == title else ""))
        ui.space()
        ui.label(project).classes("opacity-80")
        ui.html('<form method="post" action="/logout"><button type="submit">Leave</button></form>', sanitize=False)
    with ui.column().classes("w-full max-w-6xl mx-auto p-4 gap-4"):
        ui.label(title).classes("text-2xl")
        yield


async def shown(work: Callable[[], Awaitable[None]]) -> None:
    """Builds a part of a page; what a service refuses is shown in its place instead of breaking the page."""
    try:
        await work()
    except MainspringError as err:
        with ui.card().classes("w-full bg-red-100 dark:bg-red-900"):
            ui.label(err.message)
            ui.label(err.reason).classes("text-sm opacity-70")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str, link: str = "") -> None:
    """A table of texts; with `link` the first cell of each row leads there, its text filled in for `{}`."""
    if not rows:
        ui.label(empty).classes("opacity-70")
        return
    with ui.element("table").classes("w-full text-left"):
        with ui.element("thead"), ui.element("tr"):
            for column in columns:
                with ui.element("th").classes("pr-4 pb-1"):
                    ui.label(column)
        with ui.element("tbody"):
            for row in rows:
                with ui.element("tr").classes("border-t"):
                    for index, cell in enumerate(row):
                        with ui.element("td").classes("pr-4 py-1 align-top"):
                            if link and index == 0:
                                ui.link(str(cell), link.format(cell))
                            else:
                                ui.label(str(cell)).classes("whitespace-pre-wrap break-words")
