"""The console's own settings."""

from __future__ import annotations

from pydantic import Field

from mainspring_svckit.settings import ServiceSettings


class ConsoleSettings(ServiceSettings):
    """What the console needs beyond what every service needs; it has no database of its own."""

    http_host: str = Field("127.0.0.1", description="Address that the HTTP server binds.")
    http_port: int = Field(0, ge=0, le=65535, description="Port of the HTTP server; 0 takes a free one and logs it.")
    secure_cookies: bool = Field(False, description="Whether cookies are for HTTPS only; set it behind TLS.")
    data_ingest_address: str = Field(description="data-ingest's gRPC address: host:port.")
    training_address: str = Field(description="The trainer's gRPC address: host:port.")
    evaluation_address: str = Field(description="The evaluator's gRPC address: host:port.")
    registry_address: str = Field(description="The registry's gRPC address: host:port.")
    embedder_address: str = Field(description="The embedder's gRPC address: host:port.")
    inference_address: str = Field(description="Inference's gRPC address: host:port.")
    feedback_address: str = Field(description="The feedback service's gRPC address: host:port.")
