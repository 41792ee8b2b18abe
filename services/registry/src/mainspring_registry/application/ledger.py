"""Writes what happened to a model into its history."""

from __future__ import annotations

from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.approvals import Actor
from mainspring_registry.domain.catalogue import Model
from mainspring_registry.domain.history import Chain, HistoryKind, next_entry
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import require

_PAGE = 500


class Ledger:
    """The histories of all models."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def write(self, model: Model, kind: HistoryKind, resource: str, actor: Actor, **details: str) -> Model:
        """Adds an entry for a locked model, and returns the model to be kept. Joins the ambient transaction."""
        if not model.history and model.active_release and resource != model.active_release:
            # The model is older than histories: the first entry says where it stood.
            model = await self._add(
                model, HistoryKind.RESTORED, model.active_release, actor, {"note": "active when the history began"}
            )
        return await self._add(model, kind, resource, actor, details)

    async def verify(self, name: str) -> Chain:
        """Reads a model's whole history and compares it with the model.

        Raises:
            NotFound: There is no such model.
        """
        chain = Chain()
        async with self._ports.transactions.transaction():
            model = (await require(self._ports.models, "Model", name, lock=True)).value
            after: str | None = ""
            while after is not None:
                listed = await self._ports.history.list(name, Page(_PAGE, after or None))
                chain.read(item.value for item in listed.items)
                after = listed.next_key
        chain.finish(model)
        return chain

    async def _add(
        self, model: Model, kind: HistoryKind, resource: str, actor: Actor, details: dict[str, str]
    ) -> Model:
        model, entry = next_entry(model, kind, resource, actor.subject, details, self._ports.clock.now())
        await self._ports.history.add(entry)
        return model
