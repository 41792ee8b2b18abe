"""The services behind the door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Embedded:
    """Vectors of length 1, one per text, with the model that made them and the tokens read."""

    vectors: Sequence[Sequence[float]]
    model_version: str
    tokens: int


class Embeddings(Protocol):
    """The embedder."""

    async def embed(self, project: str, model: str, texts: Sequence[str]) -> Embedded:
        """Turns texts into vectors.

        Raises:
            MainspringError: As the embedder says.
        """
        ...


@dataclass(frozen=True)
class Judgement:
    """What somebody says of an answer; exactly one of the values is set."""

    answer: str
    thumb: bool | None = None
    score: float | None = None
    correction: str | None = None
    rejected_answer: str | None = None
    comment: str = ""


class Feedback(Protocol):
    """The feedback service."""

    async def send(self, project: str, judgement: Judgement, *, request_id: str, authorization: str) -> str:
        """Records a judgement in the caller's own name; returns the item's name.

        Raises:
            MainspringError: As the feedback service says.
        """
        ...


class Webhooks(Protocol):
    """The registry's webhook service, asked in the caller's own name; endpoints and deliveries as JSON objects."""

    async def create(
        self, project: str, endpoint: str, url: str, event_types: Sequence[str], *, request_id: str, authorization: str
    ) -> Mapping[str, Any]:
        """Makes an endpoint; the object holds its secret.

        Raises:
            MainspringError: As the registry says; so do the others.
        """
        ...

    async def list(self, project: str, *, after: str, limit: int, authorization: str) -> Mapping[str, Any]:
        """Endpoints by name: `webhook_endpoints`, and `next_page_token` when there are more."""
        ...

    async def get(self, project: str, endpoint: str, *, authorization: str) -> Mapping[str, Any]:
        """An endpoint."""
        ...

    async def update(
        self,
        project: str,
        endpoint: str,
        url: str,
        event_types: Sequence[str],
        *,
        disabled: bool,
        request_id: str,
        authorization: str,
    ) -> Mapping[str, Any]:
        """Changes it as a whole; the object holds a new secret when the URL is another one."""
        ...

    async def rotate(self, project: str, endpoint: str, *, request_id: str, authorization: str) -> Mapping[str, Any]:
        """Gives it a new secret, which the object holds."""
        ...

    async def delete(self, project: str, endpoint: str, *, request_id: str, authorization: str) -> None:
        """Removes it."""
        ...

    async def deliveries(
        self, project: str, endpoint: str, *, after: str, limit: int, authorization: str
    ) -> Mapping[str, Any]:
        """Its deliveries, newest first: `webhook_deliveries`, and `next_page_token` when there are more."""
        ...

    async def replay(
        self, project: str, endpoint: str, delivery: str, *, request_id: str, authorization: str
    ) -> Mapping[str, Any]:
        """Sends a dead letter again."""
        ...
