"""The registry's own settings."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import Field

from mainspring_svckit.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """What the registry needs beyond what every service needs."""

    modelfiles_python: str = Field(
        sys.executable,
        description="Interpreter of an environment with mainspring-modelfiles; for GGUF sources with its extra 'gguf'.",
    )
    import_roots: list[Path] = Field(
        default_factory=list[Path], description="Folders from which models may be imported."
    )
    scratch_dir: Path | None = Field(None, description="Folder for temporary files; the system's when unset.")
    import_timeout_s: float = Field(600.0, gt=0, le=86400, description="Longest import.")
