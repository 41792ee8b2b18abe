"""Comparisons of versions: counts that add up whatever the rows are."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring_data_ingest.adapters.chunks import EXTRAS, ChunkFolder, encode
from mainspring_data_ingest.adapters.comparing import compare
from mainspring_data_ingest.adapters.shard_jobs import Side, SideShard
from mainspring_data_ingest.adapters.shard_rows import canonical, rows
from mainspring_data_ingest.adapters.shards import plan, write
from mainspring_data_ingest.application.ports import RefinedShard
from mainspring_data_ingest.application.refining import Candidate, RecordChunk, RefinedChunk
from mainspring_data_ingest.domain.report import Measure, TextStatistics
from mainspring_data_ingest.domain.rows import Example, Message, Row
from mainspring_data_ingest.domain.splits import Split


class Fact(NamedTuple):
    prompt: str
    answer: str
    split: Split
    line: int


def write_shards(folder: Path, split: Split, made: Sequence[Row], rows_per_shard: int = 50_000) -> list[RefinedShard]:
    """Shards of exactly these rows, by way of a chunk."""
    candidates = [
        Candidate(n, row, False, b"", Measure(0, 0, 0, 0, 0), row.group_digest, ()) for n, row in enumerate(made)
    ]
    chunks = ChunkFolder(folder / f"chunks-{split}")
    chunks.put(0, encode(RecordChunk(0, 0, 0, ()), RefinedChunk(candidates, [], [], TextStatistics()), {}))
    extras = tuple([name for name in EXTRAS if any(getattr(row.example, name) is not None for row in made)])
    plans = plan(
        split,
        np.arange(len(made)),
        [len(row.canonical.encode()) + 1 for row in made],
        np.array([0, len(made)]),
        [0],
        extras=extras,
        rows_per_shard=rows_per_shard,
    )
    return [write(folder, chunks, planned).shard for planned in plans]


def side(folder: Path, facts: Sequence[Fact], source: str, rows_per_shard: int = 3) -> Side:
    folder.mkdir()
    shards: list[SideShard] = []
    for split in Split:
        made = [
            Row.of(Example((Message("user", f.prompt), Message("assistant", f.answer)), f.prompt), 0, f.line)
            for f in facts
            if f.split is split
        ]
        written = write_shards(folder, split, made, rows_per_shard)
        shards += [SideShard(s.path, split.value.lower(), s.rows, s.rows_sha256) for s in written]
    return Side(tuple(shards), (source,))


def changes_of(path: Path) -> list[tuple[str, str, str]]:
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text().splitlines()]

    def answer(change: dict[str, Any], side: str) -> str:
        return change[side]["messages"][-1]["content"] if change[side] is not None else ""

    return [(change["kind"], answer(change, "base"), answer(change, "target")) for change in found]


def test_rows_are_added_removed_changed_and_moved(tmp_path: Path) -> None:
    train, test = Split.TRAIN, Split.TEST
    base = [Fact("a", "1", train, 1), Fact("b", "2", train, 2), Fact("c", "3", train, 3), Fact("d", "4", train, 4)]
    target = [Fact("a", "1", train, 1), Fact("b", "two", train, 12), Fact("c", "3", test, 13), Fact("e", "5", test, 14)]
    old, new = side(tmp_path / "base", base, "s"), side(tmp_path / "target", target, "s")
    counts = compare(old, new, tmp_path, tmp_path / "changes.jsonl")
    assert (counts.same, counts.moved, counts.changed, counts.added, counts.removed) == (1, 1, 1, 1, 1)
    assert changes_of(tmp_path / "changes.jsonl") == [
        ("CHANGED", "2", "two"),
        ("ADDED", "", "5"),
        ("REMOVED", "4", ""),
        ("MOVED", "3", "3"),
    ]


def test_a_record_that_is_cleaned_otherwise_is_changed_though_its_prompt_is_another(tmp_path: Path) -> None:
    old = side(tmp_path / "base", [Fact("a ", "1", Split.TRAIN, 1)], "s")
    new = side(tmp_path / "target", [Fact("a", "1", Split.TRAIN, 1)], "s")
    counts = compare(old, new, tmp_path, tmp_path / "changes.jsonl")
    assert (counts.changed, counts.added, counts.removed) == (1, 0, 0)


def test_equal_versions_have_no_changes_and_are_not_read(tmp_path: Path) -> None:
    facts = [Fact(f"q{n}", "a", Split.TRAIN, n) for n in range(10)]
    old = side(tmp_path / "base", facts, "s")
    missing = Side(tuple(SideShard(tmp_path / "nowhere", s.split, s.rows, s.rows_sha256) for s in old.shards), ("s",))
    counts = compare(old, missing, tmp_path, tmp_path / "changes.jsonl")
    assert (counts.same, counts.base_rows, counts.target_rows) == (10, 10, 10)
    assert not (tmp_path / "changes.jsonl").exists()


FACTS = st.lists(
    st.builds(
        Fact,
        prompt=st.sampled_from("abcdef"),
        answer=st.sampled_from("123"),
        split=st.sampled_from(list(Split)),
        line=st.integers(1, 8),
    ),
    max_size=12,
    unique_by=(lambda fact: fact[:2], lambda fact: fact.line),
)


@settings(max_examples=60, deadline=None)
@given(FACTS, FACTS, st.booleans())
def test_every_row_of_both_versions_is_counted_once(base: list[Fact], target: list[Fact], same_source: bool) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        old, new = side(folder / "base", base, "s"), side(folder / "target", target, "s" if same_source else "t")
        counts = compare(old, new, folder, folder / "changes.jsonl")
        changes = changes_of(folder / "changes.jsonl")
    common = counts.same + counts.moved + counts.changed
    assert counts.base_rows == len(base) == common + counts.removed
    assert counts.target_rows == len(target) == common + counts.added
    assert len(changes) == counts.moved + counts.changed + counts.added + counts.removed
    places = {fact[:2]: fact.split for fact in base}
    assert counts.same == sum(places.get(fact[:2]) is fact.split for fact in target)
    assert counts.moved == sum(places.get(fact[:2], fact.split) is not fact.split for fact in target)


def test_a_shards_rows_are_read_back_as_the_canonical_rows_that_digests_are_made_of(tmp_path: Path) -> None:
    example = Example((Message("user", 'é\n"q"'), Message("assistant", "a")), "g", rejected="worse", desirable=True)
    plain = Example((Message("user", "p"), Message("assistant", "b")), "g")
    marked = Example((Message("user", "p"), Message("assistant", "c")), "g", synthetic=True)
    written = [Row.of(example, 0, 7), Row.of(plain, 1, 8), Row.of(marked, 1, 9)]
    (shard,) = write_shards(tmp_path, Split.TRAIN, written)
    assert [canonical(row) for row in rows(shard.path)] == [row.canonical for row in written]
