"""Use cases of lineage: what was made from what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.ports import DataCatalogue, Ports
from mainspring_registry.domain.data import DatasetFacts, RowsWish, Search, ShownData, Sought
from mainspring_registry.domain.lineage import (
    DEFAULT_HOPS,
    MAX_HOPS,
    MAX_NODES,
    Direction,
    Walk,
    edges_of_answer,
    edges_of_dataset,
)
from mainspring_svckit.errors import InvalidInput, MainspringError, NotFound, PreconditionFailed, failure_of
from mainspring_svckit.names import AnswerName, DatasetVersionName, ModelAliasName, project_of

SHOWN_VERSIONS = 3
"""Dataset versions of which a walk shows rows at once: their pages fit into one answer."""
_NOWHERE = "the registry does not know where data-ingest is; set data_ingest_address"


@dataclass(frozen=True)
class Trace:
    """Where something is, and everything that saw it."""

    search: Search
    walk: Walk


class Lineages:
    """Walks the graph, and adds what only events tell; the rest is added where versions and releases are made."""

    def __init__(self, ports: Ports, catalogue: Catalogue, data: DataCatalogue | None = None) -> None:
        """Takes the ports and whom to ask for rows; without `data` walks end at what events told."""
        self._ports, self._catalogue, self._data = ports, catalogue, data

    async def walk(self, name: str, direction: Direction, max_hops: int) -> Walk:
        """Everything that a resource was made from, or that was made from it.

        Where the graph does not know what data was read from, since it is older than the events that tell, data-ingest
        is asked, and the answer kept.

        Args:
            name: Where the walk begins; a model's alias stands for its version.
            direction: Where it goes.
            max_hops: Most edges to any node; 0 is the default.

        Raises:
            NotFound: The registry has not heard of the resource, or the alias points nowhere.
        """
        if ModelAliasName.matches(name):
            name = (await self._catalogue.version(name)).name
        hops = min(max_hops or DEFAULT_HOPS, MAX_HOPS)
        found, known = await self._walk([name], direction, hops)
        unread = found.of_unknown_origin(hops) if direction is Direction.UPSTREAM else ()
        if unread and await self._learn(unread[:SHOWN_VERSIONS]):
            found, known = await self._walk([name], direction, hops)
        if not known:
            raise NotFound("Lineage", name)
        return found

    async def show(self, walk: Walk, wish: RowsWish) -> list[ShownData]:
        """Sources and rows of the data on a walk. What data-ingest cannot say now is marked, and the walk stands.

        Raises:
            InvalidInput: The page token is not of this dataset version, or that is not on the walk.
        """
        learned = walk.learned_from()
        if wish.page_token and not wish.dataset_version:
            raise InvalidInput("rows.page_token goes with rows.dataset_version", reason="DATASET_VERSION_MISSING")
        if wish.dataset_version and wish.dataset_version not in learned:
            message = f"nothing on this walk learned from {wish.dataset_version}"
            raise InvalidInput(message, reason="DATA_NOT_ON_THE_WALK")
        versions = [wish.dataset_version] if wish.dataset_version else learned[:SHOWN_VERSIONS]
        return await asyncio.gather(*(self._show(version, wish) for version in versions))

    async def trace(self, project: str, sought: Sought) -> AsyncGenerator[Search | Trace]:
        """Looks for something in all data of a project and walks on from there; the search as it goes on, at last the
        trace.

        Raises:
            InvalidInput: The text would be found everywhere.
            PreconditionFailed: DATA_INGEST_UNKNOWN; or the search failed, for its own reason.
            Unavailable: Data-ingest cannot be asked now.
        """
        if self._data is None:
            raise PreconditionFailed("DATA_INGEST_UNKNOWN", _NOWHERE)
        async with aclosing(self._data.search(project, sought)) as states:
            async for search in states:
                if not search.ended:
                    yield search
                    continue
                names = [version.version for version in search.versions if version.taught]
                walk = Walk((), (), truncated=False)
                if names:
                    walk, _ = await self._walk(names, Direction.DOWNSTREAM, DEFAULT_HOPS)
                yield Trace(search, walk)

    async def answered(self, project: str, answer: str, model_version: str, release: str) -> None:
        """Hears of an answer.

        Raises:
            InvalidInput: Names of different projects.
        """
        AnswerName.parse(answer, "answer")
        _one_project(project, answer, model_version, release)
        async with self._ports.transactions.transaction():
            await self._ports.lineage.add(edges_of_answer(answer, model_version, release))

    async def published(self, project: str, facts: DatasetFacts, *, whole: bool = True) -> None:
        """Hears of a dataset version. Where its sources are not `whole`, since there are more than were told,
        data-ingest is asked for all; where nobody knows them they are left out, so that the next walk asks.

        Raises:
            InvalidInput: Names of different projects.
            Unavailable: Data-ingest cannot be asked now.
        """
        DatasetVersionName.parse(facts.version, "dataset_version")
        _one_project(project, facts.version, facts.ingestion, facts.recipe, facts.recipe_version, facts.supersedes)
        if not whole:
            facts = await self._all_of(facts)
        async with self._ports.transactions.transaction():
            await self._ports.lineage.add(edges_of_dataset(facts))

    async def _all_of(self, facts: DatasetFacts) -> DatasetFacts:
        if self._data is not None:
            try:
                return await self._data.facts(facts.version)
            except NotFound:
                pass  # It is gone again.
        return DatasetFacts(facts.version, "", "", (), facts.supersedes)

    async def _walk(self, names: Sequence[str], direction: Direction, hops: int) -> tuple[Walk, bool]:
        """A walk, and whether the graph knows anything of where it began."""
        graph = self._ports.lineage
        async with self._ports.transactions.transaction():
            found = await graph.walk(names, direction, max_hops=hops, max_nodes=MAX_NODES)
            return found, len(found.nodes) > len(names) or await graph.knows(names[0])

    async def _learn(self, versions: Sequence[str]) -> bool:
        """Asks how dataset versions came to be, and keeps it; whether anything came of it."""
        if self._data is None:
            return False
        asked = await asyncio.gather(*map(self._data.facts, versions), return_exceptions=True)
        learned: list[DatasetFacts] = []
        for told in asked:
            if isinstance(told, DatasetFacts):
                learned.append(told)
            elif not isinstance(told, MainspringError):
                raise told
            # Whom data-ingest does not tell of now is asked for again by the next walk.
        async with self._ports.transactions.transaction():
            for facts in learned:
                await self._ports.lineage.add(edges_of_dataset(facts))
        return bool(learned)

    async def _show(self, version: str, wish: RowsWish) -> ShownData:
        shown = ShownData(version)
        if self._data is None:
            return replace(shown, error_reason="DATA_INGEST_UNKNOWN", error_message=_NOWHERE)
        try:
            shown = replace(shown, sources=(await self._data.facts(version)).sources)
            rows, token = await self._data.rows(version, wish.page_size, wish.page_token)
        except InvalidInput:
            raise
        except MainspringError as err:
            reason, message = failure_of(err)
            return replace(shown, error_reason=reason, error_message=message)
        return replace(shown, rows=tuple(rows), next_page_token=token)


def _one_project(project: str, *names: str) -> None:
    if {project_of(name) for name in names if name} != {project}:
        message = f"{', '.join(name for name in names if name)} are not all of project {project!r}"
        raise InvalidInput(message, reason="PROJECTS_MIXED")
