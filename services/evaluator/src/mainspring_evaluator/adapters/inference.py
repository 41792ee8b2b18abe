"""The serving plane: holds versions in memory and asks them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from mainspring.common.v1 import unit_pb2
from mainspring.inference.v1 import answer_pb2
from mainspring.inference.v1 import inference_service_pb2 as pb
from mainspring.inference.v1 import inference_service_pb2_grpc as pb_grpc
from mainspring_answers.holding import DeploymentHolder
from mainspring_evaluator.domain.fidelity import Distribution
from mainspring_evaluator.domain.items import Answer, Prompt
from mainspring_evaluator.domain.suites import Retrieval, Sampling
from mainspring_svckit.errors import NotFound, Unavailable
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.mapping import messages_to_proto, unit_to_proto
from mainspring_svckit.names import ModelVersionName, ProjectName
from mainspring_svckit.values import NO_UNIT, ServedUnit


class PlaneInference(DeploymentHolder):
    """`Inference` by way of `DeploymentService` and `InferenceService`."""

    def __init__(
        self, channel: grpc.aio.Channel, caller: Caller, *, load_timeout_s: float, answer_timeout_s: float
    ) -> None:
        """Takes where to ask, and the longest waits for a version to be loaded and for one answer."""
        super().__init__(channel, caller, load_timeout_s=load_timeout_s)
        self._answers: Any = pb_grpc.InferenceServiceStub(channel)
        self._caller, self._answer_timeout_s = caller, answer_timeout_s

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
        request = pb.GenerateAnswerRequest(
            parent=_project_name(version),
            model=version,
            messages=messages_to_proto(prompt),
            sampling=answer_pb2.SamplingParameters(
                max_output_tokens=sampling.max_output_tokens, temperature=sampling.temperature, seed=sampling.seed
            ),
            unit=_stated(unit),
        )
        if context is not None:
            request.context.collection, request.context.top_k = context.collection, context.top_k
        answer = await (self._stream(request) if timed else self._generate(request))
        return Answer(
            answer.text,
            answer.latency.ToNanoseconds() / 1e9,
            answer.first_token_latency.ToNanoseconds() / 1e9 if timed else 0.0,
            answer.usage.input_tokens,
            answer.usage.output_tokens,
            tuple(citation.text for citation in answer.citations),
        )

    async def next_tokens(self, version: str, prefix: str, top: int) -> Distribution:
        request = pb.GenerateAnswerRequest(
            parent=_project_name(version),
            model=version,
            raw_prompt=prefix,
            unit=_stated(NO_UNIT),
            sampling=answer_pb2.SamplingParameters(max_output_tokens=1, temperature=0),
            top_logprobs=top,
        )
        answer = await self._generate(request)
        return {token.token_id: token.logprob for token in answer.first_token_probabilities}

    async def first_tokens(
        self,
        version: str,
        prompt: Prompt,
        top: int,
        *,
        context: Retrieval | None = None,
        unit: ServedUnit = NO_UNIT,
    ) -> Distribution:
        request = pb.GenerateAnswerRequest(
            parent=_project_name(version),
            model=version,
            messages=messages_to_proto(prompt),
            sampling=answer_pb2.SamplingParameters(max_output_tokens=1, temperature=0),
            top_logprobs=top,
            unit=_stated(unit),
        )
        if context is not None:
            request.context.collection, request.context.top_k = context.collection, context.top_k
        answer = await self._generate(request)
        return {token.token_id: token.logprob for token in answer.first_token_probabilities}

    async def score(
        self,
        version: str,
        prompt: Prompt,
        text: str,
        *,
        context: Retrieval | None = None,
        unit: ServedUnit = NO_UNIT,
    ) -> Sequence[float]:
        request = pb.ScoreTextRequest(
            parent=_project_name(version),
            model=version,
            messages=messages_to_proto(prompt),
            text=text,
            unit=_stated(unit),
        )
        if context is not None:
            request.context.collection, request.context.top_k = context.collection, context.top_k
        method, timeout_s = self._answers.ScoreText, self._answer_timeout_s
        with _served(version):
            scored = await self._caller.unary(method, request, pb.ScoreTextResponse, timeout_s=timeout_s)
        return [token.logprob for token in scored.tokens]

    async def _generate(self, request: pb.GenerateAnswerRequest) -> answer_pb2.Answer:
        method, timeout_s = self._answers.GenerateAnswer, self._answer_timeout_s
        with _served(request.model):
            return (await self._caller.unary(method, request, pb.GenerateAnswerResponse, timeout_s=timeout_s)).answer

    async def _stream(self, request: pb.GenerateAnswerRequest) -> answer_pb2.Answer:
        """The same as a stream, in whose end the time of the first token stands."""
        wanted = pb.StreamAnswerRequest.FromString(request.SerializeToString())
        method, timeout_s = self._answers.StreamAnswer, self._answer_timeout_s
        with _served(request.model):
            async for message in self._caller.stream(method, wanted, pb.StreamAnswerResponse, timeout_s=timeout_s):
                if message.HasField("answer"):
                    return message.answer
        raise Unavailable("INFERENCE_FAILED", "the stream of an answer ended without the answer")


def _stated(unit: ServedUnit) -> unit_pb2.ServedUnit:
    """What a version is asked with, said also when it is nothing: the release's guard would go along otherwise."""
    return unit_to_proto(unit) or unit_pb2.ServedUnit()


@contextmanager
def _served(model: str) -> Iterator[None]:
    """A deployment that is ready is known at every door a moment later."""
    try:
        yield
    except NotFound as err:
        raise Unavailable("MODEL_NOT_SERVED", f"{model} is not known at the door that was asked") from err


def _project_name(version: str) -> str:
    return str(ProjectName(ModelVersionName.parse(version).project))
