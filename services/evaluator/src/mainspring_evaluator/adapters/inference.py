"""The serving plane: holds versions in memory and asks them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import grpc

from mainspring.common.v1 import chat_pb2
from mainspring.inference.v1 import answer_pb2, deployment_pb2
from mainspring.inference.v1 import deployment_service_pb2 as deployments
from mainspring.inference.v1 import deployment_service_pb2_grpc as deployments_grpc
from mainspring.inference.v1 import inference_service_pb2 as pb
from mainspring.inference.v1 import inference_service_pb2_grpc as pb_grpc
from mainspring_evaluator.domain.fidelity import Distribution
from mainspring_evaluator.domain.items import Answer, Prompt
from mainspring_evaluator.domain.suites import Sampling
from mainspring_svckit.errors import NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.ids import new_id
from mainspring_svckit.logs import get_logger
from mainspring_svckit.names import ModelVersionName, ProjectName, project_of

_RECONNECT_S = 0.5
_ROLES = {
    "system": chat_pb2.ChatMessage.ROLE_SYSTEM,
    "user": chat_pb2.ChatMessage.ROLE_USER,
    "assistant": chat_pb2.ChatMessage.ROLE_ASSISTANT,
}
log = get_logger(__name__)


class PlaneInference:
    """`Inference` by way of `DeploymentService` and `InferenceService`."""

    def __init__(
        self, channel: grpc.aio.Channel, caller: Caller, *, load_timeout_s: float, answer_timeout_s: float
    ) -> None:
        """Takes where to ask, and the longest waits for a version to be loaded and for one answer."""
        self._deployments: Any = deployments_grpc.DeploymentServiceStub(channel)
        self._answers: Any = pb_grpc.InferenceServiceStub(channel)
        self._caller, self._load_timeout_s, self._answer_timeout_s = caller, load_timeout_s, answer_timeout_s

    async def hold(self, version: str, holder: str) -> None:
        try:
            async with asyncio.timeout(self._load_timeout_s):
                while True:
                    if await self._acquire_and_follow(version, holder):
                        return
                    await asyncio.sleep(_RECONNECT_S)
        except TimeoutError as err:
            message = f"{version} was not loaded within {self._load_timeout_s:.0f} s; look at its deployment"
            raise PreconditionFailed("DEPLOYMENT_FAILED", message, {"modelVersion": version}) from err

    async def _acquire_and_follow(self, version: str, holder: str) -> bool:
        """Asks for the version and follows its deployment; False when it must be asked for again."""
        request = deployments.AcquireDeploymentRequest(
            parent=_project_name(version), holder=holder, model_version=version, request_id=new_id()
        )
        method, answer_type = self._deployments.AcquireDeployment, deployments.AcquireDeploymentResponse
        try:
            name = (await self._caller.unary(method, request, answer_type)).deployment.name
        except (NotFound, PreconditionFailed) as err:
            raise PreconditionFailed("DEPLOYMENT_FAILED", f"{version} cannot be loaded: {err.message}") from err
        watch = self._caller.stream(
            self._deployments.WatchDeployment,
            deployments.WatchDeploymentRequest(name=name),
            deployments.WatchDeploymentResponse,
        )
        try:
            async with aclosing(watch) as changes:  # type: ignore[type-var]
                async for change in changes:
                    if _ready(version, change.deployment):
                        return True
        except (Unavailable, NotFound) as err:
            log.info("deployment_followed_again", version=version, reason=err.reason)
        return False

    async def let_go(self, holder: str) -> None:
        parent = f"projects/{project_of(holder)}"
        token = ""
        while True:
            page = await self._caller.unary(
                self._deployments.ListDeployments,
                deployments.ListDeploymentsRequest(parent=parent, page_size=500, page_token=token),
                deployments.ListDeploymentsResponse,
            )
            for deployment in page.deployments:
                if holder in deployment.holders:
                    await self._release(deployment.name, holder)
            token = page.next_page_token
            if not token:
                return

    async def _release(self, name: str, holder: str) -> None:
        request = deployments.ReleaseDeploymentRequest(name=name, holder=holder, request_id=new_id())
        try:
            await self._caller.unary(
                self._deployments.ReleaseDeployment, request, deployments.ReleaseDeploymentResponse
            )
        except NotFound:
            log.info("deployment_gone_already", deployment=name)

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


def _ready(version: str, deployment: deployment_pb2.Deployment) -> bool:
    if deployment.state == deployment_pb2.Deployment.STATE_FAILED:
        message = f"{version} cannot be loaded: {deployment.error.message or 'no reason was given'}"
        raise PreconditionFailed("DEPLOYMENT_FAILED", message, {"modelVersion": version})
    return deployment.state == deployment_pb2.Deployment.STATE_READY


def _project_name(version: str) -> str:
    return str(ProjectName(ModelVersionName.parse(version).project))
