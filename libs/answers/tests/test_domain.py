from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_answers.domain import (
    ContextWish,
    Passage,
    Question,
    Route,
    RoutingTable,
    check_question,
    choose_route,
    model_of,
    with_context,
    with_prompt,
)
from mainspring_svckit.errors import InvalidInput, NotFound
from mainspring_svckit.values import Message

MODEL = "projects/p/models/m"


def route(version: int, percent: int) -> Route:
    return Route(f"{MODEL}/versions/{version}", f"{MODEL}/releases/{version}", percent, f"p--m--{version}")


def table(*shares: tuple[int, int]) -> RoutingTable:
    return RoutingTable(MODEL, 1, tuple(route(version, percent) for version, percent in shares))


def test_traffic_follows_the_shares() -> None:
    chosen = Counter(choose_route(table((1, 90), (2, 10)), MODEL, f"key-{n}").model_version for n in range(20_000))
    assert 0.09 < chosen[f"{MODEL}/versions/2"] / 20_000 < 0.11


@given(st.text(), st.integers(0, 100), st.integers(0, 100))
def test_a_growing_share_never_sends_a_key_back(key: str, one: int, other: int) -> None:
    small, large = sorted((one, other))
    before = choose_route(table((1, 100 - small), (2, small)), MODEL, key)
    after = choose_route(table((1, 100 - large), (2, large)), MODEL, key)
    if before.model_version.endswith("/2"):
        assert after == before or after.model_version == before.model_version


@given(st.text())
def test_with_all_traffic_every_key_finds_a_route(key: str) -> None:
    assert choose_route(table((1, 100), (2, 0)), MODEL, key).model_version.endswith("/1")


def test_a_version_is_reached_by_its_name_whatever_its_share() -> None:
    both = table((1, 100), (2, 0))
    assert choose_route(both, f"{MODEL}/versions/2", "k").triton_model == "p--m--2"
    for name, known in ((f"{MODEL}/versions/3", both), (MODEL, table((1, 0))), (MODEL, None)):
        with pytest.raises(NotFound):
            choose_route(known, name, "k")


def test_the_main_route_has_most_traffic_or_is_the_newest() -> None:
    assert table((1, 90), (2, 10)).main_route == route(1, 90)
    assert table((1, 0), (10, 0), (9, 0)).main_route == route(10, 0)
    assert table().main_route is None


def test_a_versions_model() -> None:
    assert model_of(f"{MODEL}/versions/3") == model_of(MODEL) == MODEL
    with pytest.raises(InvalidInput):
        model_of("m")


def test_context_stands_before_the_last_message_with_numbers() -> None:
    messages = (Message("system", "s"), Message("user", "What is a list?"))
    passages = [Passage("d1", "Lists", "", "A list holds items.", 0.9), Passage("d2", "Tuples", "", "Fixed.", 0.5)]
    told, citations = with_context(messages, passages)
    assert told[0] == messages[0]
    assert told[1].content.endswith("What is a list?")
    assert told[1].content.index("[1] Lists\nA list holds items.") < told[1].content.index("[2] Tuples\nFixed.")
    assert [(c.number, c.passage.document_id) for c in citations] == [(1, "d1"), (2, "d2")]
    assert with_context(messages, []) == (messages, ())


def test_what_no_contract_can_say_is_checked() -> None:
    with pytest.raises(InvalidInput, match="last message"):
        check_question(Question("p", MODEL, messages=(Message("assistant", "x"),)))
    with pytest.raises(InvalidInput, match="raw prompt"):
        check_question(Question("p", MODEL, raw_prompt="x", context=ContextWish("c")))


def test_a_system_message_joins_the_prompts() -> None:
    prompt = (Message("system", "one"), Message("user", "q"), Message("assistant", "a"))
    asked = Message("user", "hi")
    assert with_prompt(prompt, (asked,)) == (*prompt, asked)
    joined = with_prompt(prompt, (Message("system", "two"), asked))
    assert joined == (Message("system", "one\n\ntwo"), *prompt[1:], asked)
    assert with_prompt(prompt[1:], (Message("system", "two"), asked)) == (Message("system", "two"), *prompt[1:], asked)
    assert with_prompt((), (asked,)) == (asked,)
