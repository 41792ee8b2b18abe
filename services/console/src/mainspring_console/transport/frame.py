"""What every page has around it: the menu, and ways to show headings, people's texts, tables and errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from nicegui import app, ui
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
_ONE_LINE, _LONGEST_WORD = 20, 24
"""Characters of a table's cell that stay on one line, and of words in it that stay whole; longer ones are broken
wherever they must be, as elsewhere.
"""
# A word may be as long as a text, and no page is to be wider than its window. On dark ground the primary and the
# negative colour are too dark for letters.
_STYLE = """
body { overflow-wrap: anywhere }
@layer components {
  .written { white-space: pre-wrap; unicode-bidi: plaintext; text-align: start }
}
@layer overrides {
  .nicegui-link:not(.text-white) { color: var(--q-primary) }
  .body--dark .text-primary, .body--dark .nicegui-link:not(.text-white), .body--dark .nicegui-markdown a {
    color: #90bfee !important
  }
  .body--dark .text-negative { color: #ff8a9a !important }
}
"""


def register_style() -> None:
    """Makes what all pages look like known to NiceGUI."""
    # Letters on white, and white ones on it, have a contrast of 7; with NiceGUI's own colour they have 3.
    app.colors(primary="#245a94")
    ui.add_css(_STYLE, shared=True)


def route(path: str) -> ui.page:
    """Makes a page known. It may take as long as several services that are slow to answer, one after the other."""
    return ui.page(path, response_timeout=60)


@contextmanager
def page(title: str, project: str) -> Generator[None]:
    """The frame of a page."""
    ui.page_title(f"{title} – Mainspring")
    ui.dark_mode(None)
    with ui.header(fixed=False).classes("items-center gap-4 px-4"):
        ui.label("Mainspring").classes("text-lg font-bold")
        menu = ui.element("nav").classes("flex flex-wrap gap-x-4 gap-y-1 order-last md:order-none w-full md:w-auto")
        with menu.props("aria-label=Pages"):
            for path, name in MENU:
                link = ui.link(name, path).classes("text-white no-underline")
                if name == title:
                    link.classes("font-bold underline").props("aria-current=page")
        ui.space()
        ui.label(project).classes("opacity-80")
        ui.html('<form method="post" action="/logout"><button type="submit">Leave</button></form>', sanitize=False)
    with ui.column().classes("w-full max-w-6xl mx-auto p-4 gap-4").props("inert") as content:
        heading(title, 1)
        yield
    # A click before the browser's connection stands would be lost, without a word.
    ui.context.client.on_connect(lambda: content.props(remove="inert"))
    ui.skip_link(target=content)


def heading(text: str, level: int = 2) -> None:
    """A heading, for the eye and for screen readers."""
    ui.label(text).classes("text-2xl" if level == 1 else "text-xl").props(f"role=heading aria-level={level}")


def written(text: str = "") -> ui.label:
    """What people or models wrote, line by line, each from the side on which its script begins."""
    return ui.label(text).classes("written")


async def shown(work: Callable[[], Awaitable[None]]) -> None:
    """Builds a part of a page; what a service refuses is shown in its place instead of breaking the page."""
    try:
        await work()
    except MainspringError as err:
        with ui.card().classes("w-full bg-red-100 dark:bg-red-900").props("role=alert"):
            ui.label(err.message)
            ui.label(err.reason).classes("text-sm opacity-70")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str, link: str = "") -> None:
    """A table of texts; with `link` the first cell of each row leads there, its text filled in for `{}`."""
    if not rows:
        ui.label(empty).classes("opacity-70")
        return
    # In a narrow window many columns are scrolled by themselves; browsers let the keyboard do so, too.
    with ui.element("div").classes("w-full overflow-x-auto"), ui.element("table").classes("w-full text-left"):
        with ui.element("thead"), ui.element("tr"):
            for column in columns:
                with ui.element("th").classes("pr-4 pb-1 wrap-normal").props("scope=col"):
                    ui.label(column)
        with ui.element("tbody"):
            for row in rows:
                with ui.element("tr").classes("border-t"):
                    for index, cell in enumerate(row):
                        with ui.element("td").classes("pr-4 py-1 align-top"):
                            text = str(cell)
                            shown_in = ui.link(text, link.format(cell)) if link and index == 0 else written(text)
                            shown_in.classes(_wrapping(text))


def _wrapping(text: str) -> str:
    if len(text) <= _ONE_LINE:
        return "whitespace-nowrap"
    return "min-w-48" if max(map(len, text.split()), default=0) > _LONGEST_WORD else "wrap-normal"
