"""How long a match can be: never said to be shorter than a match that RE2 finds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_guards.patterns import PatternRefused, compile_pattern, longest_match

ATOMS = st.sampled_from(
    [
        *("a", "b", ".", r"\d", r"\W", r"\x41", r"\x{1F600}", r"\.", r"\pL", r"\p{Greek}", "é", "[ab]", "[^]a]"),
        *(r"[\]a-]", "[[:alpha:]]", r"\b", "^", "$", "{", "}", "{,2}", "a{x}", "(?i)", r"\Qa+\E", r"\101"),
    ]
)
REPEATS = st.sampled_from(["", "", "?", "*", "+", "{3}", "{0,2}", "{2,}", "{1,3}?", "??", "*?", "{2}{3}"])


def composed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    groups = st.sampled_from(["(%s)", "(?:%s)", "(?i:%s)", "(?P<n>%s)", "%s"])
    repeated = st.tuples(groups, inner, REPEATS).map(lambda parts: parts[0] % parts[1] + parts[2])
    return st.one_of(
        repeated,
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
    )


@given(st.recursive(ATOMS, composed, max_leaves=8), st.text(alphabet="ab.A1{}, é\n😀x+", max_size=40))
def test_no_match_is_longer_than_the_longest(pattern: str, text: str) -> None:
    try:
        compiled = compile_pattern(f"(?:{pattern})")
    except PatternRefused:
        return
    longest = longest_match(pattern)
    for found in compiled.finditer(text):
        assert longest is None or found.end() - found.start() <= longest


@pytest.mark.parametrize(
    ("pattern", "longest"),
    [
        ("a{2,5}b?", 6),
        ("(?:ab|cde){3}", 9),
        (r"\S{1,64}", 64),
        ("[[:alpha:]]{1,5}", 5),
        ("a{,2}", 5),
        (r"(?i:ab)\bx$", 3),
        (r"\x{41}\pN\p{Greek}", 3),
        ("a{2}{3}", 6),
        (r"\S+", None),
        ("a{2,}", None),
        ("(?:)*", 0),
    ],
)
def test_the_longest_match_is_read_from_the_pattern(pattern: str, longest: int | None) -> None:
    assert longest_match(pattern) == longest
