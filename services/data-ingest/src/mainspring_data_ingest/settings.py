"""Data-ingest's own settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mainspring_svckit.settings import ServiceSettings


class DataIngestSettings(ServiceSettings):
    """What data-ingest needs beyond what every service needs."""

    registry_address: str = Field(
        "", description="host:port of the registry, asked which models learned from what is erased; empty asks nobody."
    )
    embedder_address: str = Field(
        "", description="host:port of the embedder, for vectors of a model; without it only lexical ones are measured."
    )
    max_upload_bytes: int = Field(4 << 30, ge=1, description="Largest file that may be uploaded.")
    scratch_dir: Path | None = Field(None, description="Folder for temporary files; the system's when unset.")
    ingestion_workers: int = Field(1, ge=1, le=64, description="Ingestions that one replica does at a time.")
    work_lease_s: float = Field(
        30.0, ge=1, le=600, description="Silence after which a replica's ingestion goes to another one."
    )
