"""The benchmarks of evidence, quick."""

import csv
from pathlib import Path

import pytest
from bench import metric_values
from bench.evidence_statistics import SCORERS, interval, measure


async def test_few_simulated_pairs_give_every_figure() -> None:
    result = await measure(pairs=4, power_pairs=2, pilot_items=200)
    names = [figure.name for figure in result.figures]
    assert all(any(scorer in name for name in names) for scorer in SCORERS)
    assert all(0 <= figure.value <= 1 for figure in result.figures)


def test_intervals_of_shares_hold_the_share() -> None:
    assert interval(0.0, 100)[0] == 0
    low, high = interval(0.025, 2_000)
    assert (round(low, 4), round(high, 4)) == (0.019, 0.0328)


REFERENCES = {
    "near[river]": ["The Mill is by the river.", "By the river there's The Mill.", "The Mill serves food, riverside."],
    "food[Thai]": [
        "Blue Spice serves Thai food.",
        "Thai food is served at Blue Spice!",
        "Eat Thai at Blue Spice.",
        "Thai.",
    ],
    "price[low]": ["It's cheap.", "Prices are low."],
}


async def test_metric_values_are_held_against_the_libraries_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "e2e.csv"
    with table.open("w", newline="") as file:
        written = csv.writer(file)
        written.writerow(["mr", "ref"])
        written.writerows((mr, ref) for mr, refs in REFERENCES.items() for ref in refs)
    figures = await metric_values.compare(table, tmp_path)
    assert [(figure.value, figure.met) for figure in figures] == [(0, True)] * 2
    assert all("2 inputs" in figure.name for figure in figures), "one has too few references"
    measure = metric_values._measure  # pyright: ignore[reportPrivateUsage] - what is held against the command lines.

    async def spoiled(scorers: tuple[str, ...], answers: list[str], references: list[list[str]]) -> object:
        return await measure(scorers, [f"{text} so" for text in answers], references)

    monkeypatch.setattr(metric_values, "_measure", spoiled)
    figures = await metric_values.compare(table, tmp_path)
    assert [figure.met for figure in figures] == [False, False]
