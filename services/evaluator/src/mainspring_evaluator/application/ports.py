"""What the evaluator's use cases need from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from mainspring_evaluator.domain.drift import Asked, DriftMonitor, DriftReport
from mainspring_evaluator.domain.fidelity import Distribution
from mainspring_evaluator.domain.inquiries import Shard, Tally, Use
from mainspring_evaluator.domain.items import Answer, EvaluationItem, Item, ItemFilter, Prompt, Sample
from mainspring_evaluator.domain.runs import EvaluationRun
from mainspring_evaluator.domain.suites import EvaluationSuite, Retrieval, SafetySet, Sampling, Split, SuiteVersion
from mainspring_svckit.clock import Clock
from mainspring_svckit.pagination import Page
from mainspring_svckit.ports import Artifacts, Notifier, Transactions, Work
from mainspring_svckit.repository import Listed, Repository
from mainspring_svckit.values import NO_UNIT, ArtifactRef, Estimate, Message, ScorerFailure, ScorerResult, ServedUnit

EVERYTHING = ItemFilter()


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
        parent: Version that it was tuned from, where that is not the foundation model; else empty.
        also_learned: Data that adapters which were merged into it learned from.
    """

    name: str
    model: str
    base: str
    manifest_sha256: str
    dataset_version: str
    cycle: str
    probe: ArtifactRef | None = None
    parent: str = ""
    also_learned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Units:
    """What goes with a model's versions: with the next release, with the active one, and which version that is of."""

    next: ServedUnit = NO_UNIT
    active: ServedUnit = NO_UNIT
    active_version: str = ""


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

    async def units(self, model: str) -> Units:
        """What goes with the model's versions into answers. Raises as `version`."""
        ...


@dataclass(frozen=True)
class Row:
    """A row of a dataset version; `place` says where a person finds it."""

    messages: Sequence[Message]
    place: str = ""


@dataclass(frozen=True)
class SplitRows:
    """A split of a dataset version.

    Attributes:
        root_sha256: Digest of all rows of the version.
        rows: The split's, in batches.
    """

    root_sha256: str
    rows: AsyncIterator[Sequence[Row]]


class Datasets(Protocol):
    """Reads datasets."""

    async def read(self, dataset_version: str, split: Split) -> SplitRows:
        """A split; reading its rows raises as this does.

        Raises:
            PreconditionFailed: DATASET_UNREADABLE, it is missing, damaged or of an unknown format.
            Unavailable: It cannot be read now.
        """
        ...


class ItemFiles(Protocol):
    """Items from files that others made, on this machine."""

    async def safety(self, wanted: SafetySet) -> Sequence[Item]:
        """The prompts of a safety set, always in the same order.

        Raises:
            PreconditionFailed: SAFETY_SET_MISSING, what holds it is not installed.
        """
        ...

    async def harness(self, path: str, seed: int = 0) -> Sequence[Item]:
        """The items of another harness's task; `seed` draws the examples that it puts before them.

        Raises:
            PreconditionFailed: TASK_UNREADABLE, it is missing, damaged, of a kind that is not supported, or outside the
                roots; TASK_UNSUPPORTED, it asks for what is not done here.
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

    async def answer(
        self,
        version: str,
        prompt: Prompt,
        sampling: Sampling,
        *,
        context: Retrieval | None = None,
        timed: bool = False,
        unit: ServedUnit = NO_UNIT,
    ) -> Answer:
        """Answers with exactly this version as a release with `unit` would; `timed` watches for the first token, which
        costs a little.

        Raises:
            InvalidInput: The model cannot take such a prompt.
            Unavailable: Not now, or the version is not reachable yet.
        """
        ...

    async def next_tokens(self, version: str, prefix: str, top: int) -> Distribution:
        """The most probable tokens after a text, taken as it stands. Raises as `answer`."""
        ...

    async def first_tokens(
        self,
        version: str,
        prompt: Prompt,
        top: int,
        *,
        context: Retrieval | None = None,
        unit: ServedUnit = NO_UNIT,
    ) -> Distribution:
        """The most probable first tokens of an answer. Raises as `answer`."""
        ...

    async def score(
        self,
        version: str,
        prompt: Prompt,
        text: str,
        *,
        context: Retrieval | None = None,
        unit: ServedUnit = NO_UNIT,
    ) -> Sequence[float]:
        """Log-probabilities of the tokens of a text as the answer. Raises as `answer`."""
        ...


class Embeddings(Protocol):
    """Turns texts into vectors of length 1."""

    async def embed(self, embedding_model_version: str, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector for each text, in order.

        Raises:
            MainspringError: The model cannot embed them, now (`Unavailable`) or at all.
        """
        ...


class Observations(Protocol):
    """Figures that others were asked for before, by `observation_key`; joins the ambient transaction."""

    async def known(self, project: str, keys: Sequence[str]) -> Mapping[str, float]:
        """Those of `keys` that are there."""
        ...

    async def put(self, project: str, values: Mapping[str, float]) -> None:
        """Keeps figures; one that is there already stays."""
        ...


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer to real people with what they thought of it."""

    messages: Prompt
    text: str
    good: bool


class Traffic(Protocol):
    """A sample of what released versions were asked, and what people said of it; joins the ambient transaction."""

    async def add(self, asked: Asked) -> None:
        """Keeps a question with its answer, and no more of one version than the newest few thousand."""
        ...

    async def judge(self, answer: str, good: bool) -> None:
        """Keeps what a person said of an answer; of one that is not there nothing is kept."""
        ...

    async def newest(self, model_version: str, after: str, limit: int) -> Sequence[Asked]:
        """The newest questions that were asked of a version after the answer named `after`, newest first."""
        ...

    async def judged(self, model: str, limit: int) -> Sequence[JudgedAnswer]:
        """Answers of a model that somebody judged, newest first."""
        ...


class DriftReports(Protocol):
    """Reports of checks; joins the ambient transaction."""

    async def add(self, report: DriftReport) -> None:
        """Keeps a report."""
        ...

    async def count(self, monitor: str) -> int:
        """How many a monitor has."""
        ...

    async def reference(self, monitor: str, model_version: str) -> DriftReport | None:
        """What a monitor measured first of a version; None when it has not."""
        ...

    async def list(self, parent: str, page: Page) -> Listed[DriftReport]:
        """Reports of a monitor, newest first, a page at a time."""
        ...


class AnswerCache(Protocol):
    """Answers that were generated before, by what they depend on (`answer_key`); joins the ambient transaction."""

    async def known(self, project: str, keys: Sequence[str]) -> Mapping[str, Answer]:
        """Those of `keys` that are there."""
        ...

    async def put(self, project: str, answers: Mapping[str, Answer]) -> None:
        """Keeps answers; one that is there already stays. Several who keep the same at once do not deadlock."""
        ...


class Changes(Protocol):
    """Wakes one who waits."""

    async def wait(self, timeout_s: float) -> bool:
        """Returns when something may have changed, or after so long."""
        ...


class Shards(Protocol):
    """Questions of runs, shared out among replicas; joins the ambient transaction, but for `changes`.

    Work on them lies in the queue; who holds its row may write here.
    """

    async def add(self, shards: Sequence[Shard]) -> None:
        """Keeps shards, none of whose questions has an answer yet."""
        ...

    async def get(self, name: str) -> Shard:
        """A shard.

        Raises:
            NotFound: There is none, or its run has ended.
        """
        ...

    async def names(self, run: str) -> Sequence[str]:
        """A run's shards."""
        ...

    async def found(self, name: str, answered: int) -> None:
        """Records how many of a shard's questions have an answer."""
        ...

    async def made(self, name: str, answers: Sequence[Answer]) -> None:
        """Counts answers that were generated for a shard."""
        ...

    async def close(self, name: str, failure: tuple[str, str] | None = None) -> None:
        """Ends a shard, with reason and message when it cannot be finished, and wakes who waits for it."""
        ...

    async def tallies(self, run: str) -> Mapping[str, Tally]:
        """How far a run's shards are, by stage."""
        ...

    async def used(self, run: str) -> Use:
        """What all shards of a run used."""
        ...

    async def drop(self, run: str) -> None:
        """Forgets a run's shards."""
        ...

    def changes(self, run: str) -> AbstractContextManager[Changes]:
        """Wakes for shards of a run that end."""
        ...


@dataclass(frozen=True)
class ItemPairs:
    """A page of items of two runs that asked the same; `next_key` is None on the last."""

    pairs: Sequence[tuple[EvaluationItem, EvaluationItem]]
    next_key: str | None


class ItemStore(Protocol):
    """Items of runs that succeeded; joins the ambient transaction."""

    async def add_all(self, items: Sequence[EvaluationItem]) -> None:
        """Keeps a run's items."""
        ...

    async def list(self, parent: str, page: Page, wanted: ItemFilter = EVERYTHING) -> Listed[EvaluationItem]:
        """Items of a run by index, a page at a time."""
        ...

    async def scores(self, parent: str) -> Mapping[str, Mapping[str, float]]:
        """The candidate's scores by scorer, by the digest of what was asked, in the order of the items."""
        ...

    async def pairs(self, first: str, second: str, page: Page) -> ItemPairs:
        """Items of two runs that asked the same, by the first's index."""
        ...


@dataclass(frozen=True)
class Measured:
    """What scorers said.

    Attributes:
        results: One for each scorer that could be applied, in the suite's order.
        failures: One for each that could not.
        candidate_scores: The candidate's score of each item, by scorer.
        baseline_scores: The baseline's; empty without a baseline.
    """

    results: tuple[ScorerResult, ...]
    failures: tuple[ScorerFailure, ...]
    candidate_scores: tuple[Mapping[str, float], ...]
    baseline_scores: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class Compared:
    """How the second of two systems compares with the first by one scorer, item by item."""

    scorer: str
    first_mean: float
    second_mean: float
    difference: Estimate
    p_value: float
    second_higher: int
    first_higher: int
    equal: int


@dataclass(frozen=True)
class Change:
    """Two samples of one figure, and how probable so large a change is by chance (permutation test)."""

    reference_mean: float
    current_mean: float
    p_value: float


class Scoring(Protocol):
    """Scores answers."""

    @property
    def names(self) -> Sequence[str]:
        """The scorers that there are."""
        ...

    async def prepare(self, suite: EvaluationSuite, samples: Sequence[Sample]) -> None:
        """Loads what scoring needs, which takes seconds the first time, and counts what can be counted of one system's
        answers before the other's are there. `measure` does what was not prepared.
        """
        ...

    async def measure(
        self, suite: EvaluationSuite, candidate: Sequence[Sample], baseline: Sequence[Sample] | None
    ) -> Measured:
        """Applies the suite's scorers to answers to the same items; the same input gives the same numbers. A scorer
        that cannot be applied, or fails, is a failure in what comes back.

        Raises:
            PreconditionFailed: UNKNOWN_SCORER.
        """
        ...

    async def compare(
        self, first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]]
    ) -> Sequence[Compared]:
        """Compares two systems' scores (by item, by scorer) over the items that both have, by each scorer of both."""
        ...

    async def changes(self, pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Sequence[Change]:
        """How each figure changed from a first sample to a second, which need not be of the same items."""
        ...


class Announcements(Protocol):
    """Tells other services what happened; joins the ambient transaction."""

    async def completed(self, run: EvaluationRun) -> None:
        """A version was measured."""
        ...

    async def failed(self, run: EvaluationRun) -> None:
        """A version could not be measured."""
        ...

    async def drifted(self, model: str, report: DriftReport) -> None:
        """A released version does worse than it did."""
        ...


@dataclass(frozen=True)
class Ports:
    """Everything the use cases need; made once, in `main.py`."""

    transactions: Transactions
    suites: Repository[EvaluationSuite]
    suite_versions: Repository[SuiteVersion]
    runs: Repository[EvaluationRun]
    items: ItemStore
    answers: AnswerCache
    shards: Shards
    catalogue: ModelCatalogue
    datasets: Datasets
    item_files: ItemFiles
    inference: Inference
    embeddings: Embeddings
    observations: Observations
    traffic: Traffic
    monitors: Repository[DriftMonitor]
    reports: DriftReports
    scoring: Scoring
    files: Artifacts
    announcements: Announcements
    work: Work
    notifier: Notifier
    clock: Clock
    new_id: Callable[[], str]
