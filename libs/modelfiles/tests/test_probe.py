"""The fidelity probe: it reads what it writes, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mainspring_modelfiles import probe
from mainspring_modelfiles.probe import Position, ProbeInvalid


def test_prefixes_are_different_beginnings_of_the_text_that_end_with_a_word() -> None:
    made = probe.prefixes(32)
    assert len(set(made)) == 32
    assert list(made) == sorted(made, key=len)
    for prefix in made:
        assert probe.TEXT.startswith(f"{prefix} ")
        assert len(prefix.split()) >= 3
    for count in (0, 10_000):
        with pytest.raises(ValueError, match="between 1 and"):
            probe.prefixes(count)


def test_a_probe_is_read_as_it_was_written() -> None:
    positions = (Position("é a", ((3, -0.1), (1, -2.5))), Position("b", ((0, 0.0),)))
    assert probe.load(probe.dump(positions)) == positions
    assert json.loads(probe.dump(positions))["schema"] == "mainspring.fidelity_probe.v1"


@pytest.mark.parametrize(
    "body",
    [
        "nonsense",
        "[" * 100_000,
        [],
        {"schema": "other", "positions": [{"prefix": "a", "top": [[1, -1.0]]}]},
        {"schema": probe.SCHEMA, "positions": []},
        {"schema": probe.SCHEMA, "positions": [1]},
        {"schema": probe.SCHEMA, "positions": [{"prefix": "a", "top": []}]},
        {"schema": probe.SCHEMA, "positions": [{"prefix": "a", "top": [[1, 0.5]]}]},
        {"schema": probe.SCHEMA, "positions": [{"prefix": "a", "top": [[-1, -0.5]]}]},
        {"schema": probe.SCHEMA, "positions": [{"prefix": "a", "top": [[1, float("nan")]]}]},
        {"schema": probe.SCHEMA, "positions": [{"prefix": "a", "top": [["1", -0.5]]}]},
    ],
)
def test_b3_what_is_no_probe_is_refused(body: Any) -> None:
    with pytest.raises(ProbeInvalid):
        probe.load((body if isinstance(body, str) else json.dumps(body)).encode())
