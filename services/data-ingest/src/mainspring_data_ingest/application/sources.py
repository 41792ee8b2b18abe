"""Use cases of sources before they are imported."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator

from mainspring_data_ingest.application.ports import FileStore
from mainspring_data_ingest.application.source_ports import Fetcher, Previewer
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.places import Place
from mainspring_data_ingest.domain.previews import Preview
from mainspring_svckit.values import ArtifactRef

DEFAULT_SHOWN = 5


class Sources:
    """Use cases of fetching a source, and of looking into one."""

    def __init__(self, previewer: Previewer, fetcher: Fetcher, files: FileStore, max_bytes: int) -> None:
        """Takes what looks and fetches, the store, and the largest file that may come in."""
        self._previewer, self._fetcher, self._files, self._max_bytes = previewer, fetcher, files, max_bytes

    async def fetch(self, project: str, place: Place) -> AsyncIterator[tuple[ArtifactRef, str]]:
        """Copies the files at a place to the store; gives each with its origin.

        Raises:
            MainspringError: As `Fetcher.files`.
            QuotaExceeded: A file is too large; nothing of it is kept.
            InsufficientStorage: The store is full; nothing of the file is kept.
        """
        async for file in self._fetcher.files(project, place):
            media_type = mimetypes.guess_type(file.name)[0] or ""
            stored = await self._files.put_stream(
                project, file.chunks, max_bytes=self._max_bytes, media_type=media_type, filename=file.name
            )
            yield stored, file.origin

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
