"""What the evaluator's use cases need from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mainspring_evaluator.domain.fidelity import Distribution
from mainspring_evaluator.domain.items import Answer, EvaluationItem, Item, Message, Prompt
from mainspring_evaluator.domain.runs import EvaluationRun
from mainspring_evaluator.domain.suites import EvaluationSuite, Sampling
from mainspring_svckit.clock import Clock
from mainspring_svckit.pagination import Page
from mainspring_svckit.ports import Artifacts, Notifier, Transactions, Work
from mainspring_svckit.repository import Listed, Repository
from mainspring_svckit.values import ArtifactRef, ScorerResult


@dataclass(frozen=True)
class VersionInfo:
    """What the catalogue says of a version.

    Attributes:
        name: Resource name.
        model: Model that it belongs to.
        base: Foundation model, for adapters; else empty.
        manifest_sha256: Digest that identifies its files.
        dataset_version: Data it learned from, or empty.
        cycle: Turn of the loop that it came from, or empty.
        probe: Its fidelity probe; None when it has none.
    """

    name: str
    model: str
    base: str
    manifest_sha256: str
    dataset_version: str
    cycle: str
    probe: ArtifactRef | None = None


class ModelCatalogue(Protocol):
    """Knows model versions."""

    async def version(self, name: str) -> VersionInfo:
        """A version.

        Raises:
            NotFound: There is none of that name.
            Unavailable: The catalogue cannot be asked now.
        """
        ...

    async def released_version(self, model: str) -> str:
        """The version of the model's active release; empty when nothing is released. Raises as `version`."""
        ...


@dataclass(frozen=True)
class TestSplit:
    """A dataset version's test split.

    Attributes:
        root_sha256: Digest of all its rows.
        rows: Messages of each row, in batches.
    """

    __test__ = False  # Not a test, whatever pytest thinks of its name.

    root_sha256: str
    rows: AsyncIterator[Sequence[Sequence[Message]]]


class Datasets(Protocol):
    """Reads datasets."""

    async def test_split(self, dataset_version: str) -> TestSplit:
        """The test split; reading its rows raises as this does.

        Raises:
            PreconditionFailed: DATASET_UNREADABLE, it is missing, damaged or of an unknown format.
            Unavailable: It cannot be read now.
        """
        ...


class Inference(Protocol):
    """The plane that serves models."""

    async def hold(self, version: str, holder: str) -> None:
        """Keeps a version in memory on behalf of a holder, and returns when it can answer. Repeats change nothing.

        Raises:
            PreconditionFailed: DEPLOYMENT_FAILED, it cannot be loaded.
            Unavailable: The plane cannot be asked now.
        """
        ...

    async def let_go(self, holder: str) -> None:
        """Ends all that is held on behalf of a holder. Repeats change nothing.

        Raises:
            Unavailable: The plane cannot be asked now.
        """
        ...

    async def answer(self, version: str, prompt: Prompt, sampling: Sampling) -> Answer:
        """Answers with exactly this version.

        Raises:
            InvalidInput: The model cannot take such a prompt.
            Unavailable: Not now, or the version is not reachable yet.
        """
        ...

    async def next_tokens(self, version: str, prefix: str, top: int) -> Distribution:
        """The most probable tokens after a text, taken as it stands. Raises as `answer`."""
        ...


class AnswerCache(Protocol):
    """Answers that were generated before, by what they depend on (`answer_key`); joins the ambient transaction."""

    async def known(self, project: str, keys: Sequence[str]) -> Mapping[str, Answer]:
        """Those of `keys` that are there."""
        ...

    async def put(self, project: str, key: str, answer: Answer) -> None:
        """Keeps an answer; one that is there already stays."""
        ...


class ItemStore(Protocol):
    """Items of runs that succeeded; joins the ambient transaction."""

    async def add_all(self, items: Sequence[EvaluationItem]) -> None:
        """Keeps a run's items."""
        ...

    async def list(self, parent: str, page: Page) -> Listed[EvaluationItem]:
        """Items of a run by index, a page at a time."""
        ...


@dataclass(frozen=True)
class Measured:
    """What scorers said.

    Attributes:
        results: One for each scorer, in the suite's order.
        candidate_scores: The candidate's score of each item, by scorer.
        baseline_scores: The baseline's; empty without a baseline.
    """

    results: tuple[ScorerResult, ...]
    candidate_scores: tuple[Mapping[str, float], ...]
    baseline_scores: tuple[Mapping[str, float], ...]


class Scoring(Protocol):
    """Scores answers against references."""

    @property
    def names(self) -> Sequence[str]:
        """The scorers that there are."""
        ...

    async def measure(
        self, suite: EvaluationSuite, items: Sequence[Item], candidate: Sequence[str], baseline: Sequence[str] | None
    ) -> Measured:
        """Applies the suite's scorers; the same input gives the same numbers.

        Raises:
            PreconditionFailed: UNKNOWN_SCORER.
        """
        ...


class Announcements(Protocol):
    """Tells other services what happened; joins the ambient transaction."""

    async def completed(self, run: EvaluationRun) -> None:
        """A version was measured."""
        ...

    async def failed(self, run: EvaluationRun) -> None:
        """A version could not be measured."""
        ...


@dataclass(frozen=True)
class Ports:
    """Everything the use cases need; made once, in `main.py`."""

    transactions: Transactions
    suites: Repository[EvaluationSuite]
    runs: Repository[EvaluationRun]
    items: ItemStore
    answers: AnswerCache
    catalogue: ModelCatalogue
    datasets: Datasets
    inference: Inference
    scoring: Scoring
    files: Artifacts
    announcements: Announcements
    work: Work
    notifier: Notifier
    clock: Clock
    new_id: Callable[[], str]
