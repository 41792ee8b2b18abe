"""The small form of `python -m bench evidence-events`."""

from bench import evidence_events


async def test_releases_reach_every_durable_subscriber_once_and_in_order_while_a_replica_dies() -> None:
    result = await evidence_events.measure(releases=12, subscribers=4, models=2)
    assert result.details["replica_killed"]
    assert [figure.value for figure in result.figures if figure.bar is not None] == [0, 0, 0]
