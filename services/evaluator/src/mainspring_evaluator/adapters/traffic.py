"""Sampled answers to real people with what these thought of them, and reports of drift."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import text

from mainspring_evaluator.application.ports import JudgedAnswer
from mainspring_evaluator.domain.drift import Asked, DriftMonitor, DriftReport
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import project_name_of, project_of
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Listed
from mainspring_svckit.values import Message

_KEPT = 5_000
"""Most answers of one version that are kept."""


class PostgresTraffic:
    """`Traffic`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, asked: Asked) -> None:
        connection = self._database.connection()
        await connection.execute(
            text(
                "INSERT INTO traffic_answer"
                " (name, project, model, model_version, messages, answer, latency_s, output_tokens)"
                " VALUES (:name, :project, :model, :model_version, :messages, :answer, :latency_s, :output_tokens)"
                " ON CONFLICT DO NOTHING"
            ),
            {
                "name": asked.name,
                "project": project_of(asked.name),
                "model": asked.model,
                "model_version": asked.model_version,
                "messages": json.dumps(asked.messages),
                "answer": json.dumps(asked.text),
                "latency_s": asked.latency_s,
                "output_tokens": asked.output_tokens,
            },
        )
        await connection.execute(
            text(
                "DELETE FROM traffic_answer WHERE model_version = :version AND name < (SELECT name FROM traffic_answer"
                " WHERE model_version = :version ORDER BY name DESC OFFSET :kept LIMIT 1)"
            ),
            {"version": asked.model_version, "kept": _KEPT - 1},
        )

    async def judge(self, answer: str, good: bool) -> None:
        await self._database.connection().execute(
            text("UPDATE traffic_answer SET good = :good WHERE name = :name"), {"name": answer, "good": good}
        )

    async def newest(self, model_version: str, after: str, limit: int) -> Sequence[Asked]:
        rows = await self._database.connection().execute(
            text(
                "SELECT * FROM traffic_answer WHERE model_version = :version AND name > :after"
                " ORDER BY name DESC LIMIT :limit"
            ),
            {"version": model_version, "after": after, "limit": limit},
        )
        return [
            Asked(
                row.name,
                row.model,
                row.model_version,
                tuple((role, content) for role, content in json.loads(row.messages)),
                json.loads(row.answer),
                row.latency_s,
                row.output_tokens,
                row.good,
            )
            for row in rows.all()
        ]

    async def judged(self, model: str, limit: int) -> Sequence[JudgedAnswer]:
        rows = await self._database.connection().execute(
            text(
                "SELECT messages, answer, good FROM traffic_answer WHERE model = :model AND good IS NOT NULL"
                " ORDER BY name DESC LIMIT :limit"
            ),
            {"model": model, "limit": limit},
        )
        return [
            JudgedAnswer(
                tuple(Message(role, content) for role, content in json.loads(row.messages)),
                json.loads(row.answer),
                row.good,
            )
            for row in rows.all()
        ]


def monitors(database: Database) -> Documents[DriftMonitor]:
    """Monitors, listed by name."""
    return Documents(
        database, "drift_monitor", DriftMonitor, parent=lambda m: project_name_of(m.name), sort_key=lambda m: m.name
    )


class PostgresReports:
    """`DriftReports`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = Documents(
            database,
            "drift_report",
            DriftReport,
            parent=lambda r: r.monitor,
            sort_key=lambda r: f"{r.number:09}",
            newest_first=True,
        )

    async def add(self, report: DriftReport) -> None:
        await self._documents.add(report)

    async def count(self, monitor: str) -> int:
        statement = text("SELECT count(*) FROM drift_report WHERE parent = :monitor")
        return int(await self._database.connection().scalar(statement, {"monitor": monitor}) or 0)

    async def reference(self, monitor: str, model_version: str) -> DriftReport | None:
        name = await self._database.connection().scalar(
            text(
                "SELECT name FROM drift_report WHERE parent = :monitor AND body ->> 'model_version' = :version"
                " AND (body ->> 'reference')::boolean ORDER BY sort_key LIMIT 1"
            ),
            {"monitor": monitor, "version": model_version},
        )
        stored = await self._documents.get(name) if name else None
        return stored.value if stored is not None else None

    async def list(self, parent: str, page: Page) -> Listed[DriftReport]:
        return await self._documents.list(parent, page)
