"""The gateway's own settings."""

from __future__ import annotations

from pydantic import Field, SecretStr

from mainspring_svckit.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """What the gateway needs beyond what every service needs; it has no database of its own."""

    http_host: str = Field("127.0.0.1", description="Address that the HTTP server binds.")
    http_port: int = Field(0, ge=0, le=65535, description="Port of the HTTP server; 0 takes a free one and logs it.")
    triton_url: str = Field(description="Triton's gRPC address: host:port.")
    embedder_address: str = Field(description="The embedder's gRPC address: host:port.")
    feedback_address: str = Field(description="The feedback service's gRPC address: host:port.")
    registry_address: str = Field(description="The registry's gRPC address: host:port.")
    inference_database_url: SecretStr = Field(
        description="Inference's Postgres, for the record of every answer: postgresql://user:password@host:port/database."
    )
    keep_content: bool = Field(True, description="Whether questions and answers are kept for feedback.")
