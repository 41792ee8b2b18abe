"""The console in a real browser, as people use it; behind it the services' methods on real gRPC."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Page, expect

from mainspring_svckit.auth import LocalIssuer, TokenVerifier
from mainspring_testkit.browser import assert_accessible, connected, open_page
from mainspring_testkit.neighbours import NeighbourServer
from mainspring_testkit.plugin import Token
from mainspring_testkit.service import Surroundings
from mainspring_testkit.waiting import eventually

from .fakes import MARKUP, SERVICES, TEXT, Loop

ADDRESSES = ("data_ingest", "training", "evaluation", "registry", "embedder", "inference", "feedback")
NARROW = 390
WITHIN_MS = 60_000
DIFFERENT = {"/login", "/data", "/runs/r-1", "/releases", "/playground", "/annotation/q"}
"""Pages that between them have everything which the others have."""


@dataclass
class Console:
    """A console, what stands behind it, and the browser before it."""

    url: str
    loop: Loop
    browser: Browser
    token: Token

    @asynccontextmanager
    async def entered(self, role: str, *, width: int = 1280) -> AsyncIterator[Page]:
        """Somebody who has come in by the keyboard alone."""
        async with open_page(self.browser, self.url, width=width) as page:
            page.set_default_timeout(WITHIN_MS)
            await page.goto("/login")
            await expect(page.get_by_label("Token")).to_be_focused()
            await page.keyboard.insert_text(self.token(role))
            await page.keyboard.press("Tab")
            await page.keyboard.type("p")
            await page.keyboard.press("Enter")
            await page.wait_for_url("/", wait_until="commit")
            yield page


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def console(
    browser: Browser,
    issuer: LocalIssuer,
    verifier: TokenVerifier,
    token: Token,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Console]:
    expect.set_options(timeout=WITHIN_MS)
    loop = Loop()
    server = NeighbourServer(verifier, token("service"))
    folder = tmp_path_factory.mktemp("console")
    surroundings = Surroundings(folder, issuer, "nats://unused", f"file://{folder}")
    try:
        found = await server.start(loop, *SERVICES)
        settings: dict[str, Any] = {f"{name}_address": found.address for name in ADDRESSES}
        replica = surroundings.replica("mainspring_console.main", **settings)
        await replica.start()
        yield Console(f"http://127.0.0.1:{replica.ports['http']}", loop, browser, token)
    finally:
        await surroundings.stop()
        await server.stop()


async def tab_to(page: Page, role: Any, name: str) -> None:
    """Presses Tab until the focus is there, as somebody without a mouse does."""
    wanted = page.get_by_role(role, name=name, exact=True)
    await wanted.wait_for()
    await connected(page)
    for _ in range(40):
        if await wanted.evaluate("element => element === document.activeElement"):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"no {role} {name!r} is reached with Tab")


async def open_what_is_closed(page: Page, path: str) -> None:
    match path:
        case "/data":
            await page.get_by_text("version 1:").click()
            await page.get_by_role("button", name="Show report").click()
            await expect(page.get_by_role("img", name="report of datasets/d/versions/1")).to_be_visible()
            await page.get_by_role("button", name="Show refused rows").click()
        case "/releases":
            await page.get_by_text("gate:").click()
        case "/playground":
            await page.get_by_label("Message").fill("a question")
            await page.get_by_role("button", name="Ask").click()
        case "/annotation/q":
            await page.get_by_role("button", name="Next item").click()
        case _:
            pass


async def test_a6_texts_stay_text_and_pages_suit_phones_and_those_who_do_not_see_well(console: Console) -> None:
    console.loop.waiting = [TEXT]
    texts = {
        "/login": "The first token of a local installation",
        "/": "data dataset version published",
        "/data": MARKUP,
        "/runs": MARKUP,
        "/runs/r-1": MARKUP,
        "/evaluations": MARKUP,
        "/evaluations/e-1": MARKUP,
        "/releases": MARKUP,
        "/playground": MARKUP,
        "/feedback": MARKUP,
        "/annotation": "choice",
        "/annotation/q": MARKUP,
        "/annotation/other": "ANNOTATION_QUEUE_NOT_FOUND",
    }
    async with console.entered("admin", width=NARROW) as page:
        for path, text in texts.items():
            await page.goto(path)
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
            await connected(page)
            await open_what_is_closed(page, path)
            await expect(page.get_by_text(text).first).to_be_visible()
            width, title, foreign = await page.evaluate(
                "[document.documentElement.scrollWidth, document.title, document.querySelectorAll('[onerror]').length]"
            )
            assert (width, foreign) == (NARROW, 0), path
            assert title.endswith(" – Mainspring"), path
            if path in DIFFERENT:
                await assert_accessible(page)


async def test_nothing_can_be_clicked_before_the_page_is_connected(console: Console) -> None:
    async with console.entered("admin") as page:
        # What the page says is answered by nobody.
        await page.route_web_socket(re.compile("_nicegui_ws"), lambda connecting: connecting.on_message(lambda _: None))
        await page.goto("/playground")
        await expect(page.locator("[inert]")).to_have_count(1)
        with pytest.raises(Error, match="Timeout"):
            await page.get_by_role("button", name="Ask").click(timeout=500)


async def test_an_annotator_labels_and_skips_without_a_mouse(console: Console) -> None:
    console.loop.waiting, console.loop.said = ["first question", "second question"], []
    async with console.entered("annotator") as page:
        await page.goto("/annotation/q")
        await tab_to(page, "button", "Next item")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("group", name="Item")).to_be_focused()
        await page.keyboard.press("Control+Enter")
        await expect(page.get_by_text("this queue wants a choice, and nothing else")).to_be_visible()
        await page.keyboard.press("1")
        await expect(page.get_by_role("radio", name="good")).to_be_checked()
        # A digit in a field is a digit.
        await tab_to(page, "textbox", "Remark for whoever decides")
        await page.keyboard.type("2 of 2")
        await page.keyboard.press("Control+Enter")
        await expect(page.get_by_text("second question")).to_be_visible()
        await expect(page.get_by_role("group", name="Item")).to_be_focused()
        await tab_to(page, "radio", "bad")
        await page.keyboard.press("Space")
        await expect(page.get_by_role("radio", name="bad")).to_be_checked()
        await tab_to(page, "button", "Skip")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Look again")).to_be_visible()
    labelled, skipped = console.loop.said
    assert (list(labelled.label.choices), labelled.comment) == (["good"], "2 of 2")
    assert not skipped.HasField("label")


async def test_a_thumb_and_a_correction_of_an_answer_arrive(console: Console) -> None:
    console.loop.judged = []
    async with console.entered("contributor") as page:
        await page.goto("/playground")
        await connected(page)
        await page.get_by_label("Message").fill("a question")
        await page.get_by_role("button", name="Ask").click()
        await page.get_by_role("button", name="good").click()
        await expect(page.get_by_text("Thank you.")).to_have_count(1)
        await page.get_by_label("How it should have been").fill("so")
        await page.get_by_role("button", name="Correct").click()

        async def both() -> bool:
            return len(console.loop.judged) == 2

        await eventually(both, within_s=60, what="both to arrive")
    thumb, correction = console.loop.judged
    assert (thumb.answer, thumb.thumb, correction.correction) == ("projects/p/answers/a-1", True, "so")


async def test_a_release_is_revoked_only_after_a_second_word(console: Console) -> None:
    console.loop.revoked = []
    async with console.entered("admin") as page:
        await page.goto("/releases")
        await page.get_by_role("button", name="Revoke", exact=True).click()
        await expect(page.get_by_role("dialog", name="Revoke?")).to_be_visible()
        await page.get_by_role("button", name="Keep").click()
        await expect(page.get_by_role("button", name="Revoke now")).to_be_hidden()
        assert console.loop.revoked == []
        await page.get_by_role("button", name="Revoke", exact=True).click()
        await page.get_by_role("button", name="Revoke now").click()
        await expect(page.get_by_text("Revoked; the release before serves again.")).to_be_visible()
    assert console.loop.revoked == ["projects/p/models/m/releases/1"]
