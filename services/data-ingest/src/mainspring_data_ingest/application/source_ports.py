"""What use cases of sources need from outside, beyond `Ports`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.places import Place
from mainspring_data_ingest.domain.previews import Preview
from mainspring_svckit.values import ArtifactRef


class Previewer(Protocol):
    """Reads the beginning of a source, in a process of its own."""

    async def preview(
        self,
        project: str,
        artifact: ArtifactRef,
        source_format: SourceFormat | None,
        columns: ColumnMapping | None,
        shown: int,
    ) -> Preview:
        """What the source would give.

        Args:
            project: Whose source.
            artifact: Its bytes.
            source_format: How to read it; None to recognise it.
            columns: Where the text is; None to go by the shape.
            shown: Records to return.

        Raises:
            InvalidInput: It cannot be read; the reason says why.
            NotFound: The store does not hold it.
            InsufficientStorage: The disk is full.
            Unavailable: It could not be done now.
        """
        ...


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere.

    Attributes:
        name: What it is called there.
        origin: Where it is, without what could be secret.
        chunks: Its bytes; raises when the file cannot be read to its end, or changes meanwhile.
    """

    name: str
    origin: str
    chunks: AsyncIterator[bytes]


class Fetcher(Protocol):
    """Reaches places outside, as far as the settings allow it."""

    def files(self, project: str, place: Place) -> AsyncIterator[RemoteFile]:
        """The files at a place, one after another.

        Raises:
            InvalidInput: SOURCE_NOT_ALLOWED, or the place makes no sense; the reason says why.
            PreconditionFailed: SOURCE_CHANGED, SOURCE_REFUSED.
            Unavailable: It could not be reached now.
        """
        ...
