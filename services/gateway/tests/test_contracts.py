"""The gateway's ports, each by one suite over the fake and over gRPC; objects of the test are the services there."""

from collections.abc import Sequence
from typing import Any

import pytest

from mainspring.embedding.v1 import embedding_service_pb2
from mainspring.feedback.v1 import feedback_pb2, feedback_service_pb2
from mainspring_gateway.adapters.services import EmbedderClient, FeedbackClient
from mainspring_gateway.application.ports import Embeddings, Feedback, Judgement
from mainspring_svckit.errors import NotFound
from mainspring_svckit.ids import new_id
from mainspring_testkit.neighbours import ServeNeighbours
from mainspring_testkit.plugin import Token

from .fakes import FakeServices

MODEL, MISSING_MODEL = "projects/p/models/e", "projects/p/models/none"
ANSWER, MISSING_ANSWER = "projects/p/answers/a", "projects/p/answers/none"


class EmbeddingsContract:
    """What every embedder does; a fixture `embeddings` with `MODEL` and without `MISSING_MODEL`."""

    async def test_each_text_has_a_vector_of_length_1(self, embeddings: Embeddings) -> None:
        made = await embeddings.embed("p", MODEL, ["a", "b", "a"])
        assert [sum(x * x for x in vector) for vector in made.vectors] == [pytest.approx(1)] * 3
        assert list(made.vectors[0]) == list(made.vectors[2])
        assert made.model_version == f"{MODEL}/versions/1"
        assert made.tokens > 0

    async def test_a_model_that_is_not_there_is_not_found(self, embeddings: Embeddings) -> None:
        with pytest.raises(NotFound):
            await embeddings.embed("p", MISSING_MODEL, ["a"])


class FeedbackContract:
    """What every feedback service does; fixtures `feedback`, which lacks `MISSING_ANSWER`, `sent` (what came, as it
    grows) and `authorization`.
    """

    @pytest.fixture
    def authorization(self, token: Token) -> str:
        return f"Bearer {token('contributor')}"

    @pytest.mark.parametrize(
        "judgement",
        [
            Judgement(ANSWER, thumb=False),
            Judgement(ANSWER, thumb=True, comment="é"),
            Judgement(ANSWER, score=0.0),
            Judgement(ANSWER, correction="better"),
            Judgement(ANSWER, rejected_answer="projects/p/answers/b"),
        ],
    )
    async def test_a_judgement_arrives_as_it_was_given(
        self, feedback: Feedback, sent: Sequence[tuple[str, Judgement, str]], authorization: str, judgement: Judgement
    ) -> None:
        key = new_id()
        item = await feedback.send("p", judgement, request_id=key, authorization=authorization)
        assert item.startswith("projects/p/feedbackItems/")
        assert list(sent) == [("p", judgement, key)]

    async def test_an_answer_that_is_not_there_is_not_found(self, feedback: Feedback, authorization: str) -> None:
        judgement = Judgement(MISSING_ANSWER, thumb=True)
        with pytest.raises(NotFound):
            await feedback.send("p", judgement, request_id=new_id(), authorization=authorization)


class TestFakeServices(EmbeddingsContract, FeedbackContract):
    @pytest.fixture
    def services(self) -> FakeServices:
        made = FakeServices()
        made.missing = {MISSING_MODEL, MISSING_ANSWER}
        return made

    @pytest.fixture
    def embeddings(self, services: FakeServices) -> Embeddings:
        return services

    @pytest.fixture
    def feedback(self, services: FakeServices) -> Feedback:
        return services

    @pytest.fixture
    def sent(self, services: FakeServices) -> Sequence[tuple[str, Judgement, str]]:
        return services.judgements


class Others:
    """The embedder and the feedback service as the gateway sees them."""

    def __init__(self) -> None:
        self.judgements: list[tuple[str, Judgement, str]] = []

    async def EmbedTexts(self, request: Any, context: Any) -> Any:
        if request.embedding_model_version == MISSING_MODEL:
            raise NotFound("Model", MISSING_MODEL)
        answer = embedding_service_pb2.EmbedTextsResponse(embedding_model_version=f"{MODEL}/versions/1")
        for text in request.texts:
            answer.vectors.add(values=[0.6, 0.8] if text == "a" else [0.8, 0.6])
        answer.usage.input_tokens = 5
        return answer

    async def CreateFeedbackItem(self, request: Any, context: Any) -> Any:
        item = request.feedback_item
        if item.answer == MISSING_ANSWER:
            raise NotFound("Answer", item.answer)
        kind = item.WhichOneof("judgement")
        given = {"rejected_answer": item.preference.rejected_answer} if kind == "preference" else None
        judgement = Judgement(item.answer, comment=item.comment, **(given or {kind: getattr(item, kind)}))
        self.judgements.append((request.parent.removeprefix("projects/"), judgement, request.request_id))
        made = feedback_pb2.FeedbackItem(name=f"{request.parent}/feedbackItems/f1")
        return feedback_service_pb2.CreateFeedbackItemResponse(feedback_item=made)


class TestGrpcServices(EmbeddingsContract, FeedbackContract):
    @pytest.fixture
    def others(self) -> Others:
        return Others()

    @pytest.fixture
    async def embeddings(self, others: Others, neighbours: ServeNeighbours) -> Embeddings:
        embedder = await neighbours(others, "embedding.v1.EmbeddingService")
        return EmbedderClient(embedder.channel, embedder.caller)

    @pytest.fixture
    async def feedback(self, others: Others, neighbours: ServeNeighbours) -> Feedback:
        return FeedbackClient((await neighbours(others, "feedback.v1.FeedbackService")).channel)

    @pytest.fixture
    def sent(self, others: Others) -> Sequence[tuple[str, Judgement, str]]:
        return others.judgements
