"""The lineage graph on Postgres: one row for each edge, walked by one recursive query."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from mainspring_registry.domain.lineage import NEVER_DOWNSTREAM, SHOWN_ONLY, Direction, Edge, Node, Relation, Walk
from mainspring_svckit.database import Database
from mainspring_svckit.names import project_of

_ADD = text(
    "INSERT INTO lineage_edge (project, source, target, relation)"
    " SELECT :project, e.source, e.target, e.relation"
    " FROM unnest(cast(:sources AS text[]), cast(:targets AS text[]), cast(:relations AS text[]))"
    " AS e (source, target, relation) ON CONFLICT DO NOTHING"
)
# The walk goes level by level, since a recursive query gives its rows in that order; the LIMIT ends it when there are
# too many. A node may be reached on several ways, and is gone on from when one of them may go on.
_WALK = """
    WITH RECURSIVE walk (name, hops, goes_on) AS (
        SELECT unnest(cast(:names AS text[])) COLLATE "C", 0, true
        UNION
        SELECT e.{there}, w.hops + 1, e.relation <> ALL(cast(:shown_only AS text[]))
        FROM walk w JOIN lineage_edge e ON e.project = :project AND e.{here} = w.name
        WHERE w.goes_on AND w.hops < :max_hops AND e.relation <> ALL(cast(:never AS text[]))
    )
    SELECT name, min(hops) AS hops, count(*) AS times FROM (SELECT name, hops FROM walk LIMIT :max_rows) AS found
    GROUP BY name ORDER BY 2, 1
"""
_UPSTREAM = text(_WALK.format(here="target", there="source"))
_DOWNSTREAM = text(_WALK.format(here="source", there="target"))
_BETWEEN = text(
    "SELECT source, target, relation FROM lineage_edge WHERE project = :project"
    " AND source = ANY(cast(:names AS text[])) AND target = ANY(cast(:names AS text[]))"
    " ORDER BY target, source, relation"
)
_KNOWS = text(
    "SELECT EXISTS (SELECT FROM lineage_edge WHERE project = :project AND source = :name)"
    " OR EXISTS (SELECT FROM lineage_edge WHERE project = :project AND target = :name)"
)
_ROWS_PER_NODE = 4


class PostgresLineage:
    """`LineageGraph` on Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, edges: Sequence[Edge]) -> None:
        if not edges:
            return
        project = project_of(edges[0].target)
        values = {
            "project": project,
            "sources": [edge.source for edge in edges],
            "targets": [edge.target for edge in edges],
            "relations": [edge.relation.value for edge in edges],
        }
        await self._database.connection().execute(_ADD, values)

    async def walk(self, names: Sequence[str], direction: Direction, *, max_hops: int, max_nodes: int) -> Walk:
        upstream = direction is Direction.UPSTREAM
        connection, project = self._database.connection(), project_of(names[0])
        max_rows = _ROWS_PER_NODE * max_nodes
        values = {
            "project": project,
            "names": list(names),
            # One more, to see whether there is more.
            "max_hops": max_hops + 1,
            "max_rows": max_rows,
            "shown_only": [relation.value for relation in SHOWN_ONLY],
            "never": [] if upstream else [relation.value for relation in NEVER_DOWNSTREAM],
        }
        rows = (await connection.execute(_UPSTREAM if upstream else _DOWNSTREAM, values)).all()
        nodes = tuple(Node(row.name, row.hops) for row in rows if row.hops <= max_hops)[:max_nodes]
        edges = await connection.execute(_BETWEEN, {"project": project, "names": [node.name for node in nodes]})
        return Walk(
            nodes,
            tuple(Edge(row.source, row.target, Relation(row.relation)) for row in edges.all()),
            truncated=len(nodes) < len(rows) or sum(row.times for row in rows) >= max_rows,
        )

    async def knows(self, name: str) -> bool:
        found = await self._database.connection().execute(_KNOWS, {"project": project_of(name), "name": name})
        return bool(found.scalar_one())
