import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.pagination import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Page, next_page_token

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9)


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode()


def checksum() -> str:
    """What stands in a token of this list."""
    return json.loads(base64.urlsafe_b64decode(next_page_token("key", "projects/p")))[0]


def assert_refused(token: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Page.of(1, token, "projects/p")
    assert caught.value.reason == "PAGE_TOKEN_INVALID"
    assert [violation.field for violation in caught.value.violations] == ["page_token"]


def test_sizes_have_a_default_and_a_most() -> None:
    assert Page.of(0, "").size == DEFAULT_PAGE_SIZE
    assert Page.of(10**9, "").size == MAX_PAGE_SIZE
    assert Page.of(7, "").size == 7


def test_a_token_brings_the_last_key_back() -> None:
    token = next_page_token("key", "projects/p", "filter")
    assert Page.of(1, token, "projects/p", "filter").after == "key"
    assert next_page_token(None, "projects/p") == ""


@pytest.mark.parametrize("token", ["x", "!!", "WzFd", next_page_token("key", "projects/q")])
def test_a3_foreign_and_broken_tokens_are_refused(token: str) -> None:
    assert_refused(token)


@pytest.mark.parametrize(
    "content",
    [b"1", b"null", b"true", b'"ab"', b'{"a": 1, "b": 2}', b"[" * 100_000, b"[1, 2, 3]", b"\xff", b"9" * 5_000],
)
def test_b1_tokens_of_other_json_are_refused(content: bytes) -> None:
    assert_refused(encoded(content))


@given(st.text(min_size=1) | st.binary(min_size=1).map(encoded) | JSON.map(json.dumps).map(str.encode).map(encoded))
def test_b1_whatever_stands_in_a_token_that_is_not_ours_it_is_refused_as_one(token: str) -> None:
    assert_refused(token)


@given(JSON)
def test_b1_under_the_right_checksum_only_a_key_that_a_database_can_hold_is_taken(after: Any) -> None:
    token = encoded(json.dumps([checksum(), after]).encode())
    if isinstance(after, str) and "\0" not in after:
        assert Page.of(1, token, "projects/p").after == after
    else:
        assert_refused(token)


@pytest.mark.parametrize("after", ["a\0b", "\ud800"])
def test_b1_a_key_that_no_database_can_hold_is_refused(after: str) -> None:
    assert_refused(next_page_token(after, "projects/p"))
