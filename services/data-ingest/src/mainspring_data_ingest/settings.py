"""Data-ingest's own settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from mainspring_svckit.settings import ServiceSettings


class DataIngestSettings(ServiceSettings):
    """What data-ingest needs beyond what every service needs."""

    registry_address: str = Field(
        "", description="host:port of the registry, asked for tokenizers and who learned from what is erased; or empty."
    )
    evaluation_address: str = Field(
        "", description="host:port of the evaluator, asked what suites ask that recipes keep out; empty asks nobody."
    )
    embedder_address: str = Field(
        "",
        description="host:port of the embedder; without it only lexical vectors, no balance by clusters.",
    )
    max_upload_bytes: int = Field(4 << 30, ge=1, description="Largest file that may be uploaded.")
    scratch_dir: Path | None = Field(None, description="Folder for temporary files; the system's when unset.")
    source_connections: SecretStr = Field(
        SecretStr(""),
        description="What sources may be fetched from, as JSON: object stores, databases, hosts. Nothing when unset.",
    )
    fetch_timeout_s: float = Field(600.0, gt=0, le=86400, description="Longest time to fetch one file.")
    ingestion_workers: int = Field(1, ge=1, le=64, description="Ingestions that one replica does at a time.")
    work_lease_s: float = Field(
        30.0, ge=1, le=600, description="Silence after which a replica's ingestion goes to another one."
    )
