"""The serving plane: holds versions in memory and asks them."""

from __future__ import annotations

from typing import Any

import grpc

from mainspring.common.v1 import chat_pb2
from mainspring.inference.v1 import answer_pb2
from mainspring.inference.v1 import inference_service_pb2 as pb
from mainspring.inference.v1 import inference_service_pb2_grpc as pb_grpc
from mainspring_answers.holding import DeploymentHolder
from mainspring_evaluator.domain.fidelity import Distribution
from mainspring_evaluator.domain.items import Answer, Prompt
from mainspring_evaluator.domain.suites import Sampling
from mainspring_svckit.errors import NotFound, Unavailable
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.names import ModelVersionName, ProjectName

_ROLES = {
    "system": chat_pb2.ChatMessage.ROLE_SYSTEM,
    "user": chat_pb2.ChatMessage.ROLE_USER,
    "assistant": chat_pb2.ChatMessage.ROLE_ASSISTANT,
}


class PlaneInference(DeploymentHolder):
    """`Inference` by way of `DeploymentService` and `InferenceService`."""

    def __init__(
        self, channel: grpc.aio.Channel, caller: Caller, *, load_timeout_s: float, answer_timeout_s: float
    ) -> None:
        """Takes where to ask, and the longest waits for a version to be loaded and for one answer."""
        super().__init__(channel, caller, load_timeout_s=load_timeout_s)
        self._answers: Any = pb_grpc.InferenceServiceStub(channel)
        self._caller, self._answer_timeout_s = caller, answer_timeout_s

    async def answer(self, version: str, prompt: Prompt, sampling: Sampling) -> Answer:
        request = pb.GenerateAnswerRequest(
            parent=_project_name(version),
            model=version,
            messages=[chat_pb2.ChatMessage(role=_ROLES[m.role], content=m.content) for m in prompt],
            sampling=answer_pb2.SamplingParameters(
                max_output_tokens=sampling.max_output_tokens, temperature=sampling.temperature, seed=sampling.seed
            ),
        )
        answer = await self._generate(request)
        return Answer(answer.text, answer.latency.ToNanoseconds() / 1e9)

    async def next_tokens(self, version: str, prefix: str, top: int) -> Distribution:
        request = pb.GenerateAnswerRequest(
            parent=_project_name(version),
            model=version,
            raw_prompt=prefix,
            sampling=answer_pb2.SamplingParameters(max_output_tokens=1, temperature=0),
            top_logprobs=top,
        )
        answer = await self._generate(request)
        return {token.token_id: token.logprob for token in answer.first_token_probabilities}

    async def _generate(self, request: pb.GenerateAnswerRequest) -> answer_pb2.Answer:
        method, timeout_s = self._answers.GenerateAnswer, self._answer_timeout_s
        try:
            return (await self._caller.unary(method, request, pb.GenerateAnswerResponse, timeout_s=timeout_s)).answer
        except NotFound as err:
            # A deployment that is ready is known at every door a moment later.
            message = f"{request.model} is not known at the door that was asked"
            raise Unavailable("MODEL_NOT_SERVED", message) from err


def _project_name(version: str) -> str:
    return str(ProjectName(ModelVersionName.parse(version).project))
