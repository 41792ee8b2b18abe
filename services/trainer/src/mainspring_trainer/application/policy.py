"""What an operator decides about runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from mainspring_trainer.domain.runs import KEPT_CHECKPOINTS
from mainspring_trainer.domain.tracking import Rates


@dataclass(frozen=True)
class Policy:
    """Limits and rates.

    Attributes:
        kept_checkpoints: Checkpoints of a run that are kept while it is not ended.
        checkpoint_retention_s: How long they are kept after that.
        open_runs_per_project: Runs of a project that may wait or be worked on; more cannot be asked for by hand.
        rates: What computing takes and costs.
        mirrors: Kinds of work that show runs in experiment trackers, too.
    """

    kept_checkpoints: int = KEPT_CHECKPOINTS
    checkpoint_retention_s: float = 0.0
    open_runs_per_project: int = 1000
    rates: Rates = field(default_factory=Rates)
    mirrors: tuple[str, ...] = ()
