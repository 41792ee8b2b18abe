"""Annotation: what people are asked, what they say, and what follows from it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from mainspring_data_ingest.domain.columns import SYNTHETIC_COLUMN
from mainspring_svckit.errors import FieldViolation, InvalidInput, PreconditionFailed
from mainspring_svckit.states import StateMachine

DEFAULT_LEASE_S = 900
DEFAULT_MAX_CHARACTERS = 10_000


class LabelKind(StrEnum):
    """What annotators answer."""

    CHOICE = "CHOICE"
    RATING = "RATING"
    TEXT = "TEXT"
    PREFERENCE = "PREFERENCE"


class Preferred(StrEnum):
    """Which of two answers is better."""

    FIRST = "FIRST"
    SECOND = "SECOND"
    TIE = "TIE"


class Selection(StrEnum):
    """Which item is handed out next."""

    ORDER = "ORDER"
    UNCERTAINTY = "UNCERTAINTY"
    DIVERSITY = "DIVERSITY"
    DISAGREEMENT = "DISAGREEMENT"


class ItemState(StrEnum):
    """Where an item stands."""

    OPEN = "OPEN"
    LABELLED = "LABELLED"
    DISPUTED = "DISPUTED"


ITEM_STATES = StateMachine(
    {
        ItemState.OPEN: {ItemState.LABELLED, ItemState.DISPUTED},
        ItemState.LABELLED: set(),
        ItemState.DISPUTED: {ItemState.LABELLED},
    }
)


class Place(StrEnum):
    """What somebody's reservation of an item is worth: `HELD` while it lasts, `FREE` when it ended and nobody took the
    place, `TAKEN` when somebody did, `NEVER` when there was none.
    """

    HELD = "HELD"
    FREE = "FREE"
    TAKEN = "TAKEN"
    NEVER = "NEVER"


@dataclass(frozen=True)
class Label:
    """What somebody says; only what belongs to the queue's kind is set."""

    choices: tuple[str, ...] = ()
    rating: int | None = None
    text: str = ""
    preferred: Preferred | None = None

    @property
    def value(self) -> str:
        """The label as one word, for counting and comparing; choices in any order are the same."""
        if self.preferred is not None:
            return self.preferred.value
        if self.rating is not None:
            return str(self.rating)
        return ", ".join(sorted(self.choices)) or self.text


@dataclass(frozen=True)
class LabelSchema:
    """What labels of a queue look like."""

    kind: LabelKind
    choices: tuple[str, ...] = ()
    several: bool = False
    worst: int = 0
    best: int = 0
    max_characters: int = DEFAULT_MAX_CHARACTERS

    def check(self, label: Label, field: str = "label") -> None:
        """Raises InvalidInput (LABEL_INVALID) for a label that is not of this schema."""
        description = self._broken(label)
        if description:
            violation = FieldViolation(field, description)
            raise InvalidInput(f"{field}: {description}", reason="LABEL_INVALID", violations=[violation])

    def _broken(self, label: Label) -> str:
        given = {
            LabelKind.CHOICE: bool(label.choices),
            LabelKind.RATING: label.rating is not None,
            LabelKind.TEXT: bool(label.text.strip()),
            LabelKind.PREFERENCE: label.preferred is not None,
        }
        if [kind for kind, there in given.items() if there] != [self.kind]:
            return f"this queue wants a {self.kind.value.lower()}, and nothing else"
        if unknown := sorted(set(label.choices) - set(self.choices)):
            return f"{', '.join(unknown)}: choose of {', '.join(self.choices)}"
        if len(label.choices) > 1 and not self.several:
            return "choose one"
        if label.rating is not None and not self.worst <= label.rating <= self.best:
            return f"must be from {self.worst} to {self.best}"
        if len(label.text) > self.max_characters:
            return f"is longer than {self.max_characters} characters"
        return ""


@dataclass(frozen=True)
class AnnotationQueue:
    """Work for people."""

    name: str
    schema: LabelSchema
    guidelines: str = ""
    overlap: int = 1
    lease_s: int = DEFAULT_LEASE_S
    gold_every: int = 0
    selection: Selection = Selection.ORDER


@dataclass(frozen=True)
class Suggestion:
    """What a model would answer, and how sure it is, from 0 to 1."""

    label: Label
    confidence: float
    source: str = ""


@dataclass(frozen=True)
class Annotation:
    """One person's word; without a label he skipped the item."""

    annotator: str
    label: Label | None
    comment: str
    create_time: datetime


@dataclass(frozen=True)
class AnnotationItem:
    """One thing to be labelled.

    Attributes:
        messages: Pairs of role and content.
        candidates: Two answers, for a preference; else empty.
        number: Place in the order in which items were added, from 1.
        annotations: What was said, in the order in which it was; no two by one person.
        synthetic: Whether a model made what is labelled; its row is marked then, whoever labels it.
    """

    name: str
    queue: str
    messages: tuple[tuple[str, str], ...]
    candidates: tuple[str, ...] = ()
    suggestion: Suggestion | None = None
    gold: Label | None = None
    origin: str = ""
    number: int = 0
    state: ItemState = ItemState.OPEN
    annotations: tuple[Annotation, ...] = ()
    label: Label | None = None
    adjudicator: str = ""
    synthetic: bool = False

    @property
    def labels(self) -> tuple[Label, ...]:
        """What was said, skips left out."""
        return tuple(one.label for one in self.annotations if one.label is not None)

    @property
    def text(self) -> str:
        """Everything that an annotator reads."""
        return "\n".join([*(content for _, content in self.messages), *self.candidates])

    def by(self, annotator: str) -> Annotation | None:
        """What a person said of it."""
        return next((one for one in self.annotations if one.annotator == annotator), None)

    def annotated(self, annotation: Annotation, queue: AnnotationQueue) -> AnnotationItem:
        """With one more word; final, or disputed, when it has as many labels as the queue wants.

        Gold questions stay open, since everybody is asked them.
        """
        item = replace(self, annotations=(*self.annotations, annotation))
        if item.gold is not None or self.state is not ItemState.OPEN or len(item.labels) < queue.overlap:
            return item
        agreed = len({label.value for label in item.labels}) == 1
        target = ItemState.LABELLED if agreed else ItemState.DISPUTED
        ITEM_STATES.check(self.name, self.state, target)
        return replace(item, state=target, label=item.labels[0] if agreed else None)

    def adjudicated(self, label: Label, adjudicator: str) -> AnnotationItem:
        """With the final word of somebody who has not labelled it."""
        if self.state is not ItemState.DISPUTED:
            ITEM_STATES.check(self.name, self.state, ItemState.DISPUTED)
        if self.by(adjudicator) is not None:
            message = "you labelled this item yourself; somebody else must decide"
            raise PreconditionFailed("ADJUDICATOR_TOOK_PART", message, {"name": self.name})
        return replace(self, state=ItemState.LABELLED, label=label, adjudicator=adjudicator)


def item_id(messages: Sequence[tuple[str, str]], candidates: Sequence[str]) -> str:
    """The id of an item is its content's digest, so that nothing is asked twice."""
    content = json.dumps([[list(pair) for pair in messages], list(candidates)], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def urgency(item: AnnotationItem, selection: Selection) -> float:
    """What orders items for a selection that looks at single items; higher goes first."""
    match selection:
        case Selection.UNCERTAINTY:
            return 1 - item.suggestion.confidence if item.suggestion is not None else 1.0
        case Selection.DISAGREEMENT:
            said = {label.value for label in item.labels}
            suggested = {item.suggestion.label.value} if item.suggestion is not None else set[str]()
            return float(max(len(said), len(said | suggested) if said else 0))
        case _:
            return 0.0


def row_of(item: AnnotationItem, schema: LabelSchema) -> Mapping[str, Any] | None:
    """The row that a labelled item makes; None for a tie, a rating in the middle, or no final label.

    A choice or a text is the answer to the prompt; a rating is a thumb on the answer that is there; a preference is a
    pair of a better and a worse answer.
    """
    row = _labelled_row(item, schema)
    return {**row, SYNTHETIC_COLUMN: True} if row is not None and item.synthetic else row


def _labelled_row(item: AnnotationItem, schema: LabelSchema) -> Mapping[str, Any] | None:
    label = item.label
    if label is None:
        return None
    prompt = list(item.messages[:-1] if item.messages[-1][0] == "assistant" else item.messages)
    messages = [{"role": role, "content": content} for role, content in prompt]
    match schema.kind:
        case LabelKind.PREFERENCE:
            if label.preferred in (None, Preferred.TIE) or len(item.candidates) != 2:
                return None
            better, worse = item.candidates if label.preferred is Preferred.FIRST else item.candidates[::-1]
            return {"messages": [*messages, {"role": "assistant", "content": better}], "rejected": worse}
        case LabelKind.RATING:
            middle = (schema.worst + schema.best) / 2
            if label.rating is None or label.rating == middle or len(prompt) == len(item.messages):
                return None
            answer = {"role": "assistant", "content": item.messages[-1][1]}
            return {"messages": [*messages, answer], "desirable": label.rating > middle}
        case _:
            return {"messages": [*messages, {"role": "assistant", "content": label.value}]}


@dataclass(frozen=True)
class AnnotatorReport:
    """One person's part."""

    annotator: str
    labelled: int = 0
    skipped: int = 0
    gold_answered: int = 0
    gold_right: int = 0


@dataclass(frozen=True)
class AnnotationReport:
    """How far a queue is, and how well people agree."""

    queue: str
    alpha: float | None
    alpha_items: int
    labels: Mapping[str, int]
    annotators: tuple[AnnotatorReport, ...]


def report_of(queue: AnnotationQueue, items: Sequence[AnnotationItem]) -> AnnotationReport:
    """Counts, and Krippendorff's alpha over items with at least two labels."""
    people: dict[str, AnnotatorReport] = {}
    labels: Counter[str] = Counter()
    units: list[list[str]] = []
    for item in items:
        for one in item.annotations:
            known = people.get(one.annotator, AnnotatorReport(one.annotator))
            right = item.gold is not None and one.label is not None and one.label.value == item.gold.value
            people[one.annotator] = replace(
                known,
                labelled=known.labelled + (one.label is not None),
                skipped=known.skipped + (one.label is None),
                gold_answered=known.gold_answered + (item.gold is not None and one.label is not None),
                gold_right=known.gold_right + right,
            )
        if item.label is not None and queue.schema.kind is not LabelKind.TEXT:
            labels[item.label.value] += 1
        if len(item.labels) >= 2:
            units.append([label.value for label in item.labels])
    alpha = None
    if queue.schema.kind is not LabelKind.TEXT:
        alpha = krippendorff_alpha(units, interval=queue.schema.kind is LabelKind.RATING)
    return AnnotationReport(
        queue.name, alpha, len(units), dict(sorted(labels.items())), tuple(people[name] for name in sorted(people))
    )


def krippendorff_alpha(units: Sequence[Sequence[str]], *, interval: bool = False) -> float | None:
    """Krippendorff's alpha (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

    The library of that name is under the GPL, which this project's licence does not allow to be linked with.

    Args:
        units: The labels of each item, in any order; items with fewer than two count for nothing.
        interval: Whether labels are numbers whose squared distance counts; else any two different ones differ by 1.

    Returns:
        1 for perfect agreement, 0 for what chance gives; None when there is nothing to compare, or only one label.
    """
    pairable = [unit for unit in units if len(unit) >= 2]
    totals = Counter(value for unit in pairable for value in unit)
    count = sum(totals.values())
    if len(totals) < 2:
        return None

    def distance(one: str, other: str) -> float:
        return (float(one) - float(other)) ** 2 if interval else float(one != other)

    observed = 0.0
    for unit in pairable:
        values = Counter(unit)
        pairs = sum(n * m * distance(a, b) for a, n in values.items() for b, m in values.items())
        observed += pairs / (len(unit) - 1)
    expected = sum(n * m * distance(a, b) for a, n in totals.items() for b, m in totals.items()) / (count - 1)
    return 1 - observed / expected
