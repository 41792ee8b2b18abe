"""Settings that every service has. A service subclasses `ServiceSettings` once, in its `settings.py`, and adds its own.

Values come from environment variables with the prefix `MAINSPRING_`; a variable ending in `_FILE` names a file that
holds the value, so secrets need not stand in the environment. Settings are read once, in `main.py`, and handed on as
plain values.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "MAINSPRING_"


class ServiceSettings(BaseSettings):
    """What every service needs to know of its surroundings."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    grpc_host: str = Field("127.0.0.1", description="Address that the gRPC server binds.")
    grpc_port: int = Field(0, ge=0, le=65535, description="Port of the gRPC server; 0 takes a free one and logs it.")
    ops_port: int = Field(0, ge=0, le=65535, description="Port of /metrics, /livez and /readyz; 0 takes a free one.")
    ports_file: Path | None = Field(None, description="File to write the bound ports to, as JSON, once they are bound.")
    database_url: SecretStr = Field(
        SecretStr(""), description="Postgres of this service: postgresql://user:password@host:port/database."
    )
    nats_url: SecretStr = Field(
        SecretStr(""), description="NATS servers, comma-separated: nats://user:password@host:port."
    )
    artifact_url: str = Field("", description="Artifact store: file:///path, s3://bucket/prefix, gs:// or az://.")
    auth_jwks: Path | None = Field(None, description="File with the public keys (JWKS) that sign callers' tokens.")
    auth_issuer: str = Field("mainspring-local", description="Issuer that tokens must name.")
    service_token: SecretStr = Field(SecretStr(""), description="Token with which this service calls the others.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Least severe level to log.")
    otlp_endpoint: str = Field("", description="OpenTelemetry collector (gRPC) for traces; empty switches tracing off.")
    reflection: bool = Field(True, description="Whether the gRPC server describes its services to callers.")
    migrate_on_start: bool = Field(False, description="Whether to bring the database up to date before serving.")
    default_deadline_s: float = Field(30.0, gt=0, le=3600, description="Time for a unary call that brings no deadline.")
    drain_delay_s: float = Field(0.0, ge=0, le=60, description="Wait between saying NOT_SERVING and refusing calls.")
    stop_grace_s: float = Field(10.0, gt=0, le=600, description="Time for calls and events in flight when stopping.")

    @classmethod
    def load(cls) -> Self:
        """Reads the environment.

        Raises:
            pydantic.ValidationError: A value is missing or out of bounds; the message names the variable.
        """
        from_files = {
            key.removeprefix(PREFIX).removesuffix("_FILE").lower(): Path(path).read_text().strip()
            for key, path in os.environ.items()
            if key.startswith(PREFIX) and key.endswith("_FILE") and key not in _NOT_SECRETS
        }
        return cls(**from_files)  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _stop_fits(self) -> Self:
        # Orchestrators kill after 30 s by default; everything we wait for must fit below that together.
        if self.drain_delay_s + self.stop_grace_s > 600:
            raise ValueError("drain_delay_s and stop_grace_s together must be at most 600 s")
        return self


_NOT_SECRETS = {f"{PREFIX}PORTS_FILE"}
