"""Passwords and tokens of the local stack: made at the first start, kept readable to the owner only, never on a command
line.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jwt

from mainspring_client.stack.folder import DataFolder, write_private
from mainspring_proof.keys import create_key
from mainspring_svckit.auth import LocalIssuer

_YEAR_S = 365 * 86_400.0
ADMIN_LIFETIME_S = _YEAR_S
SERVICE_LIFETIME_S = 10 * _YEAR_S
_RENEW_BEFORE_S = 30 * 86_400.0


@dataclass(frozen=True)
class Passwords:
    """Passwords by user.

    Attributes:
        postgres_admin: Of Postgres' administrator.
        databases: Of each service's database role.
        bus: Of each NATS user.
    """

    postgres_admin: str
    databases: dict[str, str]
    bus: dict[str, str]


def passwords(folder: DataFolder, databases: Iterable[str], bus_users: Iterable[str]) -> Passwords:
    """The passwords that there are, and new ones for users that have none."""
    path = folder.secrets / "passwords.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found = Passwords(
        stored.get("postgres_admin") or _new(),
        _with_new(stored.get("databases", {}), databases),
        _with_new(stored.get("bus", {}), bus_users),
    )
    if found.__dict__ != stored:
        write_private(path, json.dumps(found.__dict__, indent=1))
    return found


def bus_password(folder: DataFolder, user: str) -> str | None:
    """The password of one NATS user; None when the stack was never started."""
    try:
        stored: dict[str, Any] = json.loads((folder.secrets / "passwords.json").read_text())
    except (OSError, ValueError):
        return None
    return stored.get("bus", {}).get(user)


def issuer(folder: DataFolder) -> LocalIssuer:
    """Signs tokens for this stack; its key is made at the first call."""
    made = LocalIssuer.load_or_create(folder.issuer)
    if not folder.jwks.exists():
        folder.jwks.write_text(made.jwks())
    return made


def ensure_signing_key(folder: DataFolder) -> None:
    """Makes the registry's key at the first call, and says that its signatures are believed; keys that are believed
    already stay.
    """
    public = create_key(folder.signing_key)
    known = folder.signing_keys.read_text() if folder.signing_keys.exists() else ""
    if public not in known:
        write_private(folder.signing_keys, public + known)


def ensure_admin_token(folder: DataFolder, made_by: LocalIssuer) -> None:
    """Writes the first person's token, anew when it would expire soon."""
    try:
        claims: dict[str, Any] = jwt.decode(
            folder.admin_token.read_text().strip(),
            options={"verify_signature": False, "verify_exp": True},
            leeway=-_RENEW_BEFORE_S,
        )
    except (OSError, jwt.InvalidTokenError):
        claims = {}
    if not claims:
        write_private(folder.admin_token, made_by.issue("admin", ["*"], ["admin"], ADMIN_LIFETIME_S) + "\n")


def give(folder: DataFolder, service: str, made_by: LocalIssuer, **values: str) -> dict[str, str]:
    """Writes one service's secrets to files; returns the environment variables that name them."""
    place = folder.secrets / service
    place.mkdir(mode=0o700, exist_ok=True)
    values = {**values, "service_token": made_by.issue(f"service:{service}", ["*"], ["service"], SERVICE_LIFETIME_S)}
    for key, value in values.items():
        write_private(place / key, value)
    return {f"MAINSPRING_{key.upper()}_FILE": str(place / key) for key in values}


def _with_new(stored: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    return {**stored, **{name: _new() for name in names if name not in stored}}


def _new() -> str:
    return secrets.token_hex(24)
