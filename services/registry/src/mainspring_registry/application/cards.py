"""Use case of model cards."""

from __future__ import annotations

from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.cards import CardFacts, write_card
from mainspring_registry.domain.policies import ServingUnit
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import require


class Cards:
    """Gathers what a card says."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def write(self, name: str) -> str:
        """The card of a version.

        Raises:
            NotFound: There is no such version.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            version = (await require(ports.versions, "ModelVersion", name)).value
            model = (await require(ports.models, "Model", version.model)).value
            base = await ports.versions.get(version.base_model_version) if version.base_model_version else None
            decisions = (await ports.decisions.list(model.name, Page(500, None))).items
            active = await ports.releases.get(model.active_release) if model.active_release else None
            serves = active is not None and active.value.model_version == name
            return write_card(
                CardFacts(
                    model=model,
                    version=version,
                    base=base.value if base is not None else None,
                    decisions=[item.value for item in decisions if item.value.model_version == name],
                    release=model.active_release if serves else "",
                    unit=active.value.unit if active is not None and serves else ServingUnit(),
                )
            )
