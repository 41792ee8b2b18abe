"""A million rows through a whole recipe: time, memory, and how both grow."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench import data_rows, machine
from bench.figures import Bar, Figure, Result
from mainspring_data_ingest.adapters.jobs import JOB, RESULT, Job, SourceFile
from mainspring_data_ingest.application.ports import Refined
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.steps import Decontamination, NearDuplicates, QualityFilter, RecipeStep, TextRepair
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.values import ArtifactRef

SEED = 7
THRESHOLD = 0.8
_COLUMNS = ColumnMapping(input_column="prompt", target_column="answer")
_STEPS: tuple[RecipeStep, ...] = (
    TextRepair(),
    QualityFilter(),
    Decontamination(file=ArtifactRef("0" * 64, 1)),
    NearDuplicates(threshold=THRESHOLD),
)


@dataclass
class Run:
    """One ingestion, measured.

    Attributes:
        seconds: From the start of the process to the last file in the artifact store.
        peak_bytes: Most memory of all of its processes together (PSS, so shared pages count once).
        phases: Seconds at which each phase began.
        made: What came of it.
    """

    seconds: float
    peak_bytes: int
    made: Refined
    phases: dict[str, float] = field(default_factory=dict[str, float])


async def measure(folder: Path, rows: int) -> Result:
    """Measures a quarter of the rows, and all of them."""
    result, runs = Result("data-pipeline"), list[Run]()
    for count in (rows // 4, rows):
        runs.append(await ingest(folder / f"rows-{count}", count))
        tally = runs[-1].made.tally
        result.details[str(count)] = {
            "seconds": runs[-1].seconds,
            "peak_mib": runs[-1].peak_bytes >> 20,
            "phases": runs[-1].phases,
            "refused": {reason.value: refused for reason, refused in tally.refusals.items()},
        }
    small, large = runs
    seconds = 120 * rows / 1_000_000
    result.figures = [
        Figure(f"{rows} rows, whole recipe and storing", "s", large.seconds, bar=Bar(seconds)),
        Figure("rows per second", "", rows / large.seconds),
        Figure("peak memory", "MiB", large.peak_bytes / 2**20, bar=Bar(2048)),
        Figure(f"peak memory against {rows // 4} rows", "", large.peak_bytes / small.peak_bytes, bar=Bar(1.2)),
        Figure(f"time against {rows // 4} rows", "", large.seconds / small.seconds, bar=Bar(4)),
    ]
    return result


async def ingest(home: Path, count: int, ray_address: str = "", env: Mapping[str, str] | None = None) -> Run:
    """Makes so many rows in a new folder and brings them through the whole recipe.

    Args:
        home: The folder.
        count: Rows.
        ray_address: The Ray cluster that refines, if one does.
        env: What the refining process needs in its environment besides ours.
    """
    home.mkdir()
    rows = data_rows.Rows(SEED)
    await asyncio.to_thread(data_rows.write, home / "rows.jsonl", rows.make(count))
    data_rows.write(home / "evaluation.jsonl", iter(rows.evaluation))

    def source(name: str) -> SourceFile:
        return SourceFile(home / name, name, SourceFormat.JSONL, _COLUMNS)

    recipe = IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", _COLUMNS, steps=_STEPS)
    held_out = tuple((source("evaluation.jsonl"),) if isinstance(step, Decontamination) else () for step in _STEPS)
    job = Job(recipe, (source("rows.jsonl"),), held_out=held_out, ray_address=ray_address)
    (home / "job.json").write_bytes(JOB.dump_json(job))
    began = time.monotonic()
    phases, peak = await _refine(home, began, env or {})
    made = RESULT.validate_json((home / "result.json").read_bytes())
    await _store(made, ArtifactStore(f"file://{home / 'store'}"))
    return Run(time.monotonic() - began, peak, made, phases)


async def _refine(home: Path, began: float, env: Mapping[str, str]) -> tuple[dict[str, float], int]:
    """Runs the refining process as the service does; the phases it told of, and its peak memory."""
    module = "mainspring_data_ingest.adapters.refining_process"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        str(home),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**{key: value for key, value in os.environ.items() if not key.startswith("MAINSPRING_")}, **env},
    )
    assert process.stdout is not None
    phases: dict[str, float] = {}
    watching = asyncio.create_task(_peak(process.pid))
    try:
        async for line in process.stdout:
            told: dict[str, Any] = json.loads(line)
            if "message" in told:
                raise RuntimeError(told["message"])
            phases.setdefault(told["phase"], round(time.monotonic() - began, 1))
        if await process.wait():
            raise RuntimeError(f"the refining process ended with status {process.returncode}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        peak = await watching
    return phases, peak


async def _peak(pid: int) -> int:
    """Most memory that a process and all below it have had, until it ends."""
    peak, parent = 0, psutil.Process(pid)
    while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
        with suppress(psutil.Error):
            tree = [parent, *parent.children(recursive=True)]
            peak = max(peak, await asyncio.to_thread(machine.pss_bytes, tree))
        await asyncio.sleep(0.2)
    return peak


async def _store(made: Refined, store: ArtifactStore) -> None:
    """What publishing adds before its one transaction: every file into the artifact store."""
    for shard in made.shards:
        await store.put_file("p", shard.path)
    if made.refused is not None:
        await store.put_file("p", made.refused)
    await store.put_bytes("p", made.report.as_bytes())
