"""The registry's own settings."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import Field

from mainspring_registry.application.webhooks import RETRY_DELAYS_S
from mainspring_svckit.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """What the registry needs beyond what every service needs."""

    modelfiles_python: str = Field(
        sys.executable,
        description="Interpreter of an environment with mainspring-modelfiles; for GGUF sources with its extra 'gguf',"
        " for quantizations with 'quantize' and, for those of GPUs, 'pack'.",
    )
    data_ingest_address: str = Field(
        "", description="host:port of data-ingest, asked for the rows at the beginning of a lineage; empty asks nobody."
    )
    import_roots: list[Path] = Field(
        default_factory=list[Path], description="Folders from which models may be imported."
    )
    signing_key_url: str = Field(
        description="Key that signs manifests: file:///path of a PEM, or awskms:, azurekms:, gcpkms:, hsm: or hv: as"
        " securesystemslib names them."
    )
    signing_keys: Path = Field(description="File with the public keys (PEM) that are trusted; the first one signs.")
    scratch_dir: Path | None = Field(None, description="Folder for temporary files; the system's when unset.")
    import_timeout_s: float = Field(600.0, gt=0, le=86400, description="Longest import.")
    file_comparison_wait_s: float = Field(
        5.0,
        ge=0,
        le=10,  # It waits within its transaction, which the database ends after 20 s of standstill.
        description="How long a decision waits until large files are compared with their digests; what was not read by"
        " then counts by its size, and is read on for the next decision.",
    )
    quantization_timeout_s: float = Field(3600.0, gt=0, le=86400, description="Longest quantization.")
    merge_timeout_s: float = Field(3600.0, gt=0, le=86400, description="Longest merge of adapters.")
    webhooks_to_private_addresses: bool = Field(
        False,
        description="Whether webhooks may go to http:// and to addresses that are not public.",
    )
    webhook_retry_delays_s: list[float] = Field(
        list(RETRY_DELAYS_S),
        description="Seconds until each further attempt at a webhook; after the last it is a dead letter.",
    )
