"""Annotation on Postgres, and the order of diverse texts."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from mainspring_data_ingest.application.annotations import Counts
from mainspring_data_ingest.domain.annotation import AnnotationItem, AnnotationQueue, ItemState, Place
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import project_name_of
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Listed

FEATURES = 256
CENTRES = 1000
_WORD = re.compile(r"\w+")
_LABELS = "jsonb_array_length(jsonb_path_query_array(i.body, '$.annotations[*] ? (@.label != null)'))"
_OTHERS = (
    "(SELECT count(*) FROM annotation_lease l WHERE l.item = i.name AND l.annotator <> :annotator"
    " AND l.expire_time > now())"
)


def queues(database: Database) -> Documents[AnnotationQueue]:
    """Queues of a project, listed by name."""
    return Documents(
        database,
        "annotation_queue",
        AnnotationQueue,
        parent=lambda q: project_name_of(q.name),
        sort_key=lambda q: q.name,
    )


class PostgresItems(Documents[AnnotationItem]):
    """`Items` of a queue, in the order in which they were added."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database,
            "annotation_item",
            AnnotationItem,
            parent=lambda i: i.queue,
            sort_key=lambda i: f"{i.number:012}-{i.name}",
        )

    async def counts(self, queue: str) -> Counts:
        rows = await self._execute(
            "SELECT body ->> 'state' AS state, count(*) AS items FROM annotation_item"
            " WHERE parent = :queue AND body -> 'gold' = 'null' GROUP BY 1",
            queue=queue,
        )
        by = {row.state: row.items for row in rows.all()}
        labelled, disputed = by.get(ItemState.LABELLED.value, 0), by.get(ItemState.DISPUTED.value, 0)
        return Counts(sum(by.values()), labelled, disputed)

    async def held(self, queue: str, annotator: str) -> AnnotationItem | None:
        return self._one(
            await self._execute(
                "SELECT i.* FROM annotation_lease l JOIN annotation_item i ON i.name = l.item WHERE l.queue = :queue"
                " AND l.annotator = :annotator AND l.expire_time > now() AND i.body ->> 'state' = 'OPEN'"
                " ORDER BY l.expire_time LIMIT 1",
                queue=queue,
                annotator=annotator,
            )
        )

    async def next(self, queue: AnnotationQueue, annotator: str, *, gold: bool) -> AnnotationItem | None:
        # Claims of a queue go one after another: a query that began before another claim was committed would not see
        # that one's reservation. Not by the queue's own lock, which whoever adds items holds for long.
        await self._execute("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))", lock=f"claims {queue.name}")
        return self._one(
            await self._execute(
                "SELECT i.* FROM annotation_item i WHERE i.parent = :queue AND i.body ->> 'state' = 'OPEN'"
                " AND (i.body -> 'gold' <> 'null') = :gold AND NOT i.body -> 'annotations' @> cast(:mine AS jsonb)"
                f" AND (:gold OR {_LABELS} + {_OTHERS} < :overlap)"
                " ORDER BY i.urgency DESC, i.sort_key LIMIT 1 FOR UPDATE OF i",
                queue=queue.name,
                gold=gold,
                annotator=annotator,
                mine=_said_by(annotator),
                overlap=queue.overlap,
            )
        )

    async def answered(self, queue: str, annotator: str) -> int:
        rows = await self._execute(
            "SELECT count(*) AS items FROM annotation_item WHERE parent = :queue"
            " AND body -> 'annotations' @> cast(:mine AS jsonb)",
            queue=queue,
            mine=_said_by(annotator),
        )
        return int(rows.one().items)

    async def reserve(self, item: AnnotationItem, annotator: str, lease_s: int) -> datetime:
        rows = await self._execute(
            "INSERT INTO annotation_lease (item, queue, annotator, expire_time)"
            " VALUES (:item, :queue, :annotator, now() + make_interval(secs => :lease_s))"
            " ON CONFLICT (item, annotator) DO UPDATE SET expire_time = excluded.expire_time RETURNING expire_time",
            item=item.name,
            queue=item.queue,
            annotator=annotator,
            lease_s=float(lease_s),
        )
        expire_time: datetime = rows.one().expire_time
        return expire_time

    async def place(self, item: AnnotationItem, annotator: str, overlap: int) -> Place:
        row = (
            await self._execute(
                f"SELECT l.expire_time > now() AS live, {_OTHERS} AS others FROM annotation_item i"
                " LEFT JOIN annotation_lease l ON l.item = i.name AND l.annotator = :annotator WHERE i.name = :item",
                item=item.name,
                annotator=annotator,
            )
        ).one()
        if row.live is None:
            return Place.NEVER
        if row.live or item.gold is not None:
            return Place.HELD
        free = item.state is ItemState.OPEN and len(item.labels) + row.others < overlap
        return Place.FREE if free else Place.TAKEN

    async def let_go(self, item: AnnotationItem, annotator: str) -> None:
        await self._execute(
            "DELETE FROM annotation_lease WHERE item = :item AND annotator = :annotator",
            item=item.name,
            annotator=annotator,
        )

    async def list_in(self, queue: str, state: ItemState | None, page: Page) -> Listed[AnnotationItem]:
        where = " AND body ->> 'state' = :state" if state is not None else ""
        where += " AND sort_key > :after" if page.after is not None else ""
        rows = (
            await self._execute(
                f"SELECT * FROM annotation_item WHERE parent = :queue{where} ORDER BY sort_key LIMIT :limit",
                queue=queue,
                limit=page.size + 1,
                **({"state": state.value} if state is not None else {}),
                **({"after": page.after} if page.after is not None else {}),
            )
        ).all()
        shown = rows[: page.size]
        return Listed([self._stored(row) for row in shown], shown[-1].sort_key if len(rows) > page.size else None)

    async def set_urgency(self, urgencies: Mapping[str, float]) -> None:
        await self._execute(
            "UPDATE annotation_item AS i SET urgency = new.urgency FROM"
            " unnest(cast(:names AS text[]), cast(:urgencies AS double precision[])) AS new (name, urgency)"
            " WHERE i.name = new.name",
            names=list(urgencies),
            urgencies=list(urgencies.values()),
        )

    def _one(self, rows: Any) -> AnnotationItem | None:
        row = rows.one_or_none()
        return None if row is None else self._stored(row).value


class HashedDiversity:
    """`Diversity` by k-centre greedy (Sener and Savarese 2018) on hashed, normalised word counts.

    The first `CENTRES` places are chosen so; the rest keep their order, since nobody labels so many before more come.
    """

    async def order(self, texts: Sequence[str]) -> Sequence[int]:
        return await asyncio.to_thread(_k_centre, texts)


def _k_centre(texts: Sequence[str]) -> list[int]:
    if not texts:
        return []
    features = np.zeros((len(texts), FEATURES), dtype=np.float32)
    for place, one in enumerate(texts):
        for word in _WORD.findall(one.lower()):
            features[place, zlib.crc32(word.encode("utf-8", "surrogatepass")) % FEATURES] += 1
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    # The most typical text goes first; then always the one that is farthest from all that were chosen.
    chosen = [int(np.argmax(features @ features.mean(axis=0)))]
    farthest = 1 - features @ features[chosen[0]]
    farthest[chosen[0]] = -1
    while len(chosen) < min(len(texts), CENTRES):
        place = int(np.argmax(farthest))
        chosen.append(place)
        farthest = np.minimum(farthest, 1 - features @ features[place])
        farthest[place] = -1
    taken = set(chosen)
    return [*chosen, *(place for place in range(len(texts)) if place not in taken)]


def _said_by(annotator: str) -> str:
    return json.dumps([{"annotator": annotator}])
