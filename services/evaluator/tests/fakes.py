"""The fakes of this service's own ports; each passes the contract suite of its port."""

from collections.abc import AsyncIterator, Mapping, Sequence

from mainspring_evaluator.application.ports import TestSplit, VersionInfo
from mainspring_evaluator.domain.fidelity import Distribution
from mainspring_evaluator.domain.items import Answer, EvaluationItem, Message, Prompt
from mainspring_evaluator.domain.suites import Sampling
from mainspring_svckit.errors import (
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from mainspring_testkit.fakes import (
    FakeRepository,
)

MODEL, BASE = "projects/p/models/m", "projects/p/models/base/versions/1"
FIRST, SECOND = f"{MODEL}/versions/1", f"{MODEL}/versions/2"
DATA = "projects/p/datasets/d/versions/1"
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
        self.asked: list[str] = []

    async def test_split(self, dataset_version: str) -> TestSplit:
        self.asked.append(dataset_version)
        if dataset_version != DATA:
            raise PreconditionFailed("DATASET_UNREADABLE", "not there")

        async def batches() -> AsyncIterator[Sequence[Sequence[Message]]]:
            yield self.rows

        return TestSplit("root", batches())


class FakeInference:
    """Answers with a reference for versions of the model, and with one word for the base."""

    def __init__(self) -> None:
        self.held: set[tuple[str, str]] = set()
        self.refused: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.failures: dict[str, list[Exception]] = {}
        self.tokens: dict[str, Distribution] = {}
        self.sampling: Sampling | None = None

    async def hold(self, version: str, holder: str) -> None:
        if version in self.refused:
            raise PreconditionFailed("DEPLOYMENT_FAILED", "bad weights")
        self.held.add((version, holder))

    async def let_go(self, holder: str) -> None:
        self.held = {(version, by) for version, by in self.held if by != holder}

    async def answer(self, version: str, prompt: Prompt, sampling: Sampling) -> Answer:
        if not any(version == held for held, _ in self.held):
            raise Unavailable("MODEL_NOT_SERVED", f"{version} is not held")
        self.sampling = sampling
        question = prompt[-1].content
        if self.failures.get(question):
            raise self.failures[question].pop()
        self.asked.append((version, question))
        text = next(answer for asked, answer in ROWS if asked == question) if version != BASE else f"{question}\x00"
        return Answer(text, float(len(self.asked)))

    async def next_tokens(self, version: str, prefix: str, top: int) -> Distribution:
        assert (version, top) == (FIRST, 200)
        return self.tokens[prefix]


class FakeAnswers:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Answer] = {}

    async def known(self, project: str, keys: Sequence[str]) -> Mapping[str, Answer]:
        return {key: self.rows[project, key] for key in keys if (project, key) in self.rows}

    async def put(self, project: str, key: str, answer: Answer) -> None:
        self.rows.setdefault((project, key), answer)


class FakeItems(FakeRepository[EvaluationItem]):
    def __init__(self) -> None:
        super().__init__(parent=lambda i: i.run, sort_key=lambda i: f"{i.index:09}")

    async def add_all(self, items: Sequence[EvaluationItem]) -> None:
        for item in items:
            await self.add(item)
