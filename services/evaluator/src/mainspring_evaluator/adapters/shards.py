"""Shards of runs on Postgres."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import text

from mainspring_evaluator.domain.inquiries import Shard, Tally, Use
from mainspring_evaluator.domain.items import Answer
from mainspring_svckit import watching
from mainspring_svckit.database import Database, Listener, Subscription
from mainspring_svckit.errors import NotFound

_CHUNK = 50
_SHARD = TypeAdapter(Shard)


class PostgresShards:
    """`Shards`."""

    def __init__(self, database: Database, listener: Listener) -> None:
        self._database, self._listener = database, listener

    async def add(self, shards: Sequence[Shard]) -> None:
        for start in range(0, len(shards), _CHUNK):
            chunk = shards[start : start + _CHUNK]
            await self._execute(
                "INSERT INTO answer_shard (name, run, stage, body, questions)"
                " SELECT * FROM unnest(cast(:names AS text[]), cast(:runs AS text[]), cast(:stages AS text[]),"
                " cast(:bodies AS text[]), cast(:questions AS integer[]))",
                names=[shard.name for shard in chunk],
                runs=[shard.run for shard in chunk],
                stages=[shard.stage for shard in chunk],
                bodies=[json.dumps(asdict(shard)) for shard in chunk],
                questions=[len(shard.inquiry.prompts) for shard in chunk],
            )

    async def get(self, name: str) -> Shard:
        found = (await self._execute("SELECT body FROM answer_shard WHERE name = :name", name=name)).scalar()
        if found is None:
            raise NotFound("Shard", name)
        return _SHARD.validate_python(json.loads(found))

    async def names(self, run: str) -> Sequence[str]:
        return (await self._execute("SELECT name FROM answer_shard WHERE run = :run", run=run)).scalars().all()

    async def found(self, name: str, answered: int) -> None:
        await self._execute(
            "UPDATE answer_shard SET answered = :answered WHERE name = :name", name=name, answered=answered
        )

    async def made(self, name: str, answers: Sequence[Answer]) -> None:
        await self._execute(
            "UPDATE answer_shard SET answered = answered + :made, generated = generated + :made,"
            " input_tokens = input_tokens + :read, output_tokens = output_tokens + :said WHERE name = :name",
            name=name,
            made=len(answers),
            read=sum(answer.input_tokens for answer in answers),
            said=sum(answer.output_tokens for answer in answers),
        )

    async def close(self, name: str, failure: tuple[str, str] | None = None) -> None:
        reason, message = failure or (None, None)
        run = (
            await self._execute(
                "UPDATE answer_shard SET open = false, reason = :reason, message = :message WHERE name = :name"
                " RETURNING run",
                name=name,
                reason=reason,
                message=message,
            )
        ).scalar()
        await self._database.notify(watching.CHANNEL, _channel(str(run)))

    async def tallies(self, run: str) -> Mapping[str, Tally]:
        rows = await self._execute(
            "SELECT stage, count(*) FILTER (WHERE open) AS open, sum(generated) AS generated,"
            " coalesce(sum(questions - answered) FILTER (WHERE open), 0) AS remaining,"
            " min(reason) AS reason, (array_agg(message ORDER BY reason))[1] AS message"
            " FROM answer_shard WHERE run = :run GROUP BY stage",
            run=run,
        )
        return {
            row.stage: Tally(
                row.open,
                int(row.remaining),
                int(row.generated),
                (row.reason, row.message) if row.reason is not None else None,
            )
            for row in rows.all()
        }

    async def used(self, run: str) -> Use:
        row = (
            await self._execute(
                "SELECT coalesce(sum(input_tokens), 0) AS read, coalesce(sum(output_tokens), 0) AS said,"
                " coalesce(extract(epoch FROM now() - min(create_time)), 0) AS elapsed_s"
                " FROM answer_shard WHERE run = :run",
                run=run,
            )
        ).one()
        return Use(int(row.read), int(row.said), float(row.elapsed_s))

    async def drop(self, run: str) -> None:
        await self._execute("DELETE FROM answer_shard WHERE run = :run", run=run)

    def changes(self, run: str) -> AbstractContextManager[Subscription]:
        return self._listener.subscribe(watching.CHANNEL, _channel(run))

    async def _execute(self, statement: str, **values: Any) -> Any:
        return await self._database.connection().execute(text(statement), values)


def _channel(run: str) -> str:
    """What a run's owner listens for; those who watch the run do not."""
    return f"{run}/shards"
