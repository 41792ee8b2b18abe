"""The console of a whole stack in a real browser: what it shows of a turn, and what people say there arrives."""

from pathlib import Path

from playwright.async_api import Browser, Page, expect
from tests.support import loop
from tests.support.stack import Stack

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import annotation_pb2
from mainspring_client.client import Mainspring
from mainspring_testkit.browser import connected, open_page
from mainspring_testkit.waiting import eventually

# The guides' project: what they release is looked at here.
PROJECT = "guide"
WITHIN_MS = 60_000


async def enter(page: Page, token: str) -> None:
    expect.set_options(timeout=WITHIN_MS)
    page.set_default_timeout(WITHIN_MS)
    await page.goto("/login")
    await page.get_by_label("Token").fill(token)
    await page.get_by_label("Project").fill(PROJECT)
    await page.keyboard.press("Enter")
    await page.wait_for_url("/")


async def test_a_label_given_with_the_keyboard_is_in_the_queue(
    stack: Stack, client: Mainspring, browser: Browser
) -> None:
    queue = f"projects/{PROJECT}/annotationQueues/console"
    schema = annotation_pb2.LabelSchema(choice=annotation_pb2.LabelSchema.Choice(choices=["good", "bad"]))
    await client.annotation.put_queue(annotation_pb2.AnnotationQueue(name=queue, label_schema=schema))
    question = chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_USER, content="Is <b>this</b> clear?")
    await client.annotation.add(queue, [annotation_pb2.AnnotationItem(messages=[question])])
    somebody = ("--role", "annotator", "--project", PROJECT, "--subject", "ann")
    async with open_page(browser, (await stack.status())["console"]) as page:
        await enter(page, (await stack.run("token", "create", *somebody)).strip())
        await page.goto("/annotation")
        await page.get_by_role("link", name="console").click()
        await page.wait_for_url("/annotation/console")
        await connected(page)
        await page.get_by_role("button", name="Next item").press("Enter")
        await expect(page.get_by_text("Is <b>this</b> clear?")).to_be_visible()
        await page.keyboard.press("2")
        await expect(page.get_by_role("radio", name="bad")).to_be_checked()
        await page.keyboard.press("Control+Enter")
        await expect(page.get_by_role("button", name="Look again")).to_be_visible()
    (item,) = [item async for item in client.annotation.items(queue)]
    (said,) = item.annotations
    assert (said.annotator, list(said.label.choices)) == ("ann", ["bad"])


async def test_a_turn_is_seen_from_data_to_release_and_a_thumb_arrives(
    stack: Stack, client: Mainspring, browser: Browser, tmp_path: Path
) -> None:
    await loop.release_once(client, PROJECT, stack.models, tmp_path)
    async with open_page(browser, (await stack.status())["console"]) as page:
        await enter(page, stack.token)
        # Open is only the newest turn, which may be a guide's.
        await expect(page.get_by_text("registry model released").first).to_be_attached()
        await page.goto("/data")
        await page.get_by_text("100 rows in").first.click()
        await page.get_by_role("button", name="Show report").first.click()
        await expect(page.get_by_role("img", name=f"report of datasets/{loop.NAME}/versions/1")).to_be_visible()
        await page.goto("/runs")
        await page.get_by_role("cell").get_by_role("link").last.click()
        await expect(page.get_by_text("succeeded, step")).to_be_visible()
        await page.goto("/evaluations")
        await page.get_by_role("cell").get_by_role("link").last.click()
        await expect(page.get_by_role("cell", name="rouge_l")).to_be_visible()
        await page.goto("/releases")
        await expect(page.get_by_text(f"models/{loop.NAME}/releases/1").first).to_be_visible()

        await page.goto("/playground")
        await connected(page)
        await page.get_by_label("Message").fill(loop.question(1000))
        await page.get_by_role("button", name="Ask").click()
        await page.get_by_role("button", name="bad").wait_for()

        async def arrived() -> bool:
            # Which answers there are travels by event; until then the door says to try again.
            await page.get_by_role("button", name="bad").click()
            given = [item async for item in client.feedback.items(PROJECT) if item.WhichOneof("judgement") == "thumb"]
            return bool(given) and not given[0].thumb

        await eventually(arrived, within_s=60, what="the thumb to arrive")
        await page.goto("/feedback")
        await expect(page.get_by_role("cell", name="thumb").first).to_be_visible()
