"""Use cases of sources before they are imported."""

from __future__ import annotations

from mainspring_data_ingest.application.source_ports import Previewer
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.previews import Preview
from mainspring_svckit.values import ArtifactRef

DEFAULT_SHOWN = 5


class Sources:
    """Use case of looking into a source."""

    def __init__(self, previewer: Previewer) -> None:
        self._previewer = previewer

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
