"""Regular expressions as they are compared: text is folded before it is searched, and what they say of it is too."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from mainspring_guards.folding import folded
from mainspring_guards.patterns import PatternRefused

_TOKEN = re.compile(
    r"""
    (?P<quoted> \\Q .*? (?:\\E|\Z) )
    | (?P<property> \\[pP] (?:\{[^}]*\} | .) )
    | (?P<code> \\x\{[0-9a-fA-F]+\} | \\x[0-9a-fA-F]{2} | \\[0-7]{1,3} )
    | (?P<space> \\[tnrvf] )
    | (?P<escape> \\. )
    | (?P<class> \[ \^? \]? (?: \[:[^]]*:\] | \\x\{[0-9a-fA-F]+\} | \\. | [^]\\] )* \] )
    | (?P<group> \(\?P?<[^>]*> )
    | (?P<text> . )
    """,
    re.DOTALL | re.VERBOSE,
)
_BLANK = " "
_REPEATED = re.compile(r"[*+?{]")
_TWICE = re.compile(r"\{0*(?:[2-9]|[1-9][0-9])")


def as_compared(pattern: str) -> str:
    """A pattern whose letters are folded, where RE2 takes the pattern.

    Raises:
        PatternRefused: It asks for several white spaces in a row, which never stand in folded text.
    """
    pattern = unicodedata.normalize("NFC", pattern)
    out: list[str] = []
    end = 0
    for kind, token, end in _tokens(pattern):
        said = _folded(kind, token)
        if said == _BLANK:
            if _TWICE.match(pattern, end) or (out[-1:] == [_BLANK] and _REPEATED.match(pattern, end)):
                message = f"{pattern!r} asks for several white spaces in a row, and folded text has one; write one"
                raise PatternRefused(f"{message}, or make the rule exact")
            if out[-1:] == [_BLANK]:
                continue
        out.append(said)
    return "".join(out)


def _tokens(pattern: str) -> Iterator[tuple[str, str, int]]:
    for found in _TOKEN.finditer(pattern):
        assert found.lastgroup is not None
        yield found.lastgroup, found.group(), found.end()


def _folded(kind: str, token: str) -> str:
    match kind:
        case "space":
            return _BLANK
        case "text":
            # Capital letters are found without regard to case, and the rest of ASCII is syntax or stands for itself.
            return token if token.isascii() and token.isprintable() else _literal(token)
        case "code":
            return _literal(_coded(token))
        case "quoted":
            return _literal(token[2:].removesuffix(r"\E"))
        case "class" if not token.startswith("[^"):
            members = {_coded(each) if each.startswith("\\") else each for each in _MEMBERS.findall(token[1:-1])}
            more = {folded(each) for each in members if folded(each) != each.lower()}
            return token[:-1] + "".join(re.escape(each) for each in sorted(more) if len(each) == 1) + "]"
        case _:
            return token


_MEMBERS = re.compile(r"\[:[^]]*:\]|\\x\{[0-9a-fA-F]+\}|\\x[0-9a-fA-F]{2}|\\[tnrvf]|\\.|.", re.DOTALL)
_SPACES = {r"\t": "\t", r"\n": "\n", r"\r": "\r", r"\v": "\v", r"\f": "\f"}


def _coded(token: str) -> str:
    """The character that an escape means; the escape itself where it means several."""
    if token.startswith("\\x"):
        code = int(token[2:].strip("{}"), 16)
    elif token[1:].isdigit():
        code = int(token[1:], 8)
    else:
        return _SPACES.get(token, token)
    return chr(code)  # RE2 has taken it, so there is one.


def _literal(text: str) -> str:
    """A pattern for what a text is compared as."""
    seen = folded(text)
    escaped = seen if seen == _BLANK else re.escape(seen)
    return f"(?:{escaped})" if len(seen) > 1 else escaped
