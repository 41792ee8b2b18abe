"""Get and List, the same for every service; used by servicers."""

from __future__ import annotations

from typing import Any, TypeVar

from mainspring_svckit.pagination import Page, next_page_token
from mainspring_svckit.ports import Transactions
from mainspring_svckit.repository import Entity, Listed, Repository, Stored, require

E = TypeVar("E", bound=Entity)


class Reader:
    """Reads entities, each call in a transaction of its own."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def get(self, repository: Repository[E], kind: str, name: str) -> Stored[E]:
        """One entity.

        Raises:
            NotFound: There is none of that name.
        """
        async with self._transactions.transaction():
            return await require(repository, kind, name)

    async def list(self, repository: Repository[E], request: Any) -> tuple[Listed[E], str]:
        """One page for a List request (`parent`, `page_size`, `page_token`), and the token of the next.

        Raises:
            InvalidInput: The token is not one of this list.
        """
        page = Page.of(request.page_size, request.page_token, request.parent)
        async with self._transactions.transaction():
            listed = await repository.list(request.parent, page)
        return listed, next_page_token(listed.next_key, request.parent)
