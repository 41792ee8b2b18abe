"""The contracts of `Work` and `Claim` of `mainspring_svckit.ports`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from mainspring_svckit.ports import Claim, Work
from mainspring_svckit.work import LeaseLost

Queued = Callable[[], Awaitable[Mapping[tuple[str, str], Mapping[str, Any]]]]


class WorkContract:
    """What every queue does.

    Subclasses give the fixtures `work`, `transaction` (called for each) and `queued`: payloads of the items that wait,
    by kind and key.
    """

    async def test_what_is_queued_waits_with_its_payload(self, work: Work, transaction: Any, queued: Queued) -> None:
        payload = {"n": 1, "text": 'ü"\n', "list": [1.5, None]}
        async with transaction():
            await work.enqueue("job", "a", payload)
            await work.enqueue("job", "b", priority=3)
            await work.enqueue("other", "a", delay_s=600)
        payload["n"] = 2  # What the caller does with it later is its own affair.
        assert await queued() == {
            ("job", "a"): {"n": 1, "text": 'ü"\n', "list": [1.5, None]},
            ("job", "b"): {},
            ("other", "a"): {},
        }

    async def test_an_item_that_is_there_is_replaced(self, work: Work, transaction: Any, queued: Queued) -> None:
        for number in (1, 2, 3):
            async with transaction():
                await work.enqueue("job", "a", {"n": number}, coalesce=number == 3)
        assert await queued() == {("job", "a"): {"n": 3}}

    async def test_a_cancelled_item_is_gone_until_it_is_queued_again(
        self, work: Work, transaction: Any, queued: Queued
    ) -> None:
        async with transaction():
            await work.enqueue("job", "a")
            await work.enqueue("other", "a")
            for _ in range(2):
                await work.cancel("job", "a")
        assert set(await queued()) == {("other", "a")}
        async with transaction():
            await work.enqueue("job", "a", {"n": 2})
        assert (await queued())["job", "a"] == {"n": 2}

    async def test_many_items_come_and_go_at_once(self, work: Work, transaction: Any, queued: Queued) -> None:
        async with transaction():
            await work.enqueue_all("job", ["b", "a", "c"])
            await work.enqueue("other", "a")
        assert await queued() == {("job", key): {} for key in "bac"} | {("other", "a"): {}}
        async with transaction():
            await work.forget("job", ["a", "b", "never"])
        assert set(await queued()) == {("job", "c"), ("other", "a")}
        async with transaction():
            await work.enqueue_all("job", ["a"], after=2)
        assert ("job", "a") in await queued()

    async def test_open_items_are_counted_by_project(self, work: Work, transaction: Any, queued: Queued) -> None:
        async with transaction():
            for key in ("projects/p/jobs/1", "projects/p/jobs/2", "projects/pp/jobs/1"):
                await work.enqueue("job", key)
            await work.enqueue("other", "projects/p/jobs/1")
            await work.cancel("job", "projects/p/jobs/2")
            assert [await work.open_items("job", project) for project in ("p", "pp", "q")] == [1, 1, 0]
        assert len(await queued()) == 3


class ClaimContract:
    """What every claim does.

    Subclasses give the fixtures `claim`, `lose` (lets another worker have the item) and `completed` (whether the item
    is done).
    """

    async def test_a_claim_is_good_for_many_transactions_until_it_is_completed(
        self, claim: Claim, completed: Callable[[], Awaitable[bool]]
    ) -> None:
        for _ in range(2):
            async with claim.transaction():
                pass
        assert not await completed()
        async with claim.complete():
            pass
        assert await completed()
        with pytest.raises(LeaseLost):
            async with claim.transaction():
                pytest.fail("the item is done, so nobody may write for it")

    async def test_an_error_leaves_the_item_undone(
        self, claim: Claim, completed: Callable[[], Awaitable[bool]]
    ) -> None:
        with pytest.raises(ZeroDivisionError):
            async with claim.complete():
                raise ZeroDivisionError
        assert not await completed()
        async with claim.complete():
            pass
        assert await completed()

    async def test_f13_who_lost_it_writes_nothing(
        self, claim: Claim, lose: Callable[[], Awaitable[None]], completed: Callable[[], Awaitable[bool]]
    ) -> None:
        await lose()
        for block in (claim.transaction, claim.complete):
            with pytest.raises(LeaseLost):
                async with block():
                    pytest.fail("somebody else has the item")
        assert not await completed()
