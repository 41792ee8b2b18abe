"""A whole stack as its users have it, with the foundation model imported and a tuned version of it released."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from bench import children, machine
from mainspring.data.v1 import ingestion_pb2
from mainspring_client.client import Mainspring
from mainspring_client.configuration import Configuration
from mainspring_client.flywheel import BASE_MODEL, BASE_PACKAGE, Outcome, Result, TurnUpdate, ensure_model, follow_turn

COMMAND = Path(sys.executable).parent / "mainspring"
PROJECT, NAME = "bench", "answers"
MODEL = f"projects/{PROJECT}/models/{NAME}"
_ROWS = 80
_COLOURS = ("blue", "green", "yellow", "white", "black", "red")


class Stack:
    """A stack in a data folder of its own, run by the command."""

    def __init__(self, data: Path) -> None:
        # Resolved, since processes are found by the folder's name.
        self.data = data.resolve()
        self._rows_sent = 0

    async def run(self, *arguments: str, within_s: float = 600, check: bool = True) -> str:
        """Runs `mainspring` on this stack and returns what it printed."""
        env = {"MAINSPRING_DATA": str(self.data)}
        return await children.run(COMMAND, *arguments, env=env, within_s=within_s, check=check)

    async def up(self) -> float:
        """Starts it; returns the seconds that the command took until all was ready."""
        began = time.monotonic()
        await self.run("up", "--json", "--timeout", "300")
        return time.monotonic() - began

    async def down(self) -> None:
        """Stops it; nothing of it is left running.

        Raises:
            ChildFailed: Something is.
        """
        await self.run("down", check=False)
        if left := self.processes():
            raise children.ChildFailed(f"'mainspring down' left {len(left)} processes of {self.data} running")

    @property
    def state(self) -> dict[str, Any]:
        """What the supervisor last wrote down."""
        state: dict[str, Any] = json.loads((self.data / "state.json").read_text())
        return state

    @property
    def gateway(self) -> str:
        """Address of the OpenAI-compatible door."""
        address: str = self.state["addresses"]["gateway"]
        return address

    @property
    def token(self) -> str:
        """Token of the stack's first person."""
        return (self.data / "admin-token").read_text().strip()

    def client(self) -> Mainspring:
        """A new client; close it."""
        return Mainspring.connect(data=self.data)

    def processes(self) -> list[psutil.Process]:
        """Everything that belongs to it now."""
        return machine.stack_processes(str(self.data))

    async def release_first(self) -> None:
        """Imports the foundation model, and turns the loop until a version tuned from it is released."""
        async with self.client() as client:
            base = await ensure_model(client, f"projects/{PROJECT}/models/{BASE_MODEL}", package=BASE_PACKAGE)
            await client.apply(_configuration(base))
            ingestion = await self.ingest(client)
            async for update in follow_turn(client, MODEL, ingestion.cycle, ingestion=ingestion.name):
                if not isinstance(update, TurnUpdate):
                    released(update)
        await self.settled()

    async def ingest(self, client: Mainspring) -> ingestion_pb2.Ingestion:
        """Begins a turn of the loop with rows that no turn has seen."""
        source = self.data / "bench-rows.jsonl"
        source.write_text("".join(f"{json.dumps(row)}\n" for row in _rows(self._rows_sent)))
        self._rows_sent += _ROWS
        artifact = await client.data.upload(PROJECT, source)
        file = ingestion_pb2.Source(artifact=artifact, format=ingestion_pb2.Source.FORMAT_JSONL)
        return await client.data.ingest(f"projects/{PROJECT}/ingestionRecipes/{NAME}", [file])

    async def settled(self, quiet_s: float = 3.0, within_s: float = 60.0) -> None:
        """Waits until the stack uses less than a tenth of a core for `quiet_s`, at most `within_s`."""
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            before = machine.cpu_s(self.processes())
            await asyncio.sleep(quiet_s)
            if machine.cpu_s(self.processes()) - before < 0.1 * quiet_s:
                return


def released(outcome: Outcome) -> None:
    """Checks that a turn ended with a release.

    Raises:
        RuntimeError: It did not; the message says why.
    """
    if outcome.result is not Result.RELEASED:
        raise RuntimeError(f"the turn was to end with a release and ended {outcome.result}: {outcome.reason}")


def _rows(start: int) -> list[dict[str, str]]:
    """Made up: what a version has learned does not matter here, only that it was really trained and measured."""
    return [
        {"input": f"Which colour has thing number {n}?", "target": f"It is {_COLOURS[n % len(_COLOURS)]}."}
        for n in range(start, start + _ROWS)
    ]


def _configuration(base: str) -> Configuration:
    """A flywheel with training runs of two steps, and a gate that lets their versions through if they are served as
    they were trained: what is measured is the release, not the model.
    """
    return Configuration.parse(
        {
            "project": PROJECT,
            "ingestion_recipe": {
                "id": NAME,
                "dataset": NAME,
                "columns": {"input_column": "input", "target_column": "target"},
                "split": {"train_percent": 60, "validation_percent": 10, "test_percent": 30},
            },
            "tuning_recipe": {
                "id": NAME,
                "dataset": NAME,
                "base_model_version": base,
                "model": NAME,
                "method": "METHOD_SUPERVISED",
                "start_from": "START_FROM_CHAMPION",
                "lora": {"rank": 16},
                "optimization": {
                    "epochs": 1,
                    "max_steps": 2,
                    "learning_rate": 1e-4,
                    "batch_rows": 4,
                    "validate_every_steps": 2,
                },
            },
            "evaluation_suite": {
                "id": NAME,
                "model": NAME,
                "scorers": ["rouge_l"],
                "max_items": 4,
                "sampling": {"max_output_tokens": 12},
            },
            "release_policy": {
                "id": NAME,
                "model": NAME,
                "evaluation_suite": NAME,
                "primary_scorer": "rouge_l",
                "min_gain": -10,
                "min_items": 1,
            },
            "rollout_policy": {"id": NAME, "model": NAME},
        }
    )
