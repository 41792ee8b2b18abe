"""The contracts of the small ports that every service has: `Transactions`, `Notifier` and `Clock`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Protocol

import pytest

from mainspring_svckit.clock import Clock
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.ports import Notifier, Transactions


class Ear(Protocol):
    """Hears of one channel and payload."""

    async def wait(self, timeout_s: float) -> bool:
        """Whether something was heard since the last wait, or within this time."""
        ...


Listen = Callable[[str, str], AbstractContextManager[Ear]]


class TransactionsContract:
    """What all transactions do; a fixture `transactions`. That a failed one leaves nothing is for Postgres to show."""

    async def test_an_error_comes_out_as_it_was_raised(self, transactions: Transactions) -> None:
        for error in (InvalidInput("no", reason="X"), ZeroDivisionError()):
            with pytest.raises(type(error)) as caught:
                async with transactions.transaction():
                    raise error
            assert caught.value is error
        async with transactions.transaction():
            pass

    async def test_a_block_inside_a_block_joins_it(self, transactions: Transactions) -> None:
        entered = 0
        async with transactions.transaction() as outer:
            for _ in range(2):
                async with transactions.transaction() as inner:
                    assert inner is outer
                    entered += 1
        assert entered == 2


class NotifierContract:
    """What every notifier does; fixtures `notifier`, `transaction` (called for each) and `listen`."""

    async def test_those_who_watch_a_name_hear_of_it_and_no_others(
        self, notifier: Notifier, transaction: Any, listen: Listen
    ) -> None:
        with listen("watch", "a") as a, listen("watch", "b") as b, listen("watch", "c") as c:
            async with transaction():
                for name in ("b", "b", "a"):
                    await notifier.notify("watch", name)
            assert await a.wait(10)
            assert await b.wait(0), "what was said before was heard before"
            assert not await c.wait(0)
            assert not await b.wait(0), "two notifications before one look are one"


class ClockContract:
    """What every clock does; a fixture `clock`."""

    async def test_times_are_in_utc_and_do_not_go_back(self, clock: Clock) -> None:
        first, second = clock.now(), clock.now()
        assert first.utcoffset() == second.utcoffset() == timedelta(0)
        assert second >= first
