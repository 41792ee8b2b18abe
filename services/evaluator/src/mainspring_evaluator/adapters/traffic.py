"""Sampled answers to real people, with what these thought of them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import text

from mainspring_evaluator.application.ports import JudgedAnswer
from mainspring_evaluator.domain.items import Message
from mainspring_svckit.database import Database


class PostgresTraffic:
    """`HumanLabels`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, model: str, limit: int) -> Sequence[JudgedAnswer]:
        rows = await self._database.connection().execute(
            text(
                "SELECT messages, answer, good FROM traffic_answer WHERE model = :model AND good IS NOT NULL"
                " ORDER BY name DESC LIMIT :limit"
            ),
            {"model": model, "limit": limit},
        )
        return [
            JudgedAnswer(
                tuple(Message(turn["role"], turn["content"]) for turn in json.loads(row.messages)),
                json.loads(row.answer),
                row.good,
            )
            for row in rows.all()
        ]
