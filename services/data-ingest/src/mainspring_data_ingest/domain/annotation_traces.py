"""What of a person, a row or a document an annotation item holds."""

from __future__ import annotations

from collections.abc import Iterator

from mainspring_data_ingest.domain.annotation import AnnotationItem, AnnotationQueue, row_of
from mainspring_data_ingest.domain.conversations import Message
from mainspring_data_ingest.domain.rows import Example, Row
from mainspring_svckit.values import folded


def holds_text(item: AnnotationItem, looked_for: str) -> bool:
    """Whether a text, folded already, is in what is asked or in what anybody said of it."""
    return any(looked_for in folded(text) for text in _texts(item))


def holds_row(item: AnnotationItem, queue: AnnotationQueue, row_ids: frozenset[str]) -> bool:
    """Whether it was made of one of these rows, or makes one of them."""
    return item.origin.rpartition("#")[2] in row_ids or any(row_id in row_ids for row_id in _row_ids(item, queue))


def _texts(item: AnnotationItem) -> Iterator[str]:
    yield item.text
    yield item.origin
    labels = [item.label, item.gold, *(one.label for one in item.annotations)]
    if item.suggestion is not None:
        labels.append(item.suggestion.label)
    yield from (label.value for label in labels if label is not None)
    yield from (one.comment for one in item.annotations)


def _row_ids(item: AnnotationItem, queue: AnnotationQueue) -> Iterator[str]:
    asked = tuple(Message(role, content) for role, content in item.messages)
    yield Row.of(Example(asked, ""), 0, 0).row_id
    made = row_of(item, queue.schema)
    if made is not None:
        messages = tuple(Message(turn["role"], turn["content"]) for turn in made["messages"])
        yield Row.of(Example(messages, "", made.get("rejected"), made.get("desirable")), 0, 0).row_id
