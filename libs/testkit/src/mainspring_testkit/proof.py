"""A signing key for tests, and whoever believes it."""

from __future__ import annotations

from pathlib import Path

from mainspring_proof import bundles, statements
from mainspring_proof.keys import TrustedKeys, create_key, open_signer


class SigningKey:
    """One installation's key, in a folder."""

    def __init__(self, folder: Path) -> None:
        """Makes the key."""
        folder.mkdir(parents=True, exist_ok=True)
        self.public_file = folder / "signing-keys.pem"
        self.url = f"file://{folder / 'signing-key.pem'}"
        self.public_file.write_text(create_key(folder / "signing-key.pem"))
        self.trusted = TrustedKeys.from_file(self.public_file)
        self.signer = open_signer(self.url, self.trusted)

    def version(self, manifest: bytes) -> bytes:
        """The signed manifest of a version."""
        return bundles.sign(statements.version_statement(manifest), self.signer)
