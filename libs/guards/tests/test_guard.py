"""Rules over whole texts and over texts that come in pieces."""

import itertools
import unicodedata
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_guards.finders import ExpressionFinder, TextFinder
from mainspring_guards.guard import Guard, guard_of
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.values import (
    GuardAction,
    GuardDirection,
    GuardRule,
    Message,
    PersonalDataKind,
    ServedGuard,
    rules_sha256,
)

REFUSE, MASK, RECORD = GuardAction
IBAN = "DE89 3704 0044 0532 0130 00"
CARD = "4111-1111-1111-1111"


def rule(action: GuardAction = MASK, **fields: Any) -> GuardRule:
    fields = {"id": "r", "direction": GuardDirection.BOTH, **fields}
    if action is REFUSE:
        fields.setdefault("text", "No.")
    return GuardRule(action=action, **fields)


def answered(rules: Sequence[GuardRule], *pieces: str) -> tuple[str, bool, tuple[str, ...]]:
    guarded = Guard(rules).answer()
    assert guarded is not None
    text = "".join(guarded.feed(piece) for piece in pieces) + guarded.finish()
    return text, guarded.refused, guarded.fired


def asked(rules: Sequence[GuardRule], *texts: str) -> tuple[list[str], str | None, tuple[str, ...]]:
    checked = Guard(rules).question(Message("user", text) for text in texts)
    return [message.content for message in checked.messages], checked.refusal, checked.fired


POLICY = (
    rule(REFUSE, id="secret", texts=("project zephyr", "zephyr"), text="I cannot talk of that."),
    rule(id="words", texts=("foo", "foo bar", "ß"), whole_words=True, text="*"),
    rule(id="code", expressions=(r"\bk-[0-9]{2,4}\b", r"x{3}(?:yz){0,2}$"), exact=True),
    rule(id="parts", texts=("が", "한", "آ"), text="+"),
    rule(id="folded", expressions=("[か-が]{1,3}f", "Ｅ1"), text="="),
    rule(id="own", personal_data=tuple(PersonalDataKind)),
    rule(RECORD, id="seen", texts=("a", "[own]")),
    rule(REFUSE, id="long", max_characters=60, text="Too long."),
)
WORDS = st.sampled_from(
    [
        *("zephyr", "ZEPHYR", "z\u200bephyr", "project", "foo", "bar", "barn", "Ｆｏｏ", "ß", "SS", "f", "z", "1"),
        *("k-12", "k-12345", "xxx", "xxxyz", "xxxyzyzyz", "a@b.co", "a@b.co.uk", "é", "e\u0301", "が"),
        *(
            "\u0301",
            "か\u3099",
            "か",
            "ｶﾞ",
            "한",
            "\u1112\u1161\u11ab",
            "\u1112\u1161",
            "\u11ab",
            "آ",
            "ا\u0653",
            "क\u093c",
        ),
        *("030 1234567", "040", "(555) 123", "7654321", "IP:", ":eth0", "4\u20111"),
        *(IBAN, CARD, "+49 30 1234567", "10.1.2.3", "2001:db8::7", " ", "  ", "\n", ".", "-"),
    ]
)
TEXTS = st.lists(st.one_of(WORDS, WORDS, st.text(max_size=3)), max_size=12).map("".join)


@given(st.data())
def test_however_a_text_is_cut_the_same_comes_out(data: st.DataObject) -> None:
    text = data.draw(TEXTS)
    policy = data.draw(st.lists(st.sampled_from(POLICY), min_size=1, unique=True))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    whole = answered(policy, text)
    assert answered(policy, *pieces) == whole
    assert answered(policy, *text) == whole


@given(TEXTS)
def test_no_denied_text_leaves_in_any_order_of_pieces(text: str) -> None:
    said, refused, _ = answered((rule(REFUSE, texts=("zephyr",), text="No."),), *text)
    assert "zephyr" not in said.casefold().replace("\u200b", "")
    assert refused == said.endswith("No.") or "No." in text


@given(TEXTS)
def test_a_question_and_an_answer_are_treated_alike(text: str) -> None:
    policy = POLICY[1:6]
    assert asked(policy, text)[0] == [answered(policy, text)[0]]


def test_a_refusal_ends_an_answer_and_says_so_and_nothing_comes_after() -> None:
    refusing = rule(REFUSE, texts=("zephyr",))
    assert answered([refusing], "Well, ", "zep", "hyr is", " secret") == ("Well, \n\nNo.", True, ("r",))
    assert answered([refusing], "Zephyr") == ("No.", True, ("r",))


def test_a_text_is_held_back_no_longer_than_it_may_become_something() -> None:
    guarded = Guard([rule(texts=("zephyr",))]).answer()
    assert guarded is not None
    assert [guarded.feed(piece) for piece in ("The ", "zep", "pelin", " z", "e", "phyr", "!")] == [
        "The ",
        "",
        "zeppelin",
        " ",
        "",
        "[r]",
        "!",
    ]


def test_rules_that_only_record_hold_nothing_back() -> None:
    guarded = Guard([rule(RECORD, expressions=("ab{1,900}c",)), rule(RECORD, id="l", max_characters=2)]).answer()
    assert guarded is not None
    assert [guarded.feed(piece) for piece in "abbc"] == list("abbc")
    assert (guarded.finish(), guarded.fired) == ("", ("r", "l"))
    assert Guard([rule(direction=GuardDirection.INPUT, texts=("a",))]).answer() is None


def test_the_strictest_rule_has_the_word_and_masks_do_not_overlap() -> None:
    rules = [rule(id="one", texts=("ab",)), rule(id="two", texts=("bc",)), rule(REFUSE, id="no", texts=("cd",))]
    assert answered(rules, "xabcx") == ("x[one]x", False, ("one", "two"))
    assert answered(rules, "xabcd") == ("x[one]\n\nNo.", True, ("one", "two", "no"))
    assert answered([rule(id="m", texts=("a",)), rule(REFUSE, id="no", texts=("a",))], "a") == ("No.", True, ("no",))


def test_lengths() -> None:
    assert answered([rule(REFUSE, max_characters=3)], "ab", "c", "d") == ("abc\n\nNo.", True, ("r",))
    assert answered([rule(REFUSE, max_characters=3)], "abc") == ("abc", False, ())
    assert asked([rule(REFUSE, max_characters=3)], "ab", "cd") == (["ab", "cd"], "No.", ("r",))
    assert asked([rule(RECORD, max_characters=3)], "abc", "d") == (["abc", "d"], None, ("r",))


@pytest.mark.parametrize(
    "text",
    [
        "ZEPHYR",
        "ｚｅｐｈｙｒ",
        "z\u200be\u2060p\u00adhyr",
        "zéphyr",
        "z\u0301e\u0336phyr",
        "𝐳𝐞𝐩𝐡𝐲𝐫",
        "z\U000e0041ephyr",
    ],
)
def test_b5_unicode_tricks_hide_nothing_unless_a_rule_is_exact(text: str) -> None:
    assert answered([rule(texts=("Zephyr",))], *text)[0] == "[r]"
    assert answered([rule(texts=("zephyr",), exact=True)], *text)[0] == text
    assert answered([rule(expressions=("z[a-z]{1,9}R",))], *text)[0] == "[r]"


@pytest.mark.parametrize("text", ["z\u0483ephyr", "z\u180bephyr", "z\ufff0ephyr", "z\U000e0fffephyr", "z\u2065ephyr"])
def test_b5_what_nothing_displays_hides_nothing(text: str) -> None:
    assert answered([rule(texts=("Zephyr",))], *text)[0] == "[r]"


@pytest.mark.parametrize("word", ["がか", "한국", "café", "آب", "\u0928\u0940\u0929"])
def test_b5_a_word_written_in_parts_is_the_word_and_goes_as_a_whole(word: str) -> None:
    for text in (unicodedata.normalize("NFD", word), word):
        assert answered([rule(texts=(word,))], *f"a {text} b") == ("a [r] b", False, ("r",))
        assert asked([rule(texts=(word,))], text)[0] == ["[r]"]


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("Müller", "MÜLLER"),
        ("Mu\u0308ller", "Müller"),
        ("Stra(ß){1,2}e", "strasse"),
        ("a\\tb", "a\t b"),
        ("a  b", "a b"),
        ("[äö]{2}", "ÄÖ"),
        (r"\x{e9}t\x{e9}", "été"),
        (r"\QÉ.\E", "é."),
        (r"[^\n]\pL", "ab"),
        (r"x[\t]y", "x y"),
    ],
)
def test_an_expression_is_folded_as_the_text_is(expression: str, text: str) -> None:
    assert asked([rule(expressions=(expression,))], text)[0] == ["[r]"]


def test_b5_letters_of_other_scripts_stay_what_they_are() -> None:
    assert asked([rule(texts=("か",))], "が か")[0] == ["が [r]"]
    assert asked([rule(texts=("credit card",))], "credit \n\t card")[0] == ["[r]"]


@pytest.mark.parametrize(
    ("kind", "text", "left"),
    [
        ("CARD_NUMBER", f"pay {CARD}, or 12 {CARD}.", "pay [r], or 12 [r]."),
        ("CARD_NUMBER", "4111111111111112 4444 4444 4444 4444 94111111111111111", None),
        ("IBAN", f"to {IBAN} and {IBAN.replace(' ', '').lower()}.", "to [r] and [r]."),
        ("IBAN", "DE88 3704 0044 0532 0130 00, xDE89370400440532013000", None),
        ("IP_ADDRESS", "from 10.1.2.3:80, [2001:db8::7] or 10.1.2.4.", "from [r]:80, [[r]] or [r]."),
        ("IP_ADDRESS", "at 12:30:45, 1.2.3.4.5, 127.0.0.1, a::b, ::1, 300.1.1.1", None),
        ("MAIL_ADDRESS", "Ask Ann.O'Neil+x@mail.example.co.uk.", "Ask [r]."),
        ("MAIL_ADDRESS", "a@b, @b.co, a@b.c", None),
        ("PHONE_NUMBER", "+49 (0)30 123-4567, (555) 123-4567, 030/1234567", "[r], [r], [r]"),
        ("PHONE_NUMBER", "030 1234567\n040 7654321\n(089) 555-5555 (089) 555-6666", "[r]\n[r]\n[r] [r]"),
        ("PHONE_NUMBER", "0301234567/01712345678 or 24/01/2026 01/02", "[r]/[r] or 24/01/2026 01/02"),
        ("PHONE_NUMBER", "+49 30 1234567 12345678, 030 1234567 89km", "[r] 12345678, [r] 89km"),
        ("IP_ADDRESS", "IP:10.1.2.3, 10.1.2.3:eth0, IP:2001:db8::7", "IP:[r], [r]:eth0, IP:[r]"),
        ("CARD_NUMBER", "4111\u20111111\u20111111\u20111111 or ٤١١١ ١١١١ ١١١١ ١١١١", "[r] or [r]"),
        ("PHONE_NUMBER", "01.02.2024 13:45, 0.123456789, 2024-01-02, 12345678", None),
    ],
)
def test_personal_data_is_known_by_form_and_checksum(kind: str, text: str, left: str | None) -> None:
    personal = rule(personal_data=(PersonalDataKind(kind),))
    assert answered([personal], *text)[0] == (text if left is None else left)
    assert asked([personal], text)[0] == [text if left is None else left]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"expressions": (r"(?=a)b",)}, "not an expression"),
        ({"expressions": (r"(a)\1",)}, "not an expression"),
        ({"expressions": (r"(a{1000}){1000}",)}, "not an expression"),
        ({"expressions": (r"\S+",)}, "no longest match"),
        ({"expressions": (r"a{600}b{600}",)}, "up to 1200 characters"),
        ({"expressions": (r"a{0,3}",)}, "empty text"),
        ({"expressions": (r"\b",)}, "empty text"),
        ({"expressions": ("a)|(b",)}, "not an expression"),
        ({"expressions": ("a {2}b",)}, "several white spaces"),
        ({"expressions": ("a  ?b",)}, "several white spaces"),
        ({"expressions": (r"\pL{1,1000}",)}, "not an expression"),
        ({"texts": ("\u200b",)}, "no character that can be seen"),
        ({}, "exactly one of"),
        ({"texts": ("a",), "max_characters": 3}, "exactly one of"),
        ({"max_characters": 3}, "cannot mask"),
    ],
)
def test_b4_a_rule_that_cannot_be_applied_is_refused_when_it_is_written(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        Guard([rule(**fields)])
    assert caught.value.reason == "GUARD_POLICY_INVALID"
    with pytest.raises(InvalidInput, match="called 'r'"):
        Guard([rule(texts=("a",)), rule(texts=("b",))])


def test_b4_a_pattern_that_stops_others_for_years_is_searched_in_linear_time() -> None:
    # Backtracking needs 2**100000 steps for this; whoever tries does not come back within the test's limit.
    nested = rule(direction=GuardDirection.INPUT, expressions=("(a+)+b", "(a|a)*c"))
    assert asked([nested], "a" * 100_000)[0] == ["a" * 100_000]
    assert asked([nested], "a" * 100_000 + "b")[0] == ["[r]"]


def test_b4_a_long_question_of_almost_personal_data_is_looked_at_in_linear_time() -> None:
    every = rule(personal_data=tuple(PersonalDataKind))
    for text in ("4 " * 4_000, "1" * 20_000, "a@" * 10_000, ":" * 20_000, "de89" * 5_000):
        assert asked([every], text)[0] == [text]


@pytest.mark.parametrize("direction", [GuardDirection.INPUT, GuardDirection.OUTPUT])
def test_b4_many_matches_are_found_in_work_that_grows_with_the_text(
    direction: GuardDirection, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0

    def counting(finder: Any) -> None:
        found = finder.find_all

        def find_all(self: Any, text: str, start: int) -> Any:
            nonlocal looked_at
            looked_at += len(text)
            return found(self, text, start)

        monkeypatch.setattr(finder, "find_all", find_all)

    counting(ExpressionFinder)
    counting(TextFinder)
    endless = rule(id="endless", direction=GuardDirection.INPUT, expressions=("[0-9]+",), text="#")
    rules = [
        endless,
        rule(id="texts", texts=("1",), text="#", whole_words=True),
        rule(id="bound", expressions=("1{1,9}",), text="#"),
    ]

    def work(count: int) -> int:
        nonlocal looked_at
        looked_at = 0
        text = "1 " * count
        said = asked(rules, text)[0] if direction is GuardDirection.INPUT else [answered(rules, text)[0]]
        assert said == ["# " * count]
        return looked_at

    assert work(40_000) < 5 * work(10_000)


def test_b4_rules_that_are_too_much_together_are_refused() -> None:
    big = [rule(id=f"r{number}", expressions=(r"\S{1,900}",)) for number in range(60)]
    with pytest.raises(InvalidInput, match="too large together"):
        Guard(big)


SERVED = ServedGuard("projects/p/guardPolicies/g/versions/1", rules_sha256(POLICY), POLICY)


def test_f10_rules_other_than_those_that_were_released_are_not_applied() -> None:
    assert guard_of(SERVED) is guard_of(ServedGuard(SERVED.guard_policy_version, SERVED.sha256, (*POLICY,)))
    for rules in ((), POLICY[1:], (*POLICY[:-1], rule(REFUSE, id="long", max_characters=61, text="Too long."))):
        with pytest.raises(PreconditionFailed) as caught:
            guard_of(ServedGuard(SERVED.guard_policy_version, SERVED.sha256, rules))
        assert caught.value.reason == "GUARD_POLICY_BROKEN"
    other = ServedGuard("projects/p/guardPolicies/h/versions/1", SERVED.sha256, POLICY)
    assert guard_of(other) is guard_of(other)
    assert guard_of(SERVED) is guard_of(SERVED), "one policy does not drive another out that says the same"
