"""What other services know, asked as they are asked: real gRPC, behind it an object of the test."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from mainspring.common.v1 import artifact_pb2, chat_pb2
from mainspring.data.v1 import dataset_pb2
from mainspring.evaluation.v1 import evaluation_service_pb2, suite_pb2
from mainspring.feedback.v1 import feedback_pb2, feedback_service_pb2
from mainspring.registry.v1 import lineage_pb2, model_pb2, registry_service_pb2
from mainspring_data_ingest.adapters.connections import Connections
from mainspring_data_ingest.adapters.feedback import FeedbackAnswers
from mainspring_data_ingest.adapters.fetching import AllowedFetcher
from mainspring_data_ingest.adapters.lineage import TOKENIZER, RegistryLineage, RegistryTokenizers
from mainspring_data_ingest.adapters.suites import EvaluatorSuites
from mainspring_data_ingest.application.sources import Sources
from mainspring_data_ingest.domain.places import Judged
from mainspring_data_ingest.domain.shapes import recognise
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.errors import NotFound, PreconditionFailed
from mainspring_testkit.fakes import FakeArtifacts
from mainspring_testkit.neighbours import ServeNeighbours

from .fakes import uploads

SUITE, MODEL = "projects/p/evaluationSuites/s", "projects/p/models/m/versions"
VERSION = "projects/p/datasets/d/versions"


def suite(number: int, **fields: Any) -> suite_pb2.EvaluationSuiteVersion:
    what = suite_pb2.EvaluationSuite(name=SUITE, **fields)
    return suite_pb2.EvaluationSuiteVersion(name=f"{SUITE}/versions/{number}", evaluation_suite=what)


async def test_a_suite_s_datasets_are_those_of_the_version_that_is_named(neighbours: ServeNeighbours) -> None:
    items = suite_pb2.DatasetItems(dataset_version=f"{VERSION}/2", split=dataset_pb2.SPLIT_VALIDATION)
    sources = [
        suite_pb2.ItemSource(task="own", dataset=items),
        suite_pb2.ItemSource(task="plain", dataset=suite_pb2.DatasetItems(dataset_version=f"{VERSION}/3")),
        suite_pb2.ItemSource(task="harm", safety=suite_pb2.SafetyItems(set=suite_pb2.SafetyItems.SET_JAILBREAK)),
    ]
    pages = {"": [suite(3)], "more": [suite(2, dataset_version=f"{VERSION}/1", sources=sources), suite(1)]}

    async def listed(request: Any, context: Any) -> Any:
        assert request.parent == SUITE
        return evaluation_service_pb2.ListEvaluationSuiteVersionsResponse(
            evaluation_suite_versions=pages[request.page_token], next_page_token="" if request.page_token else "more"
        )

    found = await neighbours(SimpleNamespace(ListEvaluationSuiteVersions=listed), "evaluation.v1.EvaluationService")
    suites = EvaluatorSuites(found.channel, found.caller)
    assert await suites.splits_of(f"{SUITE}/versions/2") == (
        (f"{VERSION}/1", Split.TEST),
        (f"{VERSION}/2", Split.VALIDATION),
        (f"{VERSION}/3", Split.TEST),
    )
    assert await suites.splits_of(f"{SUITE}/versions/3") == ()
    with pytest.raises(NotFound):
        await suites.splits_of(f"{SUITE}/versions/9")


async def test_an_adapter_has_the_tokenizer_of_its_base(neighbours: ServeNeighbours) -> None:
    file = artifact_pb2.Artifact(sha256="a" * 64, size_bytes=7)
    versions = {
        f"{MODEL}/1": model_pb2.ModelVersion(name=f"{MODEL}/1", artifacts={TOKENIZER: file}),
        f"{MODEL}/2": model_pb2.ModelVersion(name=f"{MODEL}/2", base_model_version=f"{MODEL}/1"),
        f"{MODEL}/3": model_pb2.ModelVersion(name=f"{MODEL}/3", artifacts={"gguf": file}),
    }

    async def got(request: Any, context: Any) -> Any:
        return registry_service_pb2.GetModelVersionResponse(model_version=versions[request.name])

    found = await neighbours(SimpleNamespace(GetModelVersion=got), "registry.v1.RegistryService")
    tokenizers = RegistryTokenizers(found.channel, found.caller)
    assert (await tokenizers.of(f"{MODEL}/2")).sha256 == "a" * 64
    with pytest.raises(PreconditionFailed) as caught:
        await tokenizers.of(f"{MODEL}/3")
    assert caught.value.reason == "MODEL_WITHOUT_TOKENIZER"


async def test_who_learned_from_data_is_what_the_registry_has_downstream_of_it(neighbours: ServeNeighbours) -> None:
    request_type = registry_service_pb2.GetLineageRequest
    learned = [f"{MODEL}/2", "projects/p/models/m/releases/4", f"{MODEL}/3"]
    others = [f"{VERSION}/1", "projects/p/trainingRuns/r", "projects/p/evaluationRuns/e", "projects/p/answers/a"]

    async def lineage(request: Any, context: Any) -> Any:
        assert request.direction == request_type.DIRECTION_DOWNSTREAM
        if request.name != f"{VERSION}/1":
            raise NotFound("DatasetVersion", request.name)
        nodes = [lineage_pb2.LineageNode(name=name) for name in (*others[:2], *learned, *others[2:])]
        return registry_service_pb2.GetLineageResponse(nodes=nodes)

    found = await neighbours(SimpleNamespace(GetLineage=lineage), "registry.v1.RegistryService")
    registry = RegistryLineage(found.channel, found.caller)
    assert await registry.saw(f"{VERSION}/1") == learned
    assert await registry.saw(f"{VERSION}/2") == []


def judged_answer(number: int, **lesson: Any) -> feedback_pb2.JudgedAnswer:
    messages = [
        chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_USER, content=f"q{number}"),
        chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_ASSISTANT, content=f"a{number}"),
    ]
    return feedback_pb2.JudgedAnswer(answer=f"projects/p/answers/{number}", messages=messages, **lesson)


async def test_judged_answers_become_a_file_of_our_rows_the_oldest_judgement_first(
    neighbours: ServeNeighbours,
) -> None:
    pages = {
        "": [judged_answer(n, desirable=False) for n in range(1200, 1, -1)],
        "more": [judged_answer(1, rejected="w")],
    }
    asked: list[Any] = []

    async def listed(request: Any, context: Any) -> Any:
        asked.append(request)
        return feedback_service_pb2.ListJudgedAnswersResponse(
            judged_answers=pages[request.page_token], next_page_token="" if request.page_token else "more"
        )

    found = await neighbours(SimpleNamespace(ListJudgedAnswers=listed), "feedback.v1.FeedbackService")
    fetcher = AllowedFetcher(Connections.parse(""), 20, FeedbackAnswers(found.channel, found.caller))
    files, previewer = FakeArtifacts(), SimpleNamespace()
    sources = Sources(previewer, fetcher, uploads(files))  # pyright: ignore[reportArgumentType] - nobody looks into it.
    wanted = Judged("projects/p/models/m", start=datetime(2026, 1, 2, tzinfo=UTC))
    ((artifact, origin),) = [one async for one in sources.fetch("p", wanted)]
    rows = [json.loads(line) for line in (await files.read("p", artifact)).splitlines()]
    assert [row["messages"][0]["content"] for row in rows] == [f"q{n}" for n in range(1, 1201)]
    assert (rows[0]["rejected"], rows[0]["desirable"]) == ("w", None)
    assert (rows[1]["rejected"], rows[1]["desirable"]) == (None, False)
    assert origin == "judged answers projects/p/models/m from 2026-01-02T00:00:00+00:00"
    assert (asked[0].parent, asked[0].model) == ("projects/p", "projects/p/models/m")
    assert asked[0].start_time.ToDatetime(UTC) == wanted.start
    recognised = recognise(rows[:100])
    assert recognised is not None
    columns = recognised[1]
    assert (columns.messages_column, columns.rejected_column, columns.desirable_column) == (
        "messages",
        "rejected",
        "desirable",
    )
    pages[""], pages["more"] = [], []
    with pytest.raises(PreconditionFailed) as caught:
        [one async for one in sources.fetch("p", wanted)]
    assert caught.value.reason == "NO_JUDGED_ANSWERS"


async def test_feedback_is_asked_to_forget_in_the_project_of_the_erasure(neighbours: ServeNeighbours) -> None:
    asked: list[Any] = []

    async def erase(request: Any, context: Any) -> Any:
        asked.append(request)
        return feedback_service_pb2.EraseFeedbackContentResponse(erased_answers=2, erased_feedback_items=1)

    found = await neighbours(SimpleNamespace(EraseFeedbackContent=erase), "feedback.v1.FeedbackService")
    assert await FeedbackAnswers(found.channel, found.caller).erase("p", "ada") == (2, 1)
    assert [(request.parent, request.text) for request in asked] == [("projects/p", "ada")]
