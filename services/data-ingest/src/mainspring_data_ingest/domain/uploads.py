"""Files that no version is made of yet, and maybe never."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mainspring_svckit.values import ArtifactRef


@dataclass(frozen=True)
class Upload:
    """A file that was uploaded or fetched, or that an ingestion wrote, remembered so that erasures reach it also when
    no version is made of it.
    """

    project: str
    artifact: ArtifactRef
    create_time: datetime

    @property
    def name(self) -> str:
        """Identifies it; not a resource of the contracts."""
        return f"projects/{self.project}/uploads/{self.artifact.sha256}"
