"""Data-ingest's own settings."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

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
    feedback_address: str = Field(
        "", description="host:port of feedback, whose judged answers can be imported and are erased; empty asks nobody."
    )
    max_upload_bytes: int = Field(4 << 30, ge=1, description="Largest file that may be uploaded.")
    scratch_dir: Path | None = Field(None, description="Folder for temporary files; the system's when unset.")
    source_connections: SecretStr = Field(
        SecretStr(""),
        description="What sources may be fetched from, as JSON: object stores, databases, hosts. Nothing when unset.",
    )
    engine: Literal["native", "ray"] = Field(
        "native", description="Who refines: processes of this machine, or tasks of the Ray cluster at ray_address."
    )
    ray_address: str = Field(
        "",
        pattern=r"^((ray://)?[^/\s]+:\d+)?$",
        description="Ray cluster: ray://host:port of its client port, or host:port where this machine is part of it.",
    )
    process_memory_bytes: int = Field(
        8 << 30, ge=0, description="Memory that each process may take that reads and refines sources; 0 for any."
    )
    fetch_timeout_s: float = Field(600.0, gt=0, le=86400, description="Longest time to fetch one file.")
    ingestion_workers: int = Field(1, ge=1, le=64, description="Ingestions that one replica does at a time.")
    work_lease_s: float = Field(
        30.0, ge=1, le=600, description="Silence after which a replica's ingestion goes to another one."
    )

    @model_validator(mode="after")
    def _engine_is_there(self) -> Self:
        if self.engine == "ray" and not self.ray_address:
            raise ValueError("engine ray needs MAINSPRING_RAY_ADDRESS")
        if self.engine == "ray" and find_spec("ray") is None:
            raise ValueError("engine ray needs Ray: pip install 'mainspring-data-ingest[ray]'")
        return self
