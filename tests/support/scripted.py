"""A scripted inference service, and what programs in Node are asked to do with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from mainspring.common.v1 import artifact_pb2, chat_pb2
from mainspring.events.v1 import registry_events_pb2
from mainspring.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc
from mainspring.inference.v1 import answer_pb2, inference_service_pb2_grpc
from mainspring.inference.v1 import inference_service_pb2 as pb
from mainspring.registry.v1 import model_pb2, registry_service_pb2_grpc
from mainspring.registry.v1 import registry_service_pb2 as registry_pb
from mainspring_svckit.auth import current_principal
from mainspring_svckit.errors import Unavailable

MODEL = "projects/p/models/summaries"
TEXT = 'naïve "100 %" — 日本語 🙂'
# More than a JavaScript number holds exactly.
MANY = (1 << 53) + 1


class Servicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """Answers with what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def answer(self, request: Any) -> answer_pb2.Answer:
        self.asked.append(request)
        answer = answer_pb2.Answer(
            name="projects/p/answers/a-1",
            text=f"{request.messages[-1].content} for {current_principal.get().subject}",
            finish_reason=answer_pb2.FINISH_REASON_LENGTH,
            model_version=f"{MODEL}/versions/3",
            usage=chat_pb2.TokenUsage(input_tokens=MANY, output_tokens=2),
        )
        answer.latency.FromMilliseconds(1250)
        return answer

    async def GenerateAnswer(self, request: pb.GenerateAnswerRequest, context: Any) -> pb.GenerateAnswerResponse:
        if request.model.endswith("/late"):
            await asyncio.Event().wait()  # Ends with the caller's deadline.
        if request.model.endswith("/away"):
            raise Unavailable("MODEL_LOADING", "the model is being loaded; ask again", retry_after_s=3)
        return pb.GenerateAnswerResponse(answer=self.answer(request))

    async def StreamAnswer(
        self, request: pb.StreamAnswerRequest, context: Any
    ) -> AsyncIterator[pb.StreamAnswerResponse]:
        for piece in ("", "naïve ", "🙂"):
            yield pb.StreamAnswerResponse(delta=piece)
        if not request.model.endswith("/cut"):
            yield pb.StreamAnswerResponse(answer=self.answer(request))

    async def ListServedModels(self, request: pb.ListServedModelsRequest, context: Any) -> pb.ListServedModelsResponse:
        return pb.ListServedModelsResponse()


class FeedbackServicer(feedback_service_pb2_grpc.FeedbackServiceServicer):
    """Takes feedback; only the call that the examples make."""

    async def CreateFeedbackItem(
        self, request: feedback_service_pb2.CreateFeedbackItemRequest, context: Any
    ) -> feedback_service_pb2.CreateFeedbackItemResponse:
        item = request.feedback_item
        item.name = f"{request.parent}/feedbackItems/f-1"
        return feedback_service_pb2.CreateFeedbackItemResponse(feedback_item=item)


class RegistryServicer(registry_service_pb2_grpc.RegistryServiceServicer):
    """Lists five models by pages; the token is the number of the first."""

    async def ListModels(self, request: registry_pb.ListModelsRequest, context: Any) -> registry_pb.ListModelsResponse:
        begin = int(request.page_token or 1)
        shown = range(begin, min(begin + request.page_size, 6))
        token = str(shown.stop) if shown.stop < 6 else ""
        models = [model_pb2.Model(name=f"{request.parent}/models/m{number}") for number in shown]
        return registry_pb.ListModelsResponse(models=models, next_page_token=token)


async def lines_of(process: asyncio.subprocess.Process, status: int = 0) -> list[dict[str, Any]]:
    """What it printed, once it has ended."""
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == status, err.decode()
    return [json.loads(line) for line in out.decode().splitlines()]


def released(number: int) -> registry_events_pb2.ModelReleased:
    return registry_events_pb2.ModelReleased(
        release=f"{MODEL}/releases/{number}",
        model=MODEL,
        model_version=f"{MODEL}/versions/{number}",
        release_number=number,
        manifest=artifact_pb2.Artifact(sha256="ab" * 32, size_bytes=MANY, filename=TEXT),
    )
