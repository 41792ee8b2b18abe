"""Use cases of sources before they are imported."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mainspring_data_ingest.application.files import Uploads
from mainspring_data_ingest.application.source_ports import Fetcher, Previewer
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.places import Place
from mainspring_data_ingest.domain.previews import Preview
from mainspring_svckit.values import ArtifactRef

DEFAULT_SHOWN = 5


class Sources:
    """Use cases of fetching a source, and of looking into one."""

    def __init__(self, previewer: Previewer, fetcher: Fetcher, uploads: Uploads) -> None:
        """Takes what looks and fetches, and what stores."""
        self._previewer, self._fetcher, self._uploads = previewer, fetcher, uploads

    async def fetch(self, project: str, place: Place) -> AsyncIterator[tuple[ArtifactRef, str]]:
        """Copies the files at a place to the store; gives each with its origin.

        Raises:
            MainspringError: As `Fetcher.files`.
            QuotaExceeded: A file is too large; nothing of it is kept.
            InsufficientStorage: The store is full; nothing of the file is kept.
        """
        async for file in self._fetcher.files(project, place):
            yield await self._uploads.store(project, file.name, file.chunks), file.origin

    async def preview(
        self,
        project: str,
        artifact: ArtifactRef,
        source_format: SourceFormat | None,
        columns: ColumnMapping | None,
        shown: int,
    ) -> Preview:
        """The beginning of a source.

        Raises:
            InvalidInput: It cannot be read; the reason says why.
            NotFound: The store does not hold it.
        """
        return await self._previewer.preview(project, artifact, source_format, columns, shown or DEFAULT_SHOWN)
