"""Use cases of lineage: what was made from what."""

from __future__ import annotations

from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.lineage import DEFAULT_HOPS, MAX_HOPS, MAX_NODES, Direction, Walk, edges_of_answer
from mainspring_svckit.errors import InvalidInput, NotFound
from mainspring_svckit.names import AnswerName, ModelAliasName, project_of


class Lineages:
    """Walks the graph, and adds what only events tell; the rest is added where versions and releases are made."""

    def __init__(self, ports: Ports, catalogue: Catalogue) -> None:
        self._ports, self._catalogue = ports, catalogue

    async def walk(self, name: str, direction: Direction, max_hops: int) -> Walk:
        """Everything that a resource was made from, or that was made from it.

        Args:
            name: Where the walk begins; a model's alias stands for its version.
            direction: Where it goes.
            max_hops: Most edges to any node; 0 is the default.

        Raises:
            NotFound: The registry has not heard of the resource, or the alias points nowhere.
        """
        async with self._ports.transactions.transaction():
            if ModelAliasName.matches(name):
                name = (await self._catalogue.version(name)).name
            hops = min(max_hops or DEFAULT_HOPS, MAX_HOPS)
            found = await self._ports.lineage.walk(name, direction, max_hops=hops, max_nodes=MAX_NODES)
            if len(found.nodes) == 1 and not await self._ports.lineage.knows(name):
                raise NotFound("Lineage", name)
            return found

    async def answered(self, project: str, answer: str, model_version: str, release: str) -> None:
        """Hears of an answer.

        Raises:
            InvalidInput: Names of different projects.
        """
        AnswerName.parse(answer, "answer")
        if {project_of(name) for name in (answer, model_version, release) if name} != {project}:
            message = f"{answer}, {model_version} and {release} are not all of project {project!r}"
            raise InvalidInput(message, reason="PROJECTS_MIXED")
        async with self._ports.transactions.transaction():
            await self._ports.lineage.add(edges_of_answer(answer, model_version, release))
