"""HTML to text, by lxml."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

from lxml import html as lxml_html
from lxml.etree import LxmlError  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType] - C code.

from mainspring_data_ingest.adapters.steps.base import BaseStep
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import MarkupToText

_INLINE = "a|abbr|b|cite|code|del|em|font|i|img|ins|kbd|label|mark|q|s|small|span|strike|strong|sub|sup|tt|u|var"
_CELLS = "td|th"
_BLOCKS = (
    "address|article|aside|blockquote|body|br|button|center|dd|details|div|dl|dt|figcaption|figure|footer|form|h1|h2|h3"
    "|h4|h5|h6|header|hr|html|input|li|main|nav|ol|option|p|pre|section|summary|table|tbody|textarea|tfoot|thead|title"
    "|tr|ul|video"
)
_UNSEEN = "head|iframe|noscript|object|script|select|style|svg|template"
_HIDDEN, _BREAKING = frozenset(_UNSEEN.split("|")), frozenset(_BLOCKS.split("|"))
# Only tags that HTML knows: `List<T>`, `a < b` and `<EMAIL_ADDRESS>` are no markup.
_TAG = re.compile(rf"</?(?:{_INLINE}|{_CELLS}|{_BLOCKS}|{_UNSEEN})(?:\s[^<>]*)?/?>|<!--|<!doctype\s", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:[a-zA-Z][a-zA-Z0-9]{1,30}|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});")
_SPACE = re.compile(r"[ \t\xa0]*\n\s*")


class MarkupStep(BaseStep):
    """Turns markup into text."""

    name = "markup_to_text"

    def __init__(self, step: MarkupToText) -> None:
        super().__init__()
        self._part = step.part

    def apply(self, draft: Draft) -> Draft:
        """See `Step`."""
        return draft.changed(self._part, text_of_markup)


def text_of_markup(text: str) -> str:
    """The text that a reader would see; text without markup stays as it is."""
    if "<" in text and _TAG.search(text):
        return _SPACE.sub("\n", "".join(_visible(text)).replace("\xa0", " ")).strip()
    if "&" in text and _ENTITY.search(text):
        return html.unescape(text).replace("\xa0", " ")
    return text


def _visible(text: str) -> Iterator[str]:
    """The text that a reader would see, with line ends between blocks."""
    parse: Any = lxml_html.fragment_fromstring
    try:
        root: Any = parse(text, create_parent="div")
    except (LxmlError, ValueError, AssertionError):
        # What the parser cannot read at all loses its known tags at least.
        yield html.unescape(_TAG.sub("\n", text))
        return
    # By hand instead of by recursion: input decides how deep it is.
    waiting: list[Any] = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            yield node
            continue
        tag = node.tag if isinstance(node.tag, str) else ""
        if node.tail and node is not root:
            waiting.append(node.tail)
        if not tag or tag in _HIDDEN:
            continue
        breaking = tag in _BREAKING and node is not root
        # The last that is put there comes out first.
        if breaking:
            waiting.append("\n")
        waiting.extend(reversed(node))
        if node.text:
            waiting.append(node.text)
        if tag == "li":
            waiting.append("- ")
        if breaking:
            waiting.append("\n")
