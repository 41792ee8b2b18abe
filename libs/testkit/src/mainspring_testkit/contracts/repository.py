"""The contract of `mainspring_svckit.repository.Repository`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest

from mainspring_svckit.errors import AlreadyExists, EtagMismatch
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Repository


class Colour(StrEnum):
    """An enum inside an entity."""

    RED = "RED"


@dataclass(frozen=True)
class Part:
    """A value inside an entity."""

    size: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Thing:
    """An entity with everything that entities hold."""

    name: str
    parent: str
    number: int
    label: str = ""
    colour: Colour = Colour.RED
    made: datetime = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    parts: dict[str, Part] = field(default_factory=dict[str, Part])
    maybe: float | None = None


def thing(number: int, parent: str = "projects/p", **changes: Any) -> Thing:
    """A thing with a number."""
    return replace(Thing(f"{parent}/things/{number}", parent, number), **changes)


class RepositoryContract:
    """What every repository does.

    Subclasses give the fixtures `repository` (lists by number), `newest_first` and `transaction` (called for each).
    """

    async def test_what_is_added_can_be_read_whole(self, repository: Repository[Thing], transaction: Any) -> None:
        value = thing(1, parts={"a": Part(3, ("x", "y"))}, maybe=0.1, label='ü"\\\n')
        async with transaction():
            stored = await repository.add(value)
        async with transaction():
            found = await repository.get(value.name)
        assert found is not None
        assert found.value == value
        assert found.etag == stored.etag

    async def test_what_is_missing_is_none(self, repository: Repository[Thing], transaction: Any) -> None:
        async with transaction():
            assert await repository.get("projects/p/things/9") is None

    async def test_adding_twice_is_refused(self, repository: Repository[Thing], transaction: Any) -> None:
        async with transaction():
            await repository.add(thing(1))
            with pytest.raises(AlreadyExists):
                await repository.add(thing(1, label="other"))

    async def test_every_write_changes_the_etag(self, repository: Repository[Thing], transaction: Any) -> None:
        async with transaction():
            first = await repository.put(thing(1))
            second = await repository.put(thing(1, label="b"), etag=first.etag)
            assert second.etag != first.etag
            with pytest.raises(EtagMismatch):
                await repository.put(thing(1, label="c"), etag=first.etag)
            with pytest.raises(EtagMismatch):
                await repository.put(thing(2), etag="1")
            found = await repository.get(thing(1).name)
        assert found is not None
        assert found.value.label == "b"

    async def test_pages_cover_a_list_once_and_in_order(self, repository: Repository[Thing], transaction: Any) -> None:
        async with transaction():
            for number in (3, 1, 5, 2, 4):
                await repository.add(thing(number))
            await repository.add(thing(9, parent="projects/q"))
            seen: list[int] = []
            page = Page(2, None)
            while True:
                listed = await repository.list("projects/p", page)
                seen += [item.value.number for item in listed.items]
                if listed.next_key is None:
                    break
                page = Page(2, listed.next_key)
        assert seen == [1, 2, 3, 4, 5]

    async def test_newest_first_goes_down(self, newest_first: Repository[Thing], transaction: Any) -> None:
        async with transaction():
            for number in (1, 3, 2):
                await newest_first.add(thing(number))
            first = await newest_first.list("projects/p", Page(2, None))
            second = await newest_first.list("projects/p", Page(2, first.next_key))
        assert [item.value.number for item in [*first.items, *second.items]] == [3, 2, 1]
        assert second.next_key is None

    async def test_find_gives_all_with_a_field(self, repository: Repository[Thing], transaction: Any) -> None:
        async with transaction():
            for number, label in ((1, "a"), (2, "b"), (3, "a")):
                await repository.add(thing(number, label=label))
            assert [value.number for value in await repository.find("label", "a")] == [1, 3]
            assert await repository.find("label", "'; DROP TABLE thing; --") == []

    async def test_all_gives_all_and_remove_forgets(self, repository: Repository[Thing], transaction: Any) -> None:
        async with transaction():
            for value in (thing(2), thing(1), thing(3, parent="projects/a")):
                await repository.add(value)
            assert [value.number for value in await repository.all()] == [3, 1, 2]
            await repository.remove(thing(1).name)
            await repository.remove(thing(1).name)
            assert [value.number for value in await repository.all()] == [3, 2]

    async def test_changes_one_after_the_other_are_all_kept(
        self, repository: Repository[Thing], transaction: Any
    ) -> None:
        async with transaction():
            await repository.add(thing(0, label=""))

        async def append(letter: str) -> None:
            async with transaction():
                found = await repository.get(thing(0).name, lock=True)
                assert found is not None
                await repository.put(replace(found.value, label=found.value.label + letter))

        await asyncio.gather(*(append(letter) for letter in "abcdef"))
        async with transaction():
            found = await repository.get(thing(0).name)
        assert found is not None
        assert sorted(found.value.label) == list("abcdef")
