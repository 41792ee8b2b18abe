"""Splits with strata: shares of each, and nothing that moves."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mainspring_data_ingest.domain.recipes import IngestionRecipe, SplitShares, SplitStrata

from .refining import PAIRS, refined, rows_of

BY_LABEL = SplitShares(60, 20, 20, SplitStrata.LABEL)


def labelled(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"mr": f"question {n}", "ref": "Rare" if n % 5 == 0 else "many"} for n in range(start, start + count)]


def splits(folder: Path, rows: list[Any], split: SplitShares) -> dict[str, str]:
    return {row["messages"][0]["content"]: row["split"] for row in rows_of(refined(folder, rows, split=split))}


def test_each_stratum_gets_its_shares(tmp_path: Path) -> None:
    found = rows_of(refined(tmp_path, labelled(3000), split=BY_LABEL))
    for label, rows in (("Rare", 600), ("many", 2400)):
        counts = Counter(row["split"] for row in found if row["messages"][-1]["content"] == label)
        assert counts["TRAIN"] / rows == pytest.approx(0.6, abs=0.06)
        assert counts["TEST"] / rows == pytest.approx(0.2, abs=0.06)


def test_b9_a_row_of_a_stratum_never_moves_when_data_is_appended(tmp_path: Path) -> None:
    before = splits(tmp_path / "before", labelled(300), BY_LABEL)
    after = splits(tmp_path / "after", labelled(300) + labelled(500, 300), BY_LABEL)
    assert before.items() <= after.items()
    assert len(after) == 800


def test_b9_a_group_of_several_strata_stays_together_where_its_first_row_is(tmp_path: Path) -> None:
    rows = [{"mr": f"question {n % 40}", "ref": f"answer {n // 40}"} for n in range(200)]
    by_prompt: dict[str, set[str]] = {}
    for row in rows_of(refined(tmp_path / "all", rows, split=BY_LABEL)):
        by_prompt.setdefault(row["messages"][0]["content"], set()).add(row["split"])
    assert all(len(found) == 1 for found in by_prompt.values())
    first = splits(tmp_path / "first", rows[:40], BY_LABEL)
    assert {prompt: found.pop() for prompt, found in by_prompt.items()} == first
    assert len(set(first.values())) == 3


def test_strata_are_other_draws_than_groups_alone_and_recipes_without_them_keep_their_digest(tmp_path: Path) -> None:
    grouped = splits(tmp_path / "grouped", labelled(200), SplitShares(60, 20, 20))
    by_source = splits(tmp_path / "source", labelled(200), SplitShares(60, 20, 20, SplitStrata.SOURCE))
    assert grouped != by_source
    shares = IngestionRecipe("r", "d", PAIRS).as_json()["split"]
    assert shares == {"train_percent": 80, "validation_percent": 10, "test_percent": 10}
    assert IngestionRecipe("r", "d", PAIRS, split=BY_LABEL).as_json()["split"]["stratify_by"] == "LABEL"
