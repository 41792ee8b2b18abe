"""Use case of an erasure beyond dataset versions: annotation queues, files that no version is made of, feedback.

What is removed is written down in the transaction that removes it; bytes go after that. So a worker that takes over
loses nothing of what is proved in the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mainspring_data_ingest.application.annotations import Items
from mainspring_data_ingest.application.deletions import every, needed_files
from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.application.version_ports import JudgedContent, ShardTools
from mainspring_data_ingest.domain.annotation import AnnotationQueue
from mainspring_data_ingest.domain.annotation_traces import holds_row, holds_text
from mainspring_data_ingest.domain.erasures import Erasure, ForgottenFeedback, Selector
from mainspring_data_ingest.domain.uploads import Upload
from mainspring_svckit.errors import NotFound, PreconditionFailed
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import Repository, require
from mainspring_svckit.values import ArtifactRef, folded


@dataclass(frozen=True)
class TracePorts:
    """Where else what is erased may be."""

    queues: Repository[AnnotationQueue]
    items: Items


class Traces:
    """Use case of finding and removing what dataset versions do not hold."""

    def __init__(self, ports: Ports, where: TracePorts, tools: ShardTools, feedback: JudgedContent | None) -> None:
        """Takes the ports, where to look, and what reads files; without `feedback` nobody is asked to forget."""
        self._ports, self._where, self._tools, self._feedback = ports, where, tools, feedback

    async def erase(self, name: str, project: str, selector: Selector, lease: Claim) -> None:
        """Does it. Safe to repeat.

        Raises:
            Unavailable: Feedback cannot be asked now.
        """
        if selector.text or selector.row_ids:
            async with lease.transaction():
                removed = await self.erase_items(project, selector)
                work = await self._held(name)
                await self._ports.erasures.put(work.with_queues(removed))
        await self._erase_uploads(name, project, selector, lease)
        if selector.text and self._feedback is not None:
            answers, items = await self._feedback.erase(project, selector.text)
            async with lease.transaction():
                work = await self._held(name)
                before = work.feedback or ForgottenFeedback(0, 0)
                forgotten = ForgottenFeedback(before.answers + answers, before.items + items)
                await self._ports.erasures.put(replace(work, feedback=forgotten))

    async def erase_items(self, project: str, selector: Selector) -> Mapping[str, int]:
        """Removes the items of queues that hold a text or rows; the numbers by queue. Joins the ambient transaction."""
        removed: Counter[str] = Counter()
        text, row_ids = folded(selector.text), frozenset(selector.row_ids)
        async for queue in every(self._where.queues, f"projects/{project}"):
            async for item in every(self._where.items, queue.name):
                if (text and holds_text(item, text)) or (row_ids and holds_row(item, queue, row_ids)):
                    await self._where.items.remove(item.name)
                    removed[queue.name] += 1
        return removed

    async def _erase_uploads(self, name: str, project: str, selector: Selector, lease: Claim) -> None:
        ports, unreadable = self._ports, set[str]()
        for file in await self._files(project):
            if selector.source_sha256:
                found = file.sha256 == selector.source_sha256 and await ports.files.exists(project, file)
            elif selector.text:
                found = await self._holds(project, file, selector.text)
            else:
                continue  # Rows are those of versions; a file without one has none.
            if found is None:
                unreadable.add(file.sha256)
            elif found:
                async with lease.transaction():
                    work = await self._held(name)
                    await ports.erasures.put(replace(work, uploads=tuple(dict.fromkeys((*work.uploads, file)))))
        async with lease.transaction():
            work = await self._held(name)
            await ports.erasures.put(replace(work, unreadable_uploads=tuple(sorted(unreadable))))
        for file in work.uploads:
            async with lease.transaction():
                await ports.uploads.remove(Upload(project, file, ports.clock.now()).name)
                await ports.files.discard(project, file)

    async def _files(self, project: str) -> list[ArtifactRef]:
        """Files that were brought, also before uploads were remembered, and that no readable version is made of."""
        ports, found = self._ports, dict[str, ArtifactRef]()
        async with ports.transactions.transaction():
            needed = await needed_files(ports, project)
            async for upload in every(ports.uploads, f"projects/{project}"):
                found[upload.artifact.sha256] = upload.artifact
            async for ingestion in every(ports.ingestions, f"projects/{project}"):
                found |= {s.artifact.sha256: s.artifact for s in ingestion.sources if s.artifact.sha256 not in found}
        return [file for digest, file in sorted(found.items()) if digest not in needed]

    async def _holds(self, project: str, file: ArtifactRef, text: str) -> bool | None:
        try:
            return await self._tools.holds(project, file, text)
        except NotFound:
            return False  # It is gone already.
        except PreconditionFailed:
            return None  # Its bytes are not those that its digest names.

    async def _held(self, name: str) -> Erasure:
        return (await require(self._ports.erasures, "Erasure", name, lock=True)).value
