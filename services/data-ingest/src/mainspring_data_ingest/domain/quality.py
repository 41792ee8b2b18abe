"""Published rules for text that is worth learning from.

Sources: Gopher (Rae et al. 2021, appendix A.1.1), C4 (Raffel et al. 2020, section 2.2, with the counts of its last
revision), FineWeb (Penedo et al. 2024, section 3.6). They were made for web pages; examples are often one sentence, for
which a share means nothing. So each rule of the default set has a length below which it says nothing; the rules that
are not in it demand what a page has.

Where C4 drops lines of a page, a row is refused: rows are kept as they are, or not at all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum

from mainspring_data_ingest.domain.words import words_of

_BULLETS = ("•", "‣", "◦", "-", "*", "·")
_ELLIPSES = ("...", "…")
_LINE_ENDS = (".", "!", "?", '"', "'", "”", "’", "…", ":", ";", ")", "]", "。", "！", "？")
_BOILERPLATE = re.compile(
    r"lorem ipsum|(?:enable|activate|turn on) javascript|javascript (?:is|must be) (?:disabled|enabled|required)"
    r"|(?:uses?|use of|accept(?: all)?) cookies|privacy policy|terms of (?:use|service)",
    re.IGNORECASE,
)
_BOILERPLATE_HINTS = ("lorem ipsum", "javascript", "cookies", "privacy policy", "terms of ")
"""One of these is in every text that the pattern finds, but for letters beyond ASCII that it takes for the same."""
_C4_BAD_LINE = re.compile(
    r"javascript|terms of use|(?:privacy|cookie) policy|uses cookies|use (?:of )?cookies", re.IGNORECASE
)
_C4_END_MARKS = (".", "!", "?", '"', "\u201d", "\u2019")
_C4_SENTENCES, _C4_LINE_WORDS = 3, 5
_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f]+[\"')\]\u201d\u2019]*(?=\s|$)|[\u3002\uff01\uff1f]")
_GOPHER_WORDS = (50, 100_000)
_GOPHER_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_TOP_SHARES = {2: 0.20, 3: 0.18, 4: 0.16}
_DUPLICATE_SHARES = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
_SENTENCES = 40
"""Words from which a text is taken as several sentences, where the published shares hold; see the contract."""
_RUNS = 3
"""A few words that come twice in a short text are no repetition."""


class QualityRule(StrEnum):
    """The rules by name; the contract says what each demands."""

    GOPHER_WORD_LENGTH = "GOPHER_WORD_LENGTH"
    GOPHER_SYMBOLS = "GOPHER_SYMBOLS"
    GOPHER_LETTERS = "GOPHER_LETTERS"
    GOPHER_LINES = "GOPHER_LINES"
    GOPHER_DUPLICATE_LINES = "GOPHER_DUPLICATE_LINES"
    GOPHER_TOP_NGRAMS = "GOPHER_TOP_NGRAMS"
    GOPHER_DUPLICATE_NGRAMS = "GOPHER_DUPLICATE_NGRAMS"
    C4_BOILERPLATE = "C4_BOILERPLATE"
    FINEWEB_LINES = "FINEWEB_LINES"
    FINEWEB_DUPLICATE_LINES = "FINEWEB_DUPLICATE_LINES"
    REPEATED_CHARACTER = "REPEATED_CHARACTER"
    GOPHER_WORD_COUNT = "GOPHER_WORD_COUNT"
    GOPHER_STOP_WORDS = "GOPHER_STOP_WORDS"
    C4_TERMINAL_PUNCTUATION = "C4_TERMINAL_PUNCTUATION"
    C4_SENTENCES = "C4_SENTENCES"
    C4_LINE_WORDS = "C4_LINE_WORDS"
    C4_CURLY_BRACKETS = "C4_CURLY_BRACKETS"
    C4_LOREM_IPSUM = "C4_LOREM_IPSUM"
    C4_BAD_LINES = "C4_BAD_LINES"


def problem_of(text: str, rules: Sequence[QualityRule]) -> str:
    """What the first broken rule has to say, its name first; empty when none is broken."""
    words = text.split()
    lines = [line for line in map(str.strip, text.splitlines()) if line] if "\n" in text else [text]
    for rule in rules:
        if found := _CHECKS[rule](text, words, lines):
            return f"{rule.value}: {found}"
    return ""


def _word_length(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    if len(words) < 5:
        return ""
    mean = sum(map(len, words)) / len(words)
    return "" if 3 <= mean <= 10 else f"its words have {mean:.1f} characters on average, not 3 to 10"


def _symbols(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    if len(words) < 5:
        return ""
    worst = max(text.count("#"), sum(map(text.count, _ELLIPSES)))
    return f"it has {worst} hash signs or ellipses in {len(words)} words" if worst > 0.1 * len(words) else ""


def _letters(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    if len(words) < 5:
        return "" if any(map(str.isalnum, text)) else "it holds no letter and no digit"
    share = 0.8 if len(words) >= _SENTENCES else 0.5
    if sum(map(str.isalpha, words)) >= share * len(words):
        return ""  # Enough words are nothing but letters, which is counted more quickly.
    with_letters = sum(any(map(str.isalpha, word)) for word in words)
    return "" if with_letters >= share * len(words) else f"{with_letters} of its {len(words)} words hold a letter"


def _bullets(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    if len(lines) < 3:
        return ""
    bullets = sum(line.startswith(_BULLETS) for line in lines)
    if bullets > 0.9 * len(lines):
        return f"{bullets} of its {len(lines)} lines begin with a bullet"
    ellipses = sum(line.endswith(_ELLIPSES) for line in lines)
    return f"{ellipses} of its {len(lines)} lines end with an ellipsis" if ellipses > 0.3 * len(lines) else ""


def _duplicate_lines(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    if len(lines) < 3:
        return ""
    rows, characters = _repeated(lines)
    if rows > 0.3 * len(lines):
        return f"{rows} of its {len(lines)} lines come again"
    return "lines that come again are more than 20 % of it" if characters > 0.2 * sum(map(len, lines)) else ""


def _top_ngrams(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    # Where no word comes three times, no run of words does; that spares most texts the counting, and where fewer than
    # two are repetitions, no word does.
    if len(words) < 20 or len(words) - len(set(words)) < _RUNS - 1 or max(Counter(words).values()) < _RUNS:
        return ""
    total = sum(map(len, words))
    for size, published in _TOP_SHARES.items():
        share = published if len(words) >= _SENTENCES else 2 * published
        runs = Counter(zip(*(words[start:] for start in range(size)), strict=False))
        run, count = runs.most_common(1)[0]
        if count >= _RUNS and count * sum(map(len, run)) > share * total:
            return f"{' '.join(run)[:60]!r} comes {count} times, more than {share:.0%} of it"
    return ""


def _duplicate_ngrams(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    if len(words) < 40:
        return ""
    total = sum(map(len, words))
    for size, share in _DUPLICATE_SHARES.items():
        seen: set[tuple[str, ...]] = set()
        repeated = position = 0
        while position <= len(words) - size:
            run = tuple(words[position : position + size])
            if run in seen:
                repeated += sum(map(len, run))
                position += size  # Each word counts once, however many runs hold it.
            else:
                seen.add(run)
                position += 1
        if repeated > share * total:
            return f"runs of {size} words that come again are {repeated / total:.0%} of it"
        if not repeated:
            break  # What has no shorter repetition has no longer one.
    return ""


def _boilerplate(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    # Most texts hold none of these words, which is seen in a hundredth of the time that the pattern takes.
    if text.isascii():
        lowered = text.lower()
        if not any(map(lowered.__contains__, _BOILERPLATE_HINTS)):
            return ""
    found = _BOILERPLATE.search(text)
    return f"it says {found.group()!r}" if found else ""


def _line_ends(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    if len(lines) < 5:
        return ""
    ended = sum(line.endswith(_LINE_ENDS) for line in lines)
    if ended < 0.12 * len(lines):
        return f"{ended} of its {len(lines)} lines end with punctuation"
    short = sum(len(line) < 30 for line in lines)
    return f"{short} of its {len(lines)} lines are shorter than 30 characters" if short > 0.67 * len(lines) else ""


def _fineweb_duplicate_lines(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    if len(lines) < 5 or _repeated(lines)[1] <= 0.1 * sum(map(len, lines)):
        return ""
    return "lines that come again are more than 10 % of it"


def _repeated_character(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    # Below that length a set of characters tells nothing; above it, running text has far more than 8 of them, and soon.
    if len(text) < 20 or len(set(text[:40])) > 8 or len(set(text[:400])) > 8:
        return ""
    character, count = Counter(text).most_common(1)[0]
    return f"{character!r} is more than half of it" if count * 2 > len(text) and not character.isspace() else ""


def _word_count(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    fewest, most = _GOPHER_WORDS
    return "" if fewest <= len(words) <= most else f"it has {len(words)} words, not {fewest} to {most}"


def _stop_words(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    found = _GOPHER_STOP_WORDS.intersection(words_of(text))
    return "" if len(found) >= 2 else f"it has {len(found)} of the words {', '.join(sorted(_GOPHER_STOP_WORDS))}"


def _terminal_punctuation(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    for line in map(str.strip, lines):
        if not line.endswith(_C4_END_MARKS) or line.endswith(_ELLIPSES):
            return f"the line that ends with {line[-30:]!r} ends without a full stop or the like"
    return ""


def _sentences(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    count = len(_SENTENCE_END.findall(text))
    return "" if count >= _C4_SENTENCES else f"it has {count} sentences, not {_C4_SENTENCES}"


def _line_words(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    for line in lines:
        if len(line.split()) < _C4_LINE_WORDS:
            return f"its line {line[:60]!r} has fewer than {_C4_LINE_WORDS} words"
    return ""


def _curly_brackets(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    return "it holds a curly bracket" if "{" in text or "}" in text else ""


def _lorem_ipsum(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    return "it says 'lorem ipsum'" if "lorem ipsum" in text.casefold() else ""


def _bad_lines(text: str, words: Sequence[str], lines: Sequence[str]) -> str:
    found = _C4_BAD_LINE.search(text)
    return f"it says {found.group()!r}" if found else ""


def _repeated(lines: Sequence[str]) -> tuple[int, int]:
    """Lines, and their characters, that came before."""
    seen: set[str] = set()
    rows = characters = 0
    for line in lines:
        if line in seen:
            rows, characters = rows + 1, characters + len(line)
        seen.add(line)
    return rows, characters


_CHECKS: dict[QualityRule, Callable[[str, Sequence[str], Sequence[str]], str]] = {
    QualityRule.GOPHER_WORD_LENGTH: _word_length,
    QualityRule.GOPHER_SYMBOLS: _symbols,
    QualityRule.GOPHER_LETTERS: _letters,
    QualityRule.GOPHER_LINES: _bullets,
    QualityRule.GOPHER_DUPLICATE_LINES: _duplicate_lines,
    QualityRule.GOPHER_TOP_NGRAMS: _top_ngrams,
    QualityRule.GOPHER_DUPLICATE_NGRAMS: _duplicate_ngrams,
    QualityRule.C4_BOILERPLATE: _boilerplate,
    QualityRule.FINEWEB_LINES: _line_ends,
    QualityRule.FINEWEB_DUPLICATE_LINES: _fineweb_duplicate_lines,
    QualityRule.REPEATED_CHARACTER: _repeated_character,
    QualityRule.GOPHER_WORD_COUNT: _word_count,
    QualityRule.GOPHER_STOP_WORDS: _stop_words,
    QualityRule.C4_TERMINAL_PUNCTUATION: _terminal_punctuation,
    QualityRule.C4_SENTENCES: _sentences,
    QualityRule.C4_LINE_WORDS: _line_words,
    QualityRule.C4_CURLY_BRACKETS: _curly_brackets,
    QualityRule.C4_LOREM_IPSUM: _lorem_ipsum,
    QualityRule.C4_BAD_LINES: _bad_lines,
}
