"""A real browser before pages of ours; tests that need one are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Error, Page, Request, Response, async_playwright, expect

from mainspring_testkit.waiting import eventually

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# It talks to nobody but the pages under test.
_ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)

_AXE: dict[str, Any] = {
    "resultTypes": ["violations"],
    "preload": False,  # It would load the styles again.
    # Chromium and Firefox let the keyboard scroll whatever can be scrolled; a stop at each table would be in the way.
    "rules": {"scrollable-region-focusable": {"enabled": False}},
}


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The machine's Chromium, without a window, with an empty profile."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("there is no Chromium here; 'apt-get install chromium' brings one")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


async def connected(page: Page) -> None:
    """Waits until what keys do and what is filled in arrives; a click waits for that by itself."""
    await page.get_by_role("heading").first.wait_for()
    await expect(page.locator("[inert]")).to_have_count(0)


@asynccontextmanager
async def open_page(browser: Browser, url: str, *, width: int = 1280) -> AsyncIterator[Page]:
    """A page of somebody whom the browser does not know; it must end without a complaint.

    Complaints are errors and warnings on the console, which is also where a breach of the content security policy
    stands, exceptions, answers of 400 and more, and whatever is loaded from elsewhere.

    Args:
        browser: The browser.
        url: Where relative addresses lead.
        width: Of the window, in CSS pixels.
    """
    complaints: list[str] = []

    def console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(f"{message.type}: {message.text}")

    def request(asked: Request) -> None:
        if not asked.url.startswith((url, "data:")):
            complaints.append(f"loads {asked.url}")

    def response(answer: Response) -> None:
        if answer.status >= 400:
            complaints.append(f"{answer.status}: {answer.url}")

    context = await browser.new_context(base_url=url, viewport={"width": width, "height": 800})
    page = await context.new_page()
    try:
        page.on("console", console)
        page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
        page.on("request", request)
        page.on("response", response)
        yield page
        assert not complaints, complaints
    except (AssertionError, Error) as err:
        err.add_note(f"at {page.url} with {await page.locator('body').inner_text()}\ncomplaints: {complaints}")
        raise
    finally:
        await context.close()


async def assert_accessible(page: Page) -> None:
    """Asserts that axe-core finds nothing to mend: names, roles, headings; contrast on light and on dark ground."""
    grounds: dict[Literal["light", "dark"], dict[str, Any]] = {
        "light": _AXE,
        "dark": {**_AXE, "runOnly": ["color-contrast"]},
    }
    for ground, options in grounds.items():
        await page.emulate_media(color_scheme=ground)

        async def accessible(options: dict[str, Any] = options) -> bool:
            found = await Axe().run(page, options=options)
            assert not found.violations_count, found.generate_report()
            return True

        # Colours change by and by.
        await eventually(accessible, within_s=20, what=f"nothing to mend on {ground} ground")
