import pytest

from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.pagination import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Page, next_page_token


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
    with pytest.raises(InvalidInput) as caught:
        Page.of(1, token, "projects/p")
    assert caught.value.reason == "PAGE_TOKEN_INVALID"
