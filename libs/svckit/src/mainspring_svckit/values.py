"""Values that the domains of several services share. Pure: no I/O, no protobuf."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ArtifactRef:
    """Bytes in the project's content-addressed store.

    Attributes:
        sha256: 64 lower-case hexadecimal digits; the address.
        size_bytes: Length.
        media_type: IANA media type, or empty.
        filename: Name to show and to use on export, or empty.
    """

    sha256: str
    size_bytes: int
    media_type: str = ""
    filename: str = ""


@dataclass(frozen=True)
class Progress:
    """How far long work has come: `done` of `total` (0 while unknown) units."""

    done: int = 0
    total: int = 0
    unit: str = ""
    phase: str = ""
    remaining_s: float | None = None
