"""The engine: whatever does the work, and however often it is interrupted, the same comes out."""

import json
import os
import signal
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mainspring_data_ingest.adapters import candidates, engine, refining_process
from mainspring_data_ingest.adapters.jobs import Job, SourceFile
from mainspring_data_ingest.adapters.refining_process import refine
from mainspring_data_ingest.adapters.workshop import Workshop
from mainspring_data_ingest.application.ports import Refined
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.steps import (
    Balance,
    BalanceBy,
    LengthFilter,
    NearDuplicates,
    QualityFilter,
    RecipeStep,
    TextRepair,
)
from mainspring_svckit.errors import Unavailable

COLUMNS = ColumnMapping(input_column="mr", target_column="ref")
STEPS: tuple[RecipeStep, ...] = (
    TextRepair(),
    QualityFilter(),
    NearDuplicates(threshold=0.8),
    Balance(BalanceBy.LENGTH, max_rows=60),
)


def job(folder: Path, rows: int = 400, processes: int = 1) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    words = [chr(97 + n % 26) * (2 + n % 5) for n in range(60)]

    def row(n: int) -> dict[str, str]:
        text = " ".join(words[(n * n + k) % 60] for k in range(2 + n % 9))
        return {"mr": f"q{n}", "ref": f"{text} cafÃ© {n}"}

    body = [row(n % 250) for n in range(rows)]
    for one in body[::7]:
        one["ref"] = f"  {one['ref'].upper()} !!"
    path.write_text("".join(json.dumps(row) + "\n" for row in body))
    recipe = IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", COLUMNS, steps=STEPS)
    return Job(recipe, (SourceFile(path, "rows", SourceFormat.JSONL, None),), 50, processes=processes)


def outcome(made: Refined) -> tuple[Any, ...]:
    told = [path.read_bytes() if path is not None else b"" for path in (made.refused, made.changed)]
    return [(s.split, s.rows, s.rows_sha256) for s in made.shards], *told, made.report.as_bytes(), made.tally


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHUNK_ROWS", 30)
    monkeypatch.setattr(refining_process, "SMALL_BYTES", 0)


def test_neither_chunks_nor_processes_nor_parts_change_what_comes_out(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = outcome(refine(job(tmp_path / "processes", processes=2), tmp_path / "processes"))
    monkeypatch.setattr(engine, "CHUNK_ROWS", 7)
    monkeypatch.setattr(candidates, "PART_ROWS", 40)
    assert outcome(refine(job(tmp_path / "parts"), tmp_path / "parts")) == whole
    monkeypatch.setattr(engine, "CHUNK_ROWS", 4_000)
    assert outcome(refine(job(tmp_path / "one"), tmp_path / "one")) == whole
    assert whole[2].count(b"text_repair") == json.loads(whole[3])["kept_changed"] > 0
    assert whole[-1].refusals.keys() >= {"EXACT_DUPLICATE", "NEAR_DUPLICATE", "OVER_REPRESENTED"}


def test_chunks_of_which_nothing_is_left_harm_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHUNK_ROWS", 5)
    path = tmp_path / "rows.jsonl"
    rows = [{"mr": f"q{n}", "ref": "x" if 5 <= n < 15 else f"good answer {n}"} for n in range(22)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    some = (LengthFilter(min_words=2), NearDuplicates(), Balance(BalanceBy.LABEL, max_rows=3))
    recipe = IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", COLUMNS, steps=some)
    made = refine(Job(recipe, (SourceFile(path, "rows", SourceFormat.JSONL, None),)), tmp_path)
    assert (made.tally.input_rows, sum(made.tally.splits.values())) == (22, 12)


def parquet_job(folder: Path, rows: int = 400) -> Job:
    """The same rows in one row group, which is read as a whole before the first of them is there."""
    made = job(folder, rows)
    table = pa.Table.from_pylist([json.loads(line) for line in made.sources[0].path.read_text().splitlines()])
    pq.write_table(table, folder / "rows.parquet")
    return replace(made, sources=(SourceFile(folder / "rows.parquet", "rows", SourceFormat.PARQUET, None),))


@pytest.mark.parametrize("made", [job, parquet_job])
def test_how_far_it_is_never_goes_back_nor_beyond_the_end(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, made: Callable[[Path], Job]
) -> None:
    monkeypatch.setattr(engine, "PROGRESS_S", 0)
    told: list[dict[str, Any]] = []
    refine(made(tmp_path), tmp_path, told.append)
    done, totals = [one["rows"] for one in told], [one["total"] for one in told]
    assert done == sorted(done)
    assert all(rows <= total for rows, total in zip(done, totals, strict=True))
    reading = [one for one in told if one["phase"] == "reading"]
    assert len(reading) > 10
    assert all(one["total"] == pytest.approx(400, rel=0.15) for one in reading[1:])
    assert (done[-1], totals[-1]) == (400, 400)


def test_where_nothing_tells_how_much_there_is_no_end_is_told(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PROGRESS_S", 0)
    packed = tmp_path / "rows.zip"
    plain = job(tmp_path)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(plain.sources[0].path, "rows.jsonl")
    told: list[dict[str, Any]] = []
    source = SourceFile(packed, "rows", SourceFormat.ZIP, None, "rows.zip")
    refine(replace(plain, sources=(source,)), tmp_path, told.append)
    assert {one["total"] for one in told if one["phase"] == "reading"} == {0}
    assert told[-1]["total"] == 400


class Killed(BaseException):
    """Ends a run as a kill would: nobody tidies up."""


def test_f1_f10_a_run_goes_on_where_it_was_killed_and_does_damaged_chunks_again(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = outcome(refine(job(tmp_path / "whole"), tmp_path / "whole"))
    done: list[int] = []
    refined = Workshop.refined

    def counted(self: Workshop, chunk: Any) -> Any:
        if len(done) == 6:
            raise Killed
        done.append(chunk.number)
        return refined(self, chunk)

    monkeypatch.setattr(Workshop, "refined", counted)
    again = tmp_path / "again"
    with pytest.raises(Killed):
        refine(job(again), again)
    assert done == [0, 1, 2, 3, 4, 5]
    damaged = next((again / "chunks").glob("000002.arrow"))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    (again / "chunks" / "000004.json").unlink()  # Killed before the last file of the chunk.
    done.clear()
    monkeypatch.setattr(Workshop, "refined", lambda self, chunk: (done.append(chunk.number), refined(self, chunk))[1])
    told: list[dict[str, Any]] = []
    assert outcome(refine(job(again), again, told.append)) == whole
    assert done == [2, 4, *range(6, 14)]
    assert told[-1]["resumed_chunks"] == 4


def helpers() -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.Process().children():
        with suppress(psutil.Error):  # It ends while we look.
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def killing(times: int) -> Callable[[dict[str, Any]], None]:
    """Kills a helping process whenever the engine says something, so many times."""
    left = [times]

    def say(_: dict[str, Any]) -> None:
        for helper in helpers()[:1]:
            if left[0] > 0:
                left[0] -= 1
                os.kill(helper.pid, signal.SIGKILL)

    return say


def test_f19_a_process_that_dies_costs_a_second_try_only(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PROGRESS_S", 0)
    whole = outcome(refine(job(tmp_path / "whole"), tmp_path / "whole"))
    home = tmp_path / "killed"
    assert outcome(refine(job(home, processes=2), home, killing(1))) == whole
    assert not helpers()


def test_f19_a_chunk_that_kills_whoever_does_it_fails_with_its_lines_and_the_signal(
    tmp_path: Path, small: None
) -> None:
    home = tmp_path / "killed"
    stop = threading.Event()

    def hunt() -> None:
        while not stop.wait(0.05):
            for helper in helpers():
                helper.kill()

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        with pytest.raises(Unavailable) as caught:
            refine(job(home, processes=2), home)
    finally:
        stop.set()
        hunter.join()
    assert caught.value.reason == "REFINING_WORKER_DIED"
    assert "of source 0 was killed by SIGKILL, 2 times" in caught.value.message
    assert not helpers()
