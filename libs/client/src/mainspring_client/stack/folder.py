"""The data folder: where the local stack keeps everything."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = "MAINSPRING_DATA"
LOG_KEPT_BYTES = 16 << 20


def default_root() -> Path:
    """`$MAINSPRING_DATA`, or `~/.mainspring`."""
    chosen = os.environ.get(ENVIRONMENT)
    return Path(chosen).expanduser() if chosen else Path.home() / ".mainspring"


@dataclass(frozen=True)
class DataFolder:
    """Names the places in one data folder; making them is `prepare`'s business.

    Attributes:
        root: The folder itself, absolute.
    """

    root: Path

    @classmethod
    def at(cls, root: Path | None = None) -> DataFolder:
        """The folder at `root`, or at its default place."""
        return cls((root or default_root()).expanduser().resolve())

    @property
    def state_file(self) -> Path:
        """What runs, where, and how it is; written by the supervisor, read by everybody else."""
        return self.root / "state.json"

    @property
    def lock_file(self) -> Path:
        """Held locked by the supervisor for as long as it lives."""
        return self.root / "lock"

    @property
    def logs(self) -> Path:
        """One log file for each process."""
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        """Passwords and tokens, readable to the owner only."""
        return self.root / "secrets"

    @property
    def issuer(self) -> Path:
        """The key that signs tokens, and `jwks.json` with its public half."""
        return self.root / "issuer"

    @property
    def jwks(self) -> Path:
        """Public keys against which services verify tokens."""
        return self.issuer / "jwks.json"

    @property
    def signing_key(self) -> Path:
        """Private key with which the registry signs manifests."""
        return self.secrets / "signing-key.pem"

    @property
    def signing_keys(self) -> Path:
        """Public keys whose signatures are believed, PEM after PEM; the first one signs."""
        return self.root / "signing-keys.pem"

    @property
    def admin_token(self) -> Path:
        """Token of the first person; the command line uses it by default."""
        return self.root / "admin-token"

    @property
    def subscriber_url(self) -> Path:
        """NATS URL, with its password, for programs that follow releases."""
        return self.root / "nats-subscriber-url"

    @property
    def artifacts(self) -> Path:
        """The artifact store."""
        return self.root / "artifacts"

    @property
    def models(self) -> Path:
        """Folder from which models may always be imported by path."""
        return self.root / "models"

    @property
    def repository(self) -> Path:
        """Triton's model repository, written by inference."""
        return self.root / "triton" / "repository"

    @property
    def model_cache(self) -> Path:
        """Model files that inference fetched from the artifact store, shared with Triton."""
        return self.root / "triton" / "files"

    def component(self, name: str) -> Path:
        """Folder of one process for its own files."""
        return self.root / name

    def log_of(self, name: str) -> Path:
        """Log file of one process."""
        return self.logs / f"{name}.log"

    def prepare(self) -> None:
        """Makes the folders. Others may pass through the root only where Postgres must run as somebody else."""
        mode = 0o711 if os.geteuid() == 0 else 0o700
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(mode)
        for private in (self.logs, self.secrets, self.issuer, self.artifacts, self.models):
            private.mkdir(mode=0o700, exist_ok=True)
            private.chmod(0o700)
        for shared in (self.repository, self.model_cache):
            shared.mkdir(parents=True, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.rename(path)


def rotate(path: Path) -> None:
    """Puts a log that has grown large aside, keeping one old one."""
    try:
        if path.stat().st_size > LOG_KEPT_BYTES:
            path.replace(path.with_name(path.name + ".1"))
    except FileNotFoundError:
        return
