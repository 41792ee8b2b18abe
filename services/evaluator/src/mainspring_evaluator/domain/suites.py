"""How versions of a model are measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from mainspring_svckit.values import ServedUnit

DEFAULT_MAX_OUTPUT_TOKENS = 128
DEFAULT_RESAMPLES = 1_000
DEFAULT_CONFIDENCE_LEVEL = 0.95
DEFAULT_MIN_SLICE_ITEMS = 30
DEFAULT_MIN_KAPPA = 0.4
DEFAULT_MIN_LABELS = 20
DEFAULT_MAX_NONSENSE = 0.2
# What a suite said before it could say more; these are in its digest whatever they hold.
_FIRST_FIELDS = frozenset(
    {
        "name",
        "model",
        "scorers",
        "dataset_version",
        "max_items",
        "sampling",
        "bootstrap_resamples",
        "confidence_level",
    }
)


@dataclass(frozen=True)
class Sampling:
    """How answers are generated while measuring."""

    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS
    temperature: float = 0.0
    seed: int = 0

    def under(self, unit: ServedUnit) -> Sampling:
        """The sampling with the word of what would be released, where it has one; the seed is always the suite's."""
        temperature = self.temperature if unit.temperature is None else unit.temperature
        return Sampling(unit.max_output_tokens or self.max_output_tokens, temperature, self.seed)


class Split(StrEnum):
    """Part of a dataset version, as its manifest calls it."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class SafetySet(StrEnum):
    """What a safety set tries."""

    PROMPT_INJECTION = "prompt_injection"
    JAILBREAK = "jailbreak"
    LEAKAGE = "leakage"
    OVER_REFUSAL = "over_refusal"


class Comparison(StrEnum):
    """What a candidate is compared with when nobody says."""

    CHAMPION = "champion"
    PARENT = "parent"


@dataclass(frozen=True)
class ItemSource:
    """Where some items come from: exactly one of `dataset_version`, `safety_set` and `harness_path`.

    Attributes:
        task: Name of the items in slices.
        instruction: System message to put before each; empty for none.
        dataset_version: Dataset version.
        split: Its split.
        safety_set: Set of prompts that try a model.
        harness_path: File of a task below a task root.
        max_items: Most items; 0 for all.
    """

    task: str
    instruction: str = ""
    dataset_version: str = ""
    split: Split = Split.TEST
    safety_set: SafetySet | None = None
    harness_path: str = ""
    max_items: int = 0


@dataclass(frozen=True)
class Slice:
    """A part of the items: all that is set must hold of the last message."""

    id: str
    prompt_contains: str = ""
    min_prompt_words: int = 0
    max_prompt_words: int = 0

    def holds(self, question: str) -> bool:
        """Whether a question is in it."""
        words = len(question.split())
        return (
            self.prompt_contains.casefold() in question.casefold()
            and words >= self.min_prompt_words
            and (not self.max_prompt_words or words <= self.max_prompt_words)
        )


@dataclass(frozen=True)
class Judge:
    """A model that scores answers."""

    id: str
    model_version: str


@dataclass(frozen=True)
class JudgePanel:
    """Who judges, by what, and how well they must agree with people."""

    judges: tuple[Judge, ...]
    rubric: str = ""
    min_kappa: float = DEFAULT_MIN_KAPPA
    min_labels: int = DEFAULT_MIN_LABELS
    max_nonsense: float = DEFAULT_MAX_NONSENSE


@dataclass(frozen=True)
class Budget:
    """What a run may use; 0 is no bound."""

    max_generated_tokens: int = 0
    max_duration_s: float = 0.0
    max_cost: float = 0.0


@dataclass(frozen=True)
class Price:
    """What a million tokens cost."""

    per_million_input_tokens: float = 0.0
    per_million_output_tokens: float = 0.0


@dataclass(frozen=True)
class Retrieval:
    """Passages to put before every question."""

    collection: str
    top_k: int = 0


@dataclass(frozen=True)
class EvaluationSuite:
    """What is measured, on what, and how surely.

    Attributes:
        name: Resource name.
        model: Model whose new versions are measured.
        scorers: Names of scorers.
        dataset_version: Whose test split is used; empty for the data that the candidate was trained on.
        max_items: Most items; 0 for all.
        sampling: How answers are generated.
        bootstrap_resamples: Resamples for intervals and p values.
        confidence_level: Of all intervals.
        sources: Where items come from, instead of `dataset_version`.
        slices: Parts of the items with figures of their own.
        min_slice_items: Items below which a slice has too few.
        json_schema: For the scorer of that name.
        embedding_model_version: For the scorer `embedding_similarity`.
        judges: For the scorers that need judges.
        budget: What a run may use.
        price: For the scorer `cost`.
        allow_training_overlap: Whether items that the candidate learned from are measured.
        comparison: What a candidate is compared with.
        context: Passages to put before every question.
        version: Counts its contents, from 1; 0 for one from before they were counted. Not part of what it says.
    """

    name: str
    model: str
    scorers: tuple[str, ...]
    dataset_version: str = ""
    max_items: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    bootstrap_resamples: int = DEFAULT_RESAMPLES
    confidence_level: float = DEFAULT_CONFIDENCE_LEVEL
    sources: tuple[ItemSource, ...] = ()
    slices: tuple[Slice, ...] = ()
    min_slice_items: int = DEFAULT_MIN_SLICE_ITEMS
    json_schema: str = ""
    embedding_model_version: str = ""
    judges: JudgePanel | None = None
    budget: Budget = field(default_factory=Budget)
    price: Price = field(default_factory=Price)
    allow_training_overlap: bool = False
    comparison: Comparison = Comparison.CHAMPION
    context: Retrieval | None = None
    version: int = 0

    @property
    def sha256(self) -> str:
        """Digest of what the suite says as canonical JSON; equal digests mean equal measurements.

        What was added to suites later counts only where it says something, so that a digest outlives an upgrade.
        """
        said = asdict(self)
        if not self.budget.max_cost:
            del said["budget"]["max_cost"]
        canonical = {
            f.name: said[f.name]
            for f in fields(self)
            if f.name in _FIRST_FIELDS or (f.name != "version" and getattr(self, f.name) != _default_of(f))
        }
        return hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def slices_of(self, question: str) -> tuple[str, ...]:
        """Ids of the slices that a question is in."""
        return tuple(part.id for part in self.slices if part.holds(question))


@dataclass(frozen=True)
class SuiteVersion:
    """A suite as it stood for a while; it never changes."""

    name: str
    suite: EvaluationSuite
    create_time: datetime


def _default_of(f: Any) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default
