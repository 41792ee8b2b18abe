"""The embedder's own settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mainspring_svckit.settings import ServiceSettings


class EmbedderSettings(ServiceSettings):
    """What the embedder needs beyond what every service needs."""

    registry_address: str = Field(description="host:port of the registry.")
    inference_address: str = Field(description="host:port of inference.")
    triton_url: str = Field(description="Triton's gRPC address: host:port.")
    builds_at_a_time: int = Field(1, ge=1, le=64, description="Builds that one replica works on at a time.")
    build_attempts: int = Field(5, ge=1, le=100, description="Tries for a build before it fails.")
    embed_batch: int = Field(32, ge=1, le=256, description="Chunks that a build embeds at a time.")
    embed_tries: int = Field(6, ge=1, le=20, description="Tries for one batch before the build is put off.")
    embed_retry_wait_s: float = Field(
        0.5, gt=0, le=60, description="Wait before the second try for a batch; doubled for each further one."
    )
    load_timeout_s: float = Field(600.0, gt=0, le=7200, description="Longest wait for a model to be loaded.")
    index_timeout_s: float = Field(3600.0, gt=0, le=86400, description="Longest making of a vector index in Postgres.")
    drop_delay_s: float = Field(60.0, ge=0, le=3600, description="Wait before an index that was replaced is removed.")
    exact_up_to: int = Field(
        2_000, ge=0, le=1_000_000, description="Chunks up to which a collection is searched without a vector index."
    )
    lease_s: float = Field(30.0, gt=0, le=600, description="A replica that is silent for so long has lost its build.")
    scratch_dir: Path | None = Field(None, description="Folder for temporary files; the system's when unset.")
