"""When feedback turns the loop again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from mainspring_feedback.domain.judgements import Lesson


@dataclass(frozen=True)
class Wishes:
    """What somebody can decide of a trigger."""

    model: str
    ingestion_recipe: str
    min_items: int
    count_thumbs: bool = False


@dataclass(frozen=True)
class RetrainingTrigger:
    """A trigger.

    Attributes:
        name: Resource name.
        model: Model whose lessons count.
        ingestion_recipe: Recipe that takes them in.
        min_items: Answers with a lesson that turn the loop.
        pending_items: Answers with a lesson since the last firing.
        taken: Number of the newest lesson that a firing took.
        firings: How often it has fired.
        last_fire_time: When it last fired.
        count_thumbs: Whether answers with nothing but a thumb count; a firing takes them along in any case.
    """

    name: str
    model: str
    ingestion_recipe: str
    min_items: int
    pending_items: int = 0
    taken: int = 0
    firings: int = 0
    last_fire_time: datetime | None = None
    count_thumbs: bool = False

    @property
    def is_due(self) -> bool:
        """Whether enough waits."""
        return self.pending_items >= self.min_items

    def counts(self, lesson: Lesson) -> bool:
        """Whether a lesson waits for the next firing and brings it nearer."""
        return lesson.number > self.taken and (self.count_thumbs or not lesson.is_thumb)

    def configured(self, wishes: Wishes) -> RetrainingTrigger:
        """The trigger with other wishes; lessons of another model begin anew."""
        model = wishes.model
        changed = replace(
            self,
            model=model,
            ingestion_recipe=wishes.ingestion_recipe,
            min_items=wishes.min_items,
            count_thumbs=wishes.count_thumbs,
        )
        return changed if model == self.model else replace(changed, pending_items=0, taken=0)

    def fired(self, until: int, cycle: str, now: datetime) -> tuple[RetrainingTrigger, Firing]:
        """The trigger after taking all lessons up to number `until`, and what is to be done with them."""
        firing = Firing(self.name, self.firings + 1, self.model, self.ingestion_recipe, self.taken, until, cycle)
        changed = replace(self, pending_items=0, taken=until, firings=firing.number, last_fire_time=now)
        return changed, firing


@dataclass(frozen=True)
class Firing:
    """One turn of the loop that a trigger starts, with the lessons numbered above `after` and up to `until`."""

    trigger: str
    number: int
    model: str
    ingestion_recipe: str
    after: int
    until: int
    cycle: str

    @property
    def key(self) -> str:
        """Identifies it."""
        return f"{self.trigger}/firings/{self.number}"
