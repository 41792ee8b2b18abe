"""What steps have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mainspring_data_ingest.application.refining import Candidate
from mainspring_data_ingest.domain.records import RefusalReason
from mainspring_data_ingest.domain.rows import Draft

if TYPE_CHECKING:  # It needs this module.
    from mainspring_data_ingest.adapters.candidates import Candidates

Arrays = Mapping[str, Any]
"""Numpy arrays by name, one entry (or one row) for each candidate unless their user knows better."""


class BaseStep:
    """A `Step`; subclasses apply."""

    name = ""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.about: dict[str, int] = {}


class Probe(Protocol):
    """The part of a comparing step that looks at single rows, and so may work anywhere."""

    def probe(self, candidates: Sequence[Candidate], drafts: Sequence[Draft]) -> Arrays:
        """What deciding needs to know of a chunk's candidates; the drafts are theirs at the step's place."""
        ...


@dataclass(frozen=True)
class Refusals:
    """Candidates that one step refuses, ascending; `detail` says why the one at an index is, `found` what else the
    step's report tells.
    """

    reason: RefusalReason
    rows: Any
    detail: Callable[[int], str]
    found: Mapping[str, int] = field(default_factory=dict[str, int])


class Vectors(Protocol):
    """Has vectors made of texts."""

    def __call__(self, texts: Path, model: str) -> Path:
        """A file of the vectors of a file of texts (JSON lines of strings): little-endian 32-bit floats, text by text.

        Raises:
            MainspringError: They cannot be made; the reason says why.
        """
        ...


class Decision(Protocol):
    """The part of a comparing step that decides, when all candidates are known."""

    def decide(self, candidates: Candidates, folder: Path) -> Refusals:
        """Which of the candidates that are still kept it refuses; the folder is for temporary files."""
        ...
