import io
import json
import logging
import uuid
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mainspring_svckit.ids import new_id
from mainspring_svckit.logs import configure_logging, get_logger


def test_ids_are_version_7_and_sort_by_time() -> None:
    made = [new_id() for _ in range(100)]
    assert all(uuid.UUID(i).version == 7 and uuid.UUID(i).variant == uuid.RFC_4122 for i in made)
    assert len(set(made)) == 100
    assert [i[:13] for i in made] == sorted(i[:13] for i in made)


def logged(event: str, **fields: Any) -> str:
    """What one call writes to the log."""
    root = logging.getLogger()
    before = root.handlers
    try:
        configure_logging("test", "info")
        stream = io.StringIO()
        handler = root.handlers[0]
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(stream)
        get_logger("x").info(event, **fields)
        return stream.getvalue()
    finally:
        root.handlers = before


def test_i11_secrets_do_not_reach_the_log() -> None:
    line = logged("connected", url="postgresql://user:hunter2@host/db", token="abc", api_key="k")
    assert "hunter2" not in line
    entry = json.loads(line)
    assert entry["token"] == entry["api_key"] == "[redacted]"
    assert entry["service"] == "test"


@given(st.text(min_size=1))
def test_b10_any_text_is_one_line_of_json(text: str) -> None:
    line = logged("said", text=text)
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert json.loads(line)["text"] == text


def test_b10_long_values_are_cut() -> None:
    line = logged("said", text="a" * 1_000_000)
    assert "...[cut]" in line
    assert len(line) < 10_000
