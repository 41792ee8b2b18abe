"""Use cases of annotation: items are handed out under leases, labelled, decided on, and become a dataset version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from mainspring_data_ingest.application.ingestions import Ingestions
from mainspring_data_ingest.domain.annotation import (
    Annotation,
    AnnotationItem,
    AnnotationQueue,
    AnnotationReport,
    ItemState,
    Label,
    LabelKind,
    Place,
    Selection,
    Suggestion,
    item_id,
    report_of,
    row_of,
    urgency,
)
from mainspring_data_ingest.domain.ingestions import Ingestion
from mainspring_svckit.clock import Clock
from mainspring_svckit.errors import AlreadyExists, FieldViolation, InvalidInput, NotFound, PreconditionFailed
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import AnnotationItemName, AnnotationQueueName, IngestionRecipeName
from mainspring_svckit.pagination import MAX_PAGE_SIZE, Page
from mainspring_svckit.ports import Artifacts, Transactions
from mainspring_svckit.repository import Listed, Repository, Stored, require

MAX_ITEMS = 100_000
JSON_LINES = "application/jsonl"


@dataclass(frozen=True)
class Counts:
    """How far a queue is; gold questions are not counted."""

    items: int
    labelled: int
    disputed: int


class Items(Repository[AnnotationItem], Protocol):
    """Items and who has them. All methods join the ambient transaction; time is the database's."""

    async def counts(self, queue: str) -> Counts:
        """How far a queue is."""
        ...

    async def held(self, queue: str, annotator: str) -> AnnotationItem | None:
        """The item that somebody has reserved and not labelled."""
        ...

    async def next(self, queue: AnnotationQueue, annotator: str, *, gold: bool) -> AnnotationItem | None:
        """An open item that he has not seen and that still has a place, the most urgent first; no two callers get the
        same last place.
        """
        ...

    async def answered(self, queue: str, annotator: str) -> int:
        """How many items of a queue somebody labelled or skipped."""
        ...

    async def reserve(self, item: AnnotationItem, annotator: str, lease_s: int) -> datetime:
        """Reserves an item; returns until when."""
        ...

    async def place(self, item: AnnotationItem, annotator: str, overlap: int) -> Place:
        """What his reservation is worth now."""
        ...

    async def let_go(self, item: AnnotationItem, annotator: str) -> None:
        """Ends a reservation."""
        ...

    async def list_in(self, queue: str, state: ItemState | None, page: Page) -> Listed[AnnotationItem]:
        """A page of a queue's items, of one state when one is given."""
        ...

    async def set_urgency(self, urgencies: Mapping[str, float]) -> None:
        """Says which items go first; higher does."""
        ...


class Diversity(Protocol):
    """Orders texts so that each is as unlike those before it as can be."""

    async def order(self, texts: Sequence[str]) -> Sequence[int]:
        """Places of the texts, the first to be chosen first."""
        ...


@dataclass(frozen=True)
class AnnotationPorts:
    """Everything these use cases need."""

    transactions: Transactions
    queues: Repository[AnnotationQueue]
    items: Items
    diversity: Diversity
    files: Artifacts
    clock: Clock


class Annotations:
    """Use cases of queues and their items."""

    def __init__(self, ports: AnnotationPorts, ingestions: Ingestions) -> None:
        self._ports, self._ingestions = ports, ingestions

    async def put_queue(
        self, queue: AnnotationQueue, *, etag: str, allow_missing: bool
    ) -> tuple[Stored[AnnotationQueue], Counts]:
        """Writes a queue.

        Raises:
            NotFound: It is missing and `allow_missing` is not set.
            PreconditionFailed: LABELS_EXIST, the schema is another one and something is labelled.
            EtagMismatch: Somebody wrote it since `etag` was read.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            known = await ports.queues.get(queue.name, lock=True)
            if known is None and not allow_missing:
                raise NotFound("AnnotationQueue", queue.name)
            if known is not None and known.value.schema != queue.schema and await self._any_label(queue.name):
                message = f"{queue.name} has labels of its old schema; make another queue"
                raise PreconditionFailed("LABELS_EXIST", message, {"name": queue.name})
            stored = await ports.queues.put(queue, etag=etag)
            if known is not None and known.value.selection is not queue.selection:
                await self._rank(queue)
            return stored, await ports.items.counts(queue.name)

    async def counts(self, queue: str) -> Counts:
        """How far a queue is."""
        async with self._ports.transactions.transaction():
            return await self._ports.items.counts(queue)

    async def add(self, queue_name: str, items: Sequence[AnnotationItem]) -> tuple[int, int]:
        """Adds items; returns how many are new, and how many were there. One that was there is marked as synthetic when
        it comes with that mark now.

        Raises:
            NotFound: There is no such queue.
            InvalidInput: An item is not what the queue's schema can be said of.
        """
        ports, owner, added = self._ports, AnnotationQueueName.parse(queue_name), 0
        async with ports.transactions.transaction():
            queue = (await require(ports.queues, "AnnotationQueue", queue_name, lock=True)).value
            counts = await ports.items.counts(queue_name)
            for number, item in enumerate(items):
                _check_item(item, queue, number)
                name = str(AnnotationItemName(owner.project, owner.queue, item_id(item.messages, item.candidates)))
                known = await ports.items.get(name)
                if known is not None:
                    if item.synthetic and not known.value.synthetic:
                        await ports.items.put(replace(known.value, synthetic=True))
                    continue
                added += 1
                if counts.items + added > MAX_ITEMS:
                    message = f"a queue has at most {MAX_ITEMS} items; make another one"
                    raise PreconditionFailed("QUEUE_FULL", message, {"name": queue_name})
                new = replace(item, name=name, queue=queue_name, number=counts.items + added)
                await ports.items.add(new)
                await ports.items.set_urgency({name: urgency(new, queue.selection)})
            if added and queue.selection is Selection.DIVERSITY:
                await self._rank(queue)
        return added, len(items) - added

    async def suggest(self, queue_name: str, suggestions: Mapping[str, Suggestion]) -> int:
        """Writes what a model would answer, by the items' names; returns for how many. Items that somebody has labelled
        by now, or that are gone, are passed over.

        Raises:
            NotFound: There is no such queue.
            InvalidInput: LABEL_INVALID, or an item is not of this queue.
        """
        ports, ranks = self._ports, dict[str, float]()
        async with ports.transactions.transaction():
            queue = (await require(ports.queues, "AnnotationQueue", queue_name)).value
            for number, (name, suggestion) in enumerate(suggestions.items()):
                _check_suggestion(name, suggestion, queue, number)
            for name in sorted(suggestions):  # In one order, so that two who suggest cannot wait for each other.
                known = await ports.items.get(name, lock=True)
                if known is None or known.value.state is not ItemState.OPEN or known.value.labels:
                    continue
                changed = replace(known.value, suggestion=suggestions[name])
                await ports.items.put(changed)
                ranks[name] = urgency(changed, queue.selection)
            if queue.selection in (Selection.UNCERTAINTY, Selection.DISAGREEMENT):
                await ports.items.set_urgency(ranks)
        return len(ranks)

    async def claim(self, queue_name: str, annotator: str) -> tuple[AnnotationItem, datetime]:
        """Reserves an item for somebody; the one that he has is given again, for a whole lease.

        Raises:
            NotFound: There is no such queue, or no item left for him.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            queue = (await require(ports.queues, "AnnotationQueue", queue_name)).value
            item = await ports.items.held(queue_name, annotator)
            if item is None:
                item = await self._next(queue, annotator)
            if item is None:
                raise NoItemLeft(queue_name)
            return item, await ports.items.reserve(item, annotator, queue.lease_s)

    async def submit(self, name: str, annotator: str, label: Label | None, comment: str) -> Annotation:
        """Records what somebody says of an item; without a label he skips it.

        Raises:
            NotFound: There is no such item.
            InvalidInput: LABEL_INVALID.
            AlreadyExists: He has said it already; nothing is overwritten.
            PreconditionFailed: ITEM_NOT_CLAIMED, or LEASE_ENDED and somebody else took the place.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            item = (await require(ports.items, "AnnotationItem", name, lock=True)).value
            queue = (await require(ports.queues, "AnnotationQueue", item.queue)).value
            if label is not None:
                queue.schema.check(label)
            if item.by(annotator) is not None:
                raise AlreadyExists("Annotation", f"{name} by {annotator}")
            place = await ports.items.place(item, annotator, queue.overlap)
            if place is Place.NEVER:
                raise PreconditionFailed(
                    "ITEM_NOT_CLAIMED", f"claim an item before you label it: {name}", {"name": name}
                )
            if place is Place.TAKEN and label is not None:
                message = f"your time for {name} ended and somebody else labels it; claim another item"
                raise PreconditionFailed("LEASE_ENDED", message, {"name": name})
            said = Annotation(annotator, label, comment, ports.clock.now())
            changed = item.annotated(said, queue)
            await ports.items.put(changed)
            await ports.items.let_go(item, annotator)
            if queue.selection is Selection.DISAGREEMENT:
                await ports.items.set_urgency({name: urgency(changed, queue.selection)})
        return said

    async def adjudicate(self, name: str, label: Label, adjudicator: str) -> AnnotationItem:
        """Decides on a disputed item.

        Raises:
            IllegalTransition: It is not disputed.
            PreconditionFailed: ADJUDICATOR_TOOK_PART.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            item = (await require(ports.items, "AnnotationItem", name, lock=True)).value
            queue = (await require(ports.queues, "AnnotationQueue", item.queue)).value
            queue.schema.check(label)
            return (await ports.items.put(item.adjudicated(label, adjudicator))).value

    async def report(self, queue_name: str) -> AnnotationReport:
        """How well people agree."""
        async with self._ports.transactions.transaction():
            queue = (await require(self._ports.queues, "AnnotationQueue", queue_name)).value
            return report_of(queue, await self._all(queue_name))

    async def publish(self, queue_name: str, recipe: str) -> tuple[Ingestion, int]:
        """Adds what is labelled to a recipe's dataset; returns the ingestion and its rows.

        Raises:
            NotFound: The queue or the recipe is missing.
            PreconditionFailed: NOTHING_LABELLED.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            queue = (await require(ports.queues, "AnnotationQueue", queue_name)).value
            items = await self._all(queue_name, ItemState.LABELLED)
        made = [row_of(item, queue.schema) for item in items]
        rows = [row for row in made if row is not None]
        if not rows:
            message = f"no label of {queue_name} makes a row yet"
            raise PreconditionFailed("NOTHING_LABELLED", message, {"name": queue_name})
        project = IngestionRecipeName.parse(recipe, "ingestion_recipe").project
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")
        filename = f"{AnnotationQueueName.parse(queue_name).queue}-annotations.jsonl"
        file = await ports.files.put_bytes(project, data, media_type=JSON_LINES, filename=filename)
        return await self._ingestions.add_examples(recipe, file, new_id(), ""), len(rows)

    async def _next(self, queue: AnnotationQueue, annotator: str) -> AnnotationItem | None:
        items = self._ports.items
        if queue.gold_every and await items.answered(queue.name, annotator) % queue.gold_every == queue.gold_every - 1:
            gold = await items.next(queue, annotator, gold=True)
            if gold is not None:
                return gold
        return await items.next(queue, annotator, gold=False)

    async def _any_label(self, queue: str) -> bool:
        return any(item.annotations for item in await self._all(queue))

    async def _rank(self, queue: AnnotationQueue) -> None:
        """Orders the open items anew, for the selection that the queue has now."""
        items = await self._all(queue.name, ItemState.OPEN)
        if queue.selection is Selection.DIVERSITY:
            order = await self._ports.diversity.order([item.text for item in items])
            ranks = {items[place].name: float(len(items) - rank) for rank, place in enumerate(order)}
        else:
            ranks = {item.name: urgency(item, queue.selection) for item in items}
        await self._ports.items.set_urgency(ranks)

    async def _all(self, queue: str, state: ItemState | None = None) -> list[AnnotationItem]:
        found, after = list[AnnotationItem](), None
        while True:
            page = await self._ports.items.list_in(queue, state, Page(MAX_PAGE_SIZE, after))
            found += [stored.value for stored in page.items]
            after = page.next_key
            if after is None:
                return found


class NoItemLeft(NotFound):
    """The queue has nothing for this person, now."""

    def __init__(self, queue: str) -> None:
        super().__init__("AnnotationItem", queue)
        self.message = f"{queue} has no item for you now: all are labelled, reserved by others, or you saw them"


def _check_item(item: AnnotationItem, queue: AnnotationQueue, number: int) -> None:
    field = f"annotation_items[{number}]"
    wanted = 2 if queue.schema.kind is LabelKind.PREFERENCE else 0
    if len(item.candidates) != wanted:
        description = f"needs {wanted} candidates, since the queue asks for a {queue.schema.kind.value.lower()}"
        raise InvalidInput(
            f"{field}.candidates {description}", violations=[FieldViolation(f"{field}.candidates", description)]
        )
    if item.gold is not None:
        queue.schema.check(item.gold, f"{field}.gold")
    if item.suggestion is not None:
        queue.schema.check(item.suggestion.label, f"{field}.suggestion.label")


def _check_suggestion(name: str, suggestion: Suggestion, queue: AnnotationQueue, number: int) -> None:
    field, owner = f"item_suggestions[{number}]", AnnotationQueueName.parse(queue.name)
    item = AnnotationItemName.parse(name, f"{field}.annotation_item")
    if (item.project, item.queue) != (owner.project, owner.queue):
        description = f"must be an item of {queue.name}"
        violation = FieldViolation(f"{field}.annotation_item", description)
        raise InvalidInput(f"{field}.annotation_item {description}", violations=[violation])
    queue.schema.check(suggestion.label, f"{field}.suggestion.label")
