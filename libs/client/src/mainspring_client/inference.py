"""Answers, and the roll-out of releases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from mainspring.common.v1 import chat_pb2
from mainspring.inference.v1 import (
    answer_pb2,
    deployment_service_pb2_grpc,
    inference_service_pb2_grpc,
    rollout_pb2,
)
from mainspring.inference.v1 import deployment_service_pb2 as deployment_pb
from mainspring.inference.v1 import inference_service_pb2 as pb
from mainspring_client.connection import Area, Connection
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.names import ProjectName

_ANSWER_TIMEOUT_S = 300.0
Conversation = str | Sequence[chat_pb2.ChatMessage]


class Inference(Area):
    """Client of inference; `stub` and `deployments` are the generated ones."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        channel = connection.channel("inference")
        self.stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        self.deployments = deployment_service_pb2_grpc.DeploymentServiceStub(channel)

    async def answer(
        self,
        model: str,
        conversation: Conversation,
        *,
        system: str = "",
        sampling: answer_pb2.SamplingParameters | None = None,
        context: answer_pb2.ContextRequest | None = None,
        session: str = "",
    ) -> answer_pb2.Answer:
        """A whole answer.

        Args:
            model: `projects/{project}/models/{model}` for what is released, or one of its versions.
            conversation: A user's message, or a list of messages that ends with the one to answer.
            system: Instructions that stand above the conversation.
            sampling: How tokens are chosen.
            context: Passages of a collection to put before the question.
            session: Requests of one session are answered by the same version while traffic moves.
        """
        request = pb.GenerateAnswerRequest(
            parent="/".join(model.split("/")[:2]),
            model=model,
            messages=_messages(conversation, system),
            sampling=sampling,
            context=context,
            session=session,
        )
        response = await self._unary(self.stub.GenerateAnswer, request, pb.GenerateAnswerResponse, _ANSWER_TIMEOUT_S)
        return response.answer

    async def stream(
        self,
        model: str,
        conversation: Conversation,
        *,
        system: str = "",
        sampling: answer_pb2.SamplingParameters | None = None,
        context: answer_pb2.ContextRequest | None = None,
        session: str = "",
    ) -> AsyncIterator[str | answer_pb2.Answer]:
        """Pieces of text as they are generated, then the whole answer. Arguments as for `answer`.

        Raises:
            Unavailable: ANSWER_CUT_SHORT, the stream ended before the answer was whole.
        """
        request = pb.StreamAnswerRequest(
            parent="/".join(model.split("/")[:2]),
            model=model,
            messages=_messages(conversation, system),
            sampling=sampling,
            context=context,
            session=session,
        )
        whole = False
        responses = self._connection.caller.stream(
            self.stub.StreamAnswer, request, pb.StreamAnswerResponse, timeout_s=_ANSWER_TIMEOUT_S
        )
        async for response in responses:
            if response.WhichOneof("event") == "answer":
                whole = True
                yield response.answer
            else:
                yield response.delta
        if not whole:
            raise Unavailable("ANSWER_CUT_SHORT", "the stream ended before the answer was whole; ask again")

    async def score(
        self, model: str, conversation: Conversation, text: str, *, system: str = ""
    ) -> Sequence[answer_pb2.TokenProbability]:
        """How probable a text is as the answer, token by token; arguments as for `answer`. Nothing is recorded."""
        request = pb.ScoreTextRequest(
            parent="/".join(model.split("/")[:2]), model=model, messages=_messages(conversation, system), text=text
        )
        return (await self._unary(self.stub.ScoreText, request, pb.ScoreTextResponse, _ANSWER_TIMEOUT_S)).tokens

    async def served_models(self, project: str) -> Sequence[pb.ServedModel]:
        """The models that can be called now, by name."""
        request = pb.ListServedModelsRequest(parent=str(ProjectName(project)))
        return (await self._unary(self.stub.ListServedModels, request, pb.ListServedModelsResponse)).served_models

    def rollouts(self, project: str) -> AsyncIterator[rollout_pb2.Rollout]:
        """A project's roll-outs, newest first."""
        request = deployment_pb.ListRolloutsRequest(parent=str(ProjectName(project)))
        return self._pages(
            self.deployments.ListRollouts, request, deployment_pb.ListRolloutsResponse, lambda r: r.rollouts
        )

    async def watch_rollout(self, name: str) -> AsyncIterator[rollout_pb2.Rollout]:
        """The roll-out now and after each change, until it has ended."""
        request = deployment_pb.WatchRolloutRequest(name=name)
        kind = deployment_pb.WatchRolloutResponse
        async for response in self._watch(self.deployments.WatchRollout, request, kind):
            yield response.rollout


def _messages(conversation: Conversation, system: str) -> list[chat_pb2.ChatMessage]:
    messages = [chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_SYSTEM, content=system)] if system else []
    if isinstance(conversation, str):
        return [*messages, chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_USER, content=conversation)]
    return [*messages, *conversation]
