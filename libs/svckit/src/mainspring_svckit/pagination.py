"""Page sizes and page tokens (AIP-158).

A token is opaque to callers: the sort key of the last result, bound to the request's other arguments by a checksum, so
a token cannot be used with another parent or filter.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from mainspring_svckit.errors import FieldViolation, InvalidInput

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 500
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class Page:
    """What a list handler needs: how many, and after which sort key (None at the start)."""

    size: int
    after: str | None

    @classmethod
    def of(cls, page_size: int, page_token: str, *bound_to: str) -> Page:
        """Reads the fields of a list request.

        Args:
            page_size: 0 takes the default; more than the most is clamped.
            page_token: Empty for the first page.
            *bound_to: The request's other arguments.

        Raises:
            InvalidInput: The token is not one that we made for these arguments.
        """
        size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        if not page_token:
            return cls(size, None)
        after = _key_of(page_token, _checksum(bound_to))
        if after is None:
            description = "is not a token of this list; leave it empty to start again"
            raise InvalidInput(
                f"page_token {description}",
                reason="PAGE_TOKEN_INVALID",
                violations=[FieldViolation("page_token", description)],
            )
        return cls(size, after)


def next_page_token(last_key: str | None, *bound_to: str) -> str:
    """The token of the page after the one that ended with `last_key`; empty when `last_key` is None."""
    if last_key is None:
        return ""
    return base64.urlsafe_b64encode(json.dumps([_checksum(bound_to), last_key]).encode()).decode()


def _key_of(page_token: str, checksum: str) -> str | None:
    """The sort key that a token with this checksum holds; None for any other text. No key of ours holds what a database
    cannot: the character NUL, or half of a surrogate pair.
    """
    try:
        said: Any = json.loads(base64.urlsafe_b64decode(page_token.encode()))
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, list) or len(said) != 2 or said[0] != checksum:  # type: ignore[arg-type]
        return None
    after: Any = said[1]
    return after if isinstance(after, str) and not _UNSTORABLE.search(after) else None


def _checksum(bound_to: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(bound_to).encode()).hexdigest()[:16]
