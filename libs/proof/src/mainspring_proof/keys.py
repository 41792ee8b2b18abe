"""Who signs, and whom to believe.

A signer is named by a URL: `file:///path/key.pem` is a private key on this machine (PEM, PKCS #8), everything else is
securesystemslib's: `awskms:`, `azurekms:`, `gcpkms:`, `hsm:` and `hv:` (HashiCorp Vault), each with the package of its
vendor beside it (extras of this distribution). Keys that are believed stand in one file, PEM after PEM; to change the
key, add the new one, let every reader start anew, and only then sign with it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import (  # The library's documented place for them.
    SIGNER_FOR_URI_SCHEME,  # pyright: ignore[reportPrivateImportUsage]
    CryptoSigner,  # pyright: ignore[reportPrivateImportUsage]
    SSlibKey,  # pyright: ignore[reportPrivateImportUsage]
)
from securesystemslib.signer import Signer as Signer  # pyright: ignore[reportPrivateImportUsage]

from mainspring_svckit.errors import InvalidInput

_LOCAL = "file://"
_GIVE_KEYS_OUT = ("awskms", "gcpkms")
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys whose signatures are believed; the first is the one that signs now."""

    keys: tuple[SSlibKey, ...]

    @classmethod
    def from_pem(cls, text: str) -> Self:
        """Reads one PEM after the other.

        Raises:
            InvalidInput: KEYS_INVALID, there is none, or one is no public key of a kind that signs.
        """
        try:
            keys = tuple(_public(pem) for pem in _PEM.findall(text))
        except (ValueError, UnsupportedAlgorithm) as err:
            raise InvalidInput(f"a trusted key cannot be read: {err}", reason="KEYS_INVALID") from err
        if not keys:
            raise InvalidInput("there is no public key (PEM) to verify signatures with", reason="KEYS_INVALID")
        return cls(keys)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Reads a file.

        Raises:
            InvalidInput: KEYS_INVALID, it cannot be read or holds no keys.
        """
        try:
            return cls.from_pem(path.read_text(encoding="ascii"))
        except (OSError, UnicodeError) as err:
            raise InvalidInput(f"trusted keys cannot be read from {path}: {err}", reason="KEYS_INVALID") from err


def create_key(path: Path) -> str:
    """The public half (PEM) of the private key at `path`; an ECDSA P-256 key is made, readable only to this user, when
    there is none.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _pem(_private(path).public_key()).decode()
    made = ec.generate_private_key(ec.SECP256R1())
    with os.fdopen(descriptor, "wb") as file:
        file.write(
            made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return _pem(made.public_key()).decode()


def open_signer(url: str, trusted: TrustedKeys) -> Signer:
    """The signer at a URL; what it signs is believed by whoever holds `trusted`.

    Raises:
        InvalidInput: SIGNER_INVALID, there is no such key, a package for it is missing, or it is not trusted. A key
            management service is not asked yet: it may be away when a service starts.
    """
    try:
        if url.startswith(_LOCAL):
            private = _private(Path(url.removeprefix(_LOCAL)))
            public = _known(_pem(private.public_key()), trusted.keys)
            return CryptoSigner(private, public)
        return Signer.from_priv_key_uri(url, trusted.keys[0])
    except Exception as err:  # Each vendor's library has errors of its own, such as for a region that nobody named.
        scheme = url.partition(":")[0]
        raise InvalidInput(f"the signing key ({scheme}) cannot be used: {err}", reason="SIGNER_INVALID") from err


def public_key(url: str) -> str:
    """The public half (PEM) of the key at a URL, as its key management service gives it out.

    Raises:
        InvalidInput: SIGNER_INVALID, it cannot be asked, or keys of that kind are given out by other tools.
    """
    scheme, _, name = url.partition(":")
    try:
        if url.startswith(_LOCAL):
            return _pem(_private(Path(url.removeprefix(_LOCAL))).public_key()).decode()
        if scheme not in _GIVE_KEYS_OUT:
            raise ValueError(f"ask the tools of your vendor for the public key; this asks {', '.join(_GIVE_KEYS_OUT)}")
        asked: Any = SIGNER_FOR_URI_SCHEME[scheme]
        pem = str(asked.import_(name)[1].keyval["public"])
        TrustedKeys.from_pem(pem)  # Only what services would believe is given out.
        return pem
    except Exception as err:  # As in `open_signer`.
        raise InvalidInput(f"the signing key ({scheme}) cannot be read: {err}", reason="SIGNER_INVALID") from err


def _known(pem: bytes, keys: Sequence[SSlibKey]) -> SSlibKey:
    wanted = hashlib.sha256(pem).hexdigest()
    for key in keys:
        if key.keyid == wanted:
            return key
    raise ValueError("its public half is not among the trusted keys; add it there first")


def _public(pem: str) -> SSlibKey:
    """A key whose id is the SHA-256 of its PEM, which is the hint that model-signing looks for."""
    key = serialization.load_pem_public_key(pem.encode())
    return SSlibKey.from_crypto(key, keyid=hashlib.sha256(_pem(key)).hexdigest())  # type: ignore[arg-type]


def _private(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} is no elliptic curve key (P-256, P-384 or P-521)")
    return key


def _pem(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
