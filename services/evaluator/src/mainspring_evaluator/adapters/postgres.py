"""The evaluator's state on Postgres."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import text

from mainspring_evaluator.domain.items import Answer, EvaluationItem
from mainspring_evaluator.domain.runs import EvaluationRun
from mainspring_evaluator.domain.suites import EvaluationSuite
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import EvaluationRunName, EvaluationSuiteName, ProjectName
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Listed

_CHUNK = 500


def suites(database: Database) -> Documents[EvaluationSuite]:
    """Suites, listed by name."""
    return Documents(
        database,
        "evaluation_suite",
        EvaluationSuite,
        parent=lambda s: str(ProjectName(EvaluationSuiteName.parse(s.name).project)),
        sort_key=lambda s: s.name,
    )


def runs(database: Database) -> Documents[EvaluationRun]:
    """Runs, newest first; their ids go by time."""
    return Documents(
        database,
        "evaluation_run",
        EvaluationRun,
        parent=lambda r: str(ProjectName(EvaluationRunName.parse(r.name).project)),
        sort_key=lambda r: r.name,
        newest_first=True,
    )


class PostgresItems:
    """`ItemStore`: read like any other entity, written many at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = Documents(
            database, "evaluation_item", EvaluationItem, parent=lambda i: i.run, sort_key=_sort_key
        )

    async def add_all(self, items: Sequence[EvaluationItem]) -> None:
        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]
            await self._database.connection().execute(
                text(
                    "INSERT INTO evaluation_item (name, parent, sort_key, body)"
                    " SELECT * FROM unnest(cast(:names AS text[]), cast(:parents AS text[]), cast(:keys AS text[]),"
                    " cast(:bodies AS jsonb[]))"
                ),
                {
                    "names": [item.name for item in chunk],
                    "parents": [item.run for item in chunk],
                    "keys": [_sort_key(item) for item in chunk],
                    "bodies": [json.dumps(asdict(item)) for item in chunk],
                },
            )

    async def list(self, parent: str, page: Page) -> Listed[EvaluationItem]:
        return await self._documents.list(parent, page)


class PostgresAnswers:
    """`AnswerCache`. Texts stand as JSON in a text column, which can hold whatever a model generates."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def known(self, project: str, keys: Sequence[str]) -> Mapping[str, Answer]:
        rows = await self._database.connection().execute(
            text(
                "SELECT key, answer, latency_s FROM generated_answer"
                " WHERE project = :project AND key = ANY(cast(:keys AS text[]))"
            ),
            {"project": project, "keys": list(keys)},
        )
        return {row.key: Answer(json.loads(row.answer), row.latency_s) for row in rows.all()}

    async def put(self, project: str, key: str, answer: Answer) -> None:
        await self._database.connection().execute(
            text(
                "INSERT INTO generated_answer (project, key, answer, latency_s)"
                " VALUES (:project, :key, :answer, :latency_s) ON CONFLICT DO NOTHING"
            ),
            {"project": project, "key": key, "answer": json.dumps(answer.text), "latency_s": answer.latency_s},
        )


def _sort_key(item: EvaluationItem) -> str:
    return f"{item.index:09}"
