"""The port through which use cases keep their entities. Pure; `mainspring_svckit.documents` implements it on Postgres.

Entities are frozen dataclasses of the standard library with a `name`. All methods join the ambient transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from mainspring_svckit.errors import NotFound
from mainspring_svckit.pagination import Page


class Entity(Protocol):
    """Anything that has a resource name."""

    @property
    def name(self) -> str:
        """The resource name; identifies it."""
        ...


E = TypeVar("E", bound=Entity)


@dataclass(frozen=True)
class Stored(Generic[E]):
    """An entity as it is stored.

    Attributes:
        value: The entity.
        etag: Changes with every write.
        update_time: When it was last written.
    """

    value: E
    etag: str
    update_time: datetime


@dataclass(frozen=True)
class Listed(Generic[E]):
    """One page of a list.

    Attributes:
        items: The entities in the repository's order.
        next_key: What the next page begins after; None at the end.
    """

    items: Sequence[Stored[E]]
    next_key: str | None


class Repository(Protocol[E]):
    """All entities of one kind."""

    async def get(self, name: str, *, lock: bool = False) -> Stored[E] | None:
        """The entity of that name, or None; `lock` keeps others from changing it until the transaction ends."""
        ...

    async def add(self, value: E) -> Stored[E]:
        """Keeps a new entity.

        Raises:
            AlreadyExists: One of that name is there.
        """
        ...

    async def put(self, value: E, *, etag: str = "") -> Stored[E]:
        """Keeps an entity, new or changed.

        Raises:
            EtagMismatch: `etag` is given and is not that of the stored entity, or none is stored.
        """
        ...

    async def remove(self, name: str) -> None:
        """Forgets an entity; one that is not there is fine."""
        ...

    async def all(self) -> Sequence[E]:
        """Every entity; only for kinds of which there are few."""
        ...

    async def list(self, parent: str, page: Page) -> Listed[E]:
        """The entities of a parent, a page at a time."""
        ...

    async def find(self, field: str, value: str) -> Sequence[E]:
        """All entities whose `field` (a string of the entity itself) is `value`, in the repository's order."""
        ...


async def require(repository: Repository[E], kind: str, name: str, *, lock: bool = False) -> Stored[E]:
    """The entity of that name.

    Raises:
        NotFound: There is none; `kind` names what is missing, for example `ModelVersion`.
    """
    found = await repository.get(name, lock=lock)
    if found is None:
        raise NotFound(kind, name)
    return found
