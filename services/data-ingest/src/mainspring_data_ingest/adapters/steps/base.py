"""What all steps have."""

from __future__ import annotations

from collections import Counter

from mainspring_data_ingest.domain.rows import Origin


class BaseStep:
    """A `Step` that remembers nothing; subclasses apply."""

    name = ""
    after_duplicates = False

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def kept(self, origin: Origin) -> None:
        """See `Step`."""
