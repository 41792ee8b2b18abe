"""The evaluator's state on Postgres."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import text

from mainspring_evaluator.application.ports import EVERYTHING, ItemPairs
from mainspring_evaluator.domain.items import Answer, EvaluationItem, ItemFilter, Outcome
from mainspring_evaluator.domain.runs import EvaluationRun
from mainspring_evaluator.domain.suites import EvaluationSuite, SuiteVersion
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import EvaluationRunName, EvaluationSuiteName, ProjectName
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Listed, Stored

_CHUNK = 500
_ITEM = TypeAdapter(EvaluationItem)


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


def suite_versions(database: Database) -> Documents[SuiteVersion]:
    """Versions of suites, newest first."""
    return Documents(
        database,
        "evaluation_suite_version",
        SuiteVersion,
        parent=lambda v: v.suite.name,
        sort_key=lambda v: f"{v.suite.version:09}",
        newest_first=True,
    )


class PostgresItems:
    """`ItemStore`: read like any other entity, written many at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

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

    async def list(self, parent: str, page: Page, wanted: ItemFilter = EVERYTHING) -> Listed[EvaluationItem]:
        conditions, values = _conditions(wanted)
        rows = await self._database.connection().execute(
            text(
                "SELECT body, revision, update_time, sort_key FROM evaluation_item WHERE parent = :parent"  # noqa: S608 - conditions are constants.
                f" AND sort_key > :after{conditions} ORDER BY sort_key LIMIT :limit"
            ),
            {"parent": parent, "after": page.after or "", "limit": page.size + 1, **values},
        )
        found = rows.all()
        shown = found[: page.size]
        items = [Stored(_ITEM.validate_python(row.body), str(row.revision), row.update_time) for row in shown]
        return Listed(items, shown[-1].sort_key if len(found) > page.size else None)

    async def scores(self, parent: str) -> Mapping[str, Mapping[str, float]]:
        rows = await self._database.connection().execute(
            text(
                "SELECT body ->> 'prompt_sha256' AS asked, body -> 'candidate_scores' AS scores FROM evaluation_item"
                " WHERE parent = :parent AND body ->> 'prompt_sha256' <> '' ORDER BY sort_key"
            ),
            {"parent": parent},
        )
        return {row.asked: row.scores for row in rows.all()}

    async def pairs(self, first: str, second: str, page: Page) -> ItemPairs:
        rows = await self._database.connection().execute(
            text(
                "SELECT a.body AS first, b.body AS second, a.sort_key FROM evaluation_item a"
                " JOIN evaluation_item b ON b.parent = :second"
                " AND b.body ->> 'prompt_sha256' = a.body ->> 'prompt_sha256'"
                " WHERE a.parent = :first AND a.body ->> 'prompt_sha256' <> '' AND a.sort_key > :after"
                " ORDER BY a.sort_key LIMIT :limit"
            ),
            {"first": first, "second": second, "after": page.after or "", "limit": page.size + 1},
        )
        found = rows.all()
        shown = found[: page.size]
        pairs = [(_ITEM.validate_python(row.first), _ITEM.validate_python(row.second)) for row in shown]
        return ItemPairs(pairs, shown[-1].sort_key if len(found) > page.size else None)


_OPERATORS = {Outcome.HIGHER: ">", Outcome.LOWER: "<", Outcome.EQUAL: "="}


def _conditions(wanted: ItemFilter) -> tuple[str, dict[str, str]]:
    """What an item must meet, as SQL with its values."""
    conditions, values = "", dict[str, str]()
    if wanted.slice:
        conditions += (
            " AND (body -> 'slices' @> to_jsonb(cast(:slice AS text)) OR 'task:' || (body ->> 'task') = :slice)"
        )
        values["slice"] = wanted.slice
    if wanted.contains:
        conditions += (
            " AND (strpos(lower(body -> 'prompt' -> -1 ->> 'content'), lower(:contains)) > 0"
            " OR strpos(lower(body ->> 'candidate_text'), lower(:contains)) > 0"
            " OR strpos(lower(body ->> 'baseline_text'), lower(:contains)) > 0"
            " OR EXISTS (SELECT 1 FROM jsonb_array_elements_text(body -> 'references') AS r"
            " WHERE strpos(lower(r), lower(:contains)) > 0))"
        )
        values["contains"] = wanted.contains
    if wanted.outcome is not None:
        conditions += (
            " AND cast(body -> 'candidate_scores' ->> :scorer AS double precision)"
            f" {_OPERATORS[wanted.outcome]} cast(body -> 'baseline_scores' ->> :scorer AS double precision)"
        )
        values["scorer"] = wanted.scorer
    return conditions, values


class PostgresAnswers:
    """`AnswerCache`. Texts stand as JSON in a text column, which can hold whatever a model generates."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def known(self, project: str, keys: Sequence[str]) -> Mapping[str, Answer]:
        rows = await self._database.connection().execute(
            text(
                "SELECT key, answer, latency_s, details FROM generated_answer"
                " WHERE project = :project AND key = ANY(cast(:keys AS text[]))"
            ),
            {"project": project, "keys": list(keys)},
        )
        return {row.key: _answer(row) for row in rows.all()}

    async def put(self, project: str, answers: Mapping[str, Answer]) -> None:
        await self._database.connection().execute(
            text(
                # In one order, so that two who keep the same answers cannot wait for each other.
                "INSERT INTO generated_answer (project, key, answer, latency_s, details) SELECT :project, * FROM"
                " unnest(cast(:keys AS text[]), cast(:texts AS text[]), cast(:latencies AS double precision[]),"
                " cast(:details AS text[])) AS given (key, answer, latency_s, details) ORDER BY key"
                " ON CONFLICT DO NOTHING"
            ),
            {
                "project": project,
                "keys": list(answers),
                "texts": [json.dumps(answer.text) for answer in answers.values()],
                "latencies": [answer.latency_s for answer in answers.values()],
                "details": [json.dumps(_details(answer)) for answer in answers.values()],
            },
        )


def _details(answer: Answer) -> dict[str, Any]:
    return {
        "first_token_s": answer.first_token_s,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "passages": answer.passages,
    }


def _answer(row: Any) -> Answer:
    details: dict[str, Any] = json.loads(row.details) if row.details is not None else {}
    passages = tuple(details.pop("passages", ()))
    return Answer(json.loads(row.answer), row.latency_s, passages=passages, **details)


class PostgresObservations:
    """`Observations`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def known(self, project: str, keys: Sequence[str]) -> Mapping[str, float]:
        rows = await self._database.connection().execute(
            text("SELECT key, value FROM observation WHERE project = :project AND key = ANY(cast(:keys AS text[]))"),
            {"project": project, "keys": list(keys)},
        )
        return {row.key: row.value for row in rows.all()}

    async def put(self, project: str, values: Mapping[str, float]) -> None:
        await self._database.connection().execute(
            text(
                "INSERT INTO observation (project, key, value) SELECT :project, * FROM"
                " unnest(cast(:keys AS text[]), cast(:values AS double precision[])) AS given (key, value)"
                " ORDER BY key ON CONFLICT DO NOTHING"
            ),
            {"project": project, "keys": list(values), "values": list(values.values())},
        )


def _sort_key(item: EvaluationItem) -> str:
    return f"{item.index:09}"
