"""Who calls, and what they may do.

Callers carry a signed token (JWT, EdDSA, ES256 or RS256) with the claims `sub`, `projects` and `roles`. A token is good
for the projects that it names, `*` for all. What an RPC needs stands in the contracts (`required_role`); an RPC that
declares none is refused to everybody.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from mainspring_svckit.errors import PermissionDenied, Unauthenticated
from mainspring_svckit.ids import new_id

AUDIENCE = "mainspring"
_ALGORITHMS = ["EdDSA", "ES256", "RS256"]
_SKEW_S = 60
_REMEMBERED_TOKENS = 1024
_IMPLIED = {
    "viewer": {"viewer"},
    "annotator": {"annotator"},
    "contributor": {"contributor", "annotator", "viewer"},
    "releaser": {"releaser", "viewer"},
    "admin": {"admin", "releaser", "contributor", "annotator", "viewer"},
    "service": {"service", "admin", "releaser", "contributor", "annotator", "viewer"},
}
ROLES = tuple(_IMPLIED)


@dataclass(frozen=True)
class Principal:
    """A caller whose token was verified."""

    subject: str
    projects: frozenset[str]
    roles: frozenset[str]

    def may_see(self, project: str) -> bool:
        """Whether the token names the project."""
        return "*" in self.projects or project in self.projects

    def require(self, role: str) -> None:
        """Raises `PermissionDenied` unless one of the caller's roles includes `role`."""
        if not any(role in _IMPLIED[held] for held in self.roles):
            raise PermissionDenied(role)


current_principal: ContextVar[Principal] = ContextVar("current_principal")


class TokenVerifier:
    """Verifies tokens against the public keys of one issuer."""

    def __init__(self, jwks: str, issuer: str) -> None:
        """Takes the keys as a JWKS document (RFC 7517)."""
        self._keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(json.loads(jwks)).keys}
        self._issuer = issuer
        # Callers show the same token with every call; only its end has to be looked at again.
        self._remembered = lru_cache(_REMEMBERED_TOKENS)(self._decoded)

    @classmethod
    def from_file(cls, path: Path, issuer: str) -> TokenVerifier:
        """Reads the keys from a file."""
        return cls(path.read_text(), issuer)

    def verify(self, token: str) -> Principal:
        """The caller that the token names.

        Raises:
            Unauthenticated: The token is malformed, expired, signed by an unknown key, or for somebody else.
        """
        principal, ends = self._remembered(token)
        if ends <= time.time() - _SKEW_S:
            raise _expired()
        return principal

    def _decoded(self, token: str) -> tuple[Principal, float]:
        """The caller, and when the token ends in seconds of Unix time."""
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get(header.get("kid"))
            if key is None:
                raise Unauthenticated("the token is signed by a key that this installation does not know")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                audience=AUDIENCE,
                issuer=self._issuer,
                leeway=_SKEW_S,
                options={"require": ["exp", "iat", "sub", "aud", "iss"]},
            )
        except jwt.ExpiredSignatureError as err:
            raise _expired() from err
        except jwt.InvalidTokenError as err:
            raise Unauthenticated("the token is not valid") from err
        roles = frozenset(role for role in claims.get("roles", []) if role in _IMPLIED)
        principal = Principal(str(claims["sub"]), frozenset(map(str, claims.get("projects", []))), roles)
        return principal, float(claims["exp"])

    def verify_header(self, authorization: str | None) -> Principal:
        """The caller that an `authorization` header names.

        Raises:
            Unauthenticated: As `verify`, or there is no such header, or it is not a bearer token.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated
        return self.verify(token.strip())


def _expired() -> Unauthenticated:
    return Unauthenticated("the token has expired; ask for a new one")


class LocalIssuer:
    """Issues tokens with a key of its own; for one machine, tests, and the first day. Clusters use OIDC."""

    def __init__(self, private_key: Ed25519PrivateKey, key_id: str, issuer: str = "mainspring-local") -> None:
        self._key, self._key_id, self._issuer = private_key, key_id, issuer

    @classmethod
    def create(cls) -> LocalIssuer:
        """Makes a new key."""
        return cls(Ed25519PrivateKey.generate(), new_id())

    @classmethod
    def load_or_create(cls, directory: Path) -> LocalIssuer:
        """The issuer whose key lies in `directory`; made, readable only to this user, when there is none."""
        path = directory / "issuer.json"
        if path.exists():
            stored = json.loads(path.read_text())
            key = serialization.load_pem_private_key(stored["private_key"].encode(), password=None)
            assert isinstance(key, Ed25519PrivateKey)
            return cls(key, stored["key_id"])
        issuer = cls.create()
        pem = issuer._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        directory.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps({"key_id": issuer._key_id, "private_key": pem.decode()}))
        (directory / "jwks.json").write_text(issuer.jwks())
        return issuer

    def jwks(self) -> str:
        """The public key as a JWKS document."""
        public = OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return json.dumps({"keys": [{**public, "kid": self._key_id, "use": "sig", "alg": "EdDSA"}]})

    def issue(self, subject: str, projects: Iterable[str], roles: Sequence[str], lifetime_s: float) -> str:
        """A signed token.

        Raises:
            ValueError: A role is not one of `ROLES`.
        """
        if unknown := set(roles) - set(ROLES):
            raise ValueError(f"no such role: {', '.join(sorted(unknown))}; there are {', '.join(ROLES)}")
        now = time.time()
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": int(now),
            "exp": int(now + lifetime_s),
            "jti": new_id(),
            "projects": sorted(projects),
            "roles": list(roles),
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": self._key_id})
