"""What a stranger's program meets that trusts the contracts only: code generated from them, CloudEvents' own SDK,
AsyncAPI's own parser, all in Node.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.polyglot.conftest import ROOT, StartNode
from tests.support.scripted import MANY, MODEL, TEXT, Servicer, lines_of, released

from mainspring_eventkit.bus import Bus
from mainspring_eventkit.catalog import event_messages
from mainspring_testkit.events import publish
from mainspring_testkit.plugin import Token


async def called(
    start_node: StartNode, generated: Path, what: str, address: str, token: str, status: int = 0, **env: str
) -> list[dict[str, Any]]:
    known = {"MODEL": MODEL, "TEXT": TEXT, "MAINSPRING_ADDRESS": address, "MAINSPRING_TOKEN": token}
    return await lines_of(await start_node("calls.mjs", str(generated), what, **{**known, **env}), status)


async def test_generated_code_gets_an_answer_a_stream_and_pages(
    start_node: StartNode, generated: Path, served: tuple[str, Servicer], token: Token
) -> None:
    address, _ = served
    mine = token("contributor")
    (line,) = await called(start_node, generated, "answer", address, mine)
    assert line["answer"]["text"] == f"{TEXT} for tester"
    assert line["answer"]["latency"] == "1.250s"
    assert line["tokens"] == str(MANY)
    stream = await called(start_node, generated, "stream", address, mine)
    assert stream == [{"delta": ""}, {"delta": "naïve "}, {"delta": "🙂"}, {"answer": f"{TEXT} for tester"}]
    pages = await called(start_node, generated, "pages", address, mine)
    assert [len(page["models"]) for page in pages] == [2, 2, 1]
    assert [name for page in pages for name in page["models"]] == [f"projects/p/models/m{n}" for n in range(1, 6)]


async def test_generated_code_reads_rich_errors_and_its_deadline_holds(
    start_node: StartNode, generated: Path, served: tuple[str, Servicer], token: Token
) -> None:
    address, _ = served
    mine = token("contributor")
    (bad,) = await called(start_node, generated, "answer", address, mine, 1, TEXT="")
    assert bad["code"] == "InvalidArgument"
    assert bad["reason"]
    assert "sampling.max_output_tokens" in bad["fields"]
    (away,) = await called(start_node, generated, "answer", address, mine, 1, MODEL=f"{MODEL}/versions/away")
    assert (away["code"], away["reason"], away["retryS"]) == ("Unavailable", "MODEL_LOADING", "3")
    (late,) = await called(start_node, generated, "late", address, mine, 1, MODEL=f"{MODEL}/versions/late")
    assert late["code"] == "DeadlineExceeded"
    (nobody,) = await called(start_node, generated, "answer", address, "nonsense", 1)
    assert nobody["code"] == "Unauthenticated"


async def test_cloudevents_own_sdk_takes_our_events(start_node: StartNode, bus_and_url: tuple[Bus, str]) -> None:
    bus, _ = bus_and_url
    event_id = await publish(bus, released(1), cycle="c-1")
    subject = "mainspring.events.p.registry.model.released.v1"
    (event,) = await lines_of(await start_node("cloudevent.mjs", subject, MAINSPRING_NATS_URL=admin_url(bus)))
    assert event["specversion"] == "1.0"
    assert (event["id"], event["type"]) == (event_id, "mainspring.registry.model.released.v1")
    assert (event["project"], event["cycle"]) == ("p", "c-1")
    assert event["data"]["manifest"]["filename"] == TEXT


def admin_url(bus: Bus) -> str:
    """Whoever reads single messages of the stream needs an administrator's user."""
    url = bus.client.connected_url
    assert url is not None
    return url.geturl()


async def test_asyncapis_own_parser_takes_our_document_and_not_a_broken_one(
    start_node: StartNode, tmp_path: Path
) -> None:
    document = ROOT / "docs" / "events" / "asyncapi.yaml"
    (said,) = await lines_of(await start_node("asyncapi.mjs", str(document)))
    assert said["errors"] == []
    assert said["version"] == "3.0.0"
    assert set(said["messages"]) == set(event_messages())
    broken = tmp_path / "broken.yaml"
    shutil.copy(document, broken)
    broken.write_text(broken.read_text().replace("action: send", "action: shout", 1))
    (said,) = await lines_of(await start_node("asyncapi.mjs", str(broken)))
    assert said["errors"]
