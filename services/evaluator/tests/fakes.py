"""The fakes of this service's own ports; each passes the contract suite of its port."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from mainspring_evaluator.application.ports import (
    EVERYTHING,
    ItemPairs,
    JudgedAnswer,
    Row,
    SplitRows,
    Units,
    VersionInfo,
)
from mainspring_evaluator.domain.drift import Asked, DriftReport
from mainspring_evaluator.domain.fidelity import Distribution
from mainspring_evaluator.domain.inquiries import Shard, Tally, Use
from mainspring_evaluator.domain.items import Answer, EvaluationItem, Item, ItemFilter, Prompt
from mainspring_evaluator.domain.suites import Retrieval, SafetySet, Sampling, Split
from mainspring_svckit.errors import (
    MainspringError,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Listed
from mainspring_svckit.values import NO_UNIT, Message, ServedUnit
from mainspring_testkit.fakes import (
    FakeRepository,
)

MODEL, BASE = "projects/p/models/m", "projects/p/models/base/versions/1"
FIRST, SECOND = f"{MODEL}/versions/1", f"{MODEL}/versions/2"
DATA, OTHER_DATA = "projects/p/datasets/d/versions/1", "projects/p/datasets/other/versions/1"
ROWS = [
    ("red", "all of the roses are red"),
    ("blue", "all of the violets are blue"),
    ("blue", "so very blue is the sky"),
    ("green", "all of the grass is green"),
]


class FakeCatalogue:
    def __init__(self) -> None:
        self.versions = {
            BASE: VersionInfo(BASE, "projects/p/models/base", "", "mb", "", ""),
            FIRST: VersionInfo(FIRST, MODEL, BASE, "m1", DATA, "cycle-of-1"),
            SECOND: VersionInfo(SECOND, MODEL, BASE, "m2", DATA, ""),
        }
        self.released = ""
        self.served = Units()

    async def units(self, model: str) -> Units:
        if model not in {version.model for version in self.versions.values()}:
            raise NotFound("Model", model)
        return replace(self.served, active_version=self.released)

    async def version(self, name: str) -> VersionInfo:
        if name not in self.versions:
            raise NotFound("ModelVersion", name)
        return self.versions[name]

    async def released_version(self, model: str) -> str:
        if model not in {version.model for version in self.versions.values()}:
            raise NotFound("Model", model)
        return self.released if model == MODEL else ""


class FakeDatasets:
    def __init__(self) -> None:
        self.rows = [[Message("user", question), Message("assistant", answer)] for question, answer in ROWS]
        self.training: dict[str, list[list[Message]]] = {DATA: [], OTHER_DATA: []}
        self.asked: list[str] = []

    async def read(self, dataset_version: str, split: Split) -> SplitRows:
        self.asked.append(dataset_version)
        if dataset_version not in self.training:
            raise PreconditionFailed("DATASET_UNREADABLE", "not there")
        wanted = {Split.TEST: self.rows, Split.TRAIN: self.training[dataset_version], Split.VALIDATION: []}[split]

        async def batches() -> AsyncIterator[Sequence[Row]]:
            yield [Row(messages, f"line {line} of source 0") for line, messages in enumerate(wanted, start=1)]

        return SplitRows("root", batches())


class FakeItemFiles:
    def __init__(self) -> None:
        self.sets: dict[SafetySet, list[Item]] = {}
        self.tasks: dict[str, list[Item]] = {}
        self.seeds: list[int] = []

    async def safety(self, wanted: SafetySet) -> Sequence[Item]:
        if wanted not in self.sets:
            raise PreconditionFailed("SAFETY_SET_MISSING", "not installed")
        return self.sets[wanted]

    async def harness(self, path: str, seed: int = 0) -> Sequence[Item]:
        if path not in self.tasks:
            raise PreconditionFailed("TASK_UNREADABLE", "not there")
        self.seeds.append(seed)
        return self.tasks[path]


class FakeInference:
    """Answers with a reference for versions of the model, and with one word for the base."""

    def __init__(self) -> None:
        self.held: set[tuple[str, str]] = set()
        self.refused: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.failures: dict[str, list[Exception]] = {}
        self.tokens: dict[str, Distribution] = {}
        self.sampling: Sampling | None = None
        self.said: dict[str, Callable[[Prompt], str]] = {}
        self.passages: tuple[str, ...] = ()
        self.units: dict[str, ServedUnit] = {}
        self.scored: list[tuple[str, str]] = []
        self.says_nan: set[str] = set()
        self.contexts: dict[str, set[Retrieval | None]] = {"answer": set(), "first_tokens": set(), "score": set()}

    async def hold(self, version: str, holder: str) -> None:
        if version in self.refused:
            raise PreconditionFailed("DEPLOYMENT_FAILED", "bad weights")
        self.held.add((version, holder))

    async def let_go(self, holder: str) -> None:
        self.held = {(version, by) for version, by in self.held if by != holder}

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
        self.units[version] = unit
        self.contexts["answer"].add(context)
        if not any(version == held for held, _ in self.held):
            raise Unavailable("MODEL_NOT_SERVED", f"{version} is not held")
        self.sampling = sampling
        question = prompt[-1].content
        if self.failures.get(question):
            raise self.failures[question].pop()
        self.asked.append((version, question))
        if version in self.said:
            said = self.said[version](prompt)
            return Answer(said, 1.0, 0.0, 10, len(said.split()))
        text = next(answer for asked, answer in ROWS if asked == question) if version != BASE else f"{question}\x00"
        passages = self.passages if context is not None else ()
        return Answer(text, float(len(self.asked)), 0.1 if timed else 0.0, 10, len(text.split()), passages)

    async def next_tokens(self, version: str, prefix: str, top: int) -> Distribution:
        assert (version, top) == (FIRST, 200)
        return self.tokens[prefix]

    async def first_tokens(
        self,
        version: str,
        prompt: Prompt,
        top: int,
        *,
        context: Retrieval | None = None,
        unit: ServedUnit = NO_UNIT,
    ) -> Distribution:
        assert top == 1
        self.contexts["first_tokens"].add(context)
        if not any(version == held for held, _ in self.held):
            raise Unavailable("MODEL_NOT_SERVED", f"{version} is not held")
        return {1: math.nan if version in self.says_nan else math.log(0.9 if version != BASE else 0.3)}

    async def score(
        self,
        version: str,
        prompt: Prompt,
        text: str,
        *,
        context: Retrieval | None = None,
        unit: ServedUnit = NO_UNIT,
    ) -> Sequence[float]:
        self.contexts["score"].add(context)
        if not any(version == held for held, _ in self.held):
            raise Unavailable("MODEL_NOT_SERVED", f"{version} is not held")
        self.scored.append((version, text))
        if version in self.says_nan:
            return [math.inf, -math.inf, math.nan]
        return [math.log(0.5 if version != BASE else 0.25)] * len(text.split())


class FakeEmbeddings:
    """One direction for each first letter."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.failure: MainspringError | None = None
        self.says_nan = False

    async def embed(self, embedding_model_version: str, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        if self.failure is not None:
            raise self.failure
        self.texts += texts
        if self.says_nan:
            return [[math.nan, 0.0] for _ in texts]
        return [[1.0, 0.0] if text[:1] in "as" else [0.0, 1.0] for text in texts]


class FakeObservations:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], float] = {}

    async def known(self, project: str, keys: Sequence[str]) -> Mapping[str, float]:
        return {key: self.rows[project, key] for key in keys if (project, key) in self.rows}

    async def put(self, project: str, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.rows.setdefault((project, key), value)


class FakeTraffic:
    def __init__(self) -> None:
        self.rows: dict[str, Asked] = {}

    async def add(self, asked: Asked) -> None:
        self.rows.setdefault(asked.name, asked)

    async def judge(self, answer: str, good: bool) -> None:
        if answer in self.rows:
            self.rows[answer] = replace(self.rows[answer], good=good)

    async def newest(self, model_version: str, after: str, limit: int) -> Sequence[Asked]:
        rows = [row for row in self.rows.values() if row.model_version == model_version and row.name > after]
        return sorted(rows, key=lambda row: row.name, reverse=True)[:limit]

    async def judged(self, model: str, limit: int) -> Sequence[JudgedAnswer]:
        rows = [row for row in self.rows.values() if row.model == model and row.good is not None]
        return [
            JudgedAnswer(tuple(Message(*turn) for turn in row.messages), row.text, bool(row.good))
            for row in sorted(rows, key=lambda row: row.name, reverse=True)[:limit]
        ]


class FakeReports(FakeRepository[DriftReport]):
    def __init__(self) -> None:
        super().__init__(parent=lambda r: r.monitor, sort_key=lambda r: f"{r.number:09}", newest_first=True)

    async def add(self, report: DriftReport) -> None:  # type: ignore[override]
        await super().add(report)

    async def count(self, monitor: str) -> int:
        return sum(row.value.monitor == monitor for row in self.rows.values())

    async def reference(self, monitor: str, model_version: str) -> DriftReport | None:
        found = [row.value for row in self.rows.values() if row.value.reference and row.value.monitor == monitor]
        return next((report for report in found if report.model_version == model_version), None)


class FakeAnswers:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Answer] = {}

    async def known(self, project: str, keys: Sequence[str]) -> Mapping[str, Answer]:
        return {key: self.rows[project, key] for key in keys if (project, key) in self.rows}

    async def put(self, project: str, answers: Mapping[str, Answer]) -> None:
        for key, answer in answers.items():
            self.rows.setdefault((project, key), answer)


class FakeShards:
    """`Shards` of which `do` is given one whenever somebody waits for them, as a replica's worker would be."""

    def __init__(self) -> None:
        self.rows: dict[str, Shard] = {}
        self.stages: list[str] = []
        self.open: dict[str, bool] = {}
        self.counts: dict[str, list[Answer]] = {}
        self.answered: dict[str, int] = {}
        self.failures: dict[str, tuple[str, str]] = {}
        self.do: Callable[[str], Awaitable[None]] | None = None

    async def add(self, shards: Sequence[Shard]) -> None:
        for shard in shards:
            self.rows[shard.name], self.open[shard.name] = shard, True
            self.stages.append(shard.stage)
            self.counts[shard.name], self.answered[shard.name] = [], 0

    async def get(self, name: str) -> Shard:
        if name not in self.rows:
            raise NotFound("Shard", name)
        return self.rows[name]

    async def names(self, run: str) -> Sequence[str]:
        return [name for name, shard in self.rows.items() if shard.run == run]

    async def found(self, name: str, answered: int) -> None:
        self.answered[name] = answered

    async def made(self, name: str, answers: Sequence[Answer]) -> None:
        self.counts[name] += answers
        self.answered[name] += len(answers)

    async def close(self, name: str, failure: tuple[str, str] | None = None) -> None:
        self.open[name] = False
        if failure is not None:
            self.failures[name] = failure

    async def tallies(self, run: str) -> Mapping[str, Tally]:
        found: dict[str, Tally] = {}
        for name in await self.names(run):
            shard, before = self.rows[name], found.get(self.rows[name].stage, Tally())
            left = len(shard.inquiry.prompts) - self.answered[name] if self.open[name] else 0
            found[shard.stage] = Tally(
                before.open + self.open[name],
                before.remaining + left,
                before.generated + len(self.counts[name]),
                before.failure or self.failures.get(name),
            )
        return found

    async def used(self, run: str) -> Use:
        made = [answer for name in await self.names(run) for answer in self.counts[name]]
        return Use(sum(answer.input_tokens for answer in made), sum(answer.output_tokens for answer in made))

    async def drop(self, run: str) -> None:
        for name in await self.names(run):
            del self.rows[name], self.open[name], self.counts[name], self.answered[name]
            self.failures.pop(name, None)

    @contextmanager
    def changes(self, run: str) -> Iterator["FakeShards"]:
        del run
        yield self

    async def wait(self, timeout_s: float) -> bool:
        del timeout_s
        name = next((name for name, is_open in self.open.items() if is_open), None)
        if self.do is not None and name is not None:
            await self.do(name)
        return name is not None


class FakeItems(FakeRepository[EvaluationItem]):
    def __init__(self) -> None:
        super().__init__(parent=lambda i: i.run, sort_key=lambda i: f"{i.index:09}")

    async def add_all(self, items: Sequence[EvaluationItem]) -> None:
        for item in items:
            await self.add(item)

    async def list(self, parent: str, page: Page, wanted: ItemFilter = EVERYTHING) -> Listed[EvaluationItem]:
        everything = await super().list(parent, Page(1_000_000, page.after))
        rows = [row for row in everything.items if wanted.takes(row.value)]
        shown = rows[: page.size]
        return Listed(shown, f"{shown[-1].value.index:09}" if len(rows) > page.size else None)

    async def scores(self, parent: str) -> Mapping[str, Mapping[str, float]]:
        found = await self.list(parent, Page(1_000_000, None))
        return {row.value.prompt_sha256: row.value.candidate_scores for row in found.items if row.value.prompt_sha256}

    async def pairs(self, first: str, second: str, page: Page) -> ItemPairs:
        of_second = await self.list(second, Page(1_000_000, None))
        by_prompt = {row.value.prompt_sha256: row.value for row in of_second.items if row.value.prompt_sha256}
        of_first = await self.list(first, Page(1_000_000, page.after))
        pairs = [
            (row.value, by_prompt[row.value.prompt_sha256])
            for row in of_first.items
            if row.value.prompt_sha256 in by_prompt
        ]
        shown = pairs[: page.size]
        return ItemPairs(shown, f"{shown[-1][0].index:09}" if len(pairs) > page.size else None)
