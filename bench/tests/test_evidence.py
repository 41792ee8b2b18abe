"""The benchmarks of evidence, quick."""

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
