"""Digests of what the registry decides on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from datetime import datetime
from typing import Any


def digest_of(value: Any) -> str:
    """SHA-256 of a dataclass as canonical JSON (sorted keys, no spaces); empty for None."""
    if value is None:
        return ""
    body = json.dumps(asdict(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return hashlib.sha256(body.encode()).hexdigest()


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no canonical form")
