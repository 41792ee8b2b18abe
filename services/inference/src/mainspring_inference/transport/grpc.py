"""`mainspring.inference.v1`: the door (InferenceService) and the controller (DeploymentService)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from mainspring.inference.v1 import deployment_service_pb2 as deployment_pb
from mainspring.inference.v1 import deployment_service_pb2_grpc as deployment_grpc
from mainspring.inference.v1 import inference_service_pb2 as pb
from mainspring.inference.v1 import inference_service_pb2_grpc as pb_grpc
from mainspring_answers.domain import Delta
from mainspring_answers.path import AnswerPath
from mainspring_answers.routing import RoutingFollower
from mainspring_inference.application.deployments import Deployments
from mainspring_inference.application.ports import Ports
from mainspring_inference.application.rollouts import Rollouts
from mainspring_inference.domain.deployments import Deployment
from mainspring_inference.domain.rollouts import Rollout
from mainspring_inference.transport import mapping
from mainspring_svckit.auth import current_principal
from mainspring_svckit.database import Listener
from mainspring_svckit.names import ProjectName
from mainspring_svckit.reading import Reader
from mainspring_svckit.watching import follow

INFERENCE = "mainspring.inference.v1.InferenceService"
DEPLOYMENT = "mainspring.inference.v1.DeploymentService"


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """The gRPC door on the answer path."""

    def __init__(self, path: AnswerPath, routes: RoutingFollower) -> None:
        self._path, self._routes = path, routes

    async def GenerateAnswer(self, request: pb.GenerateAnswerRequest, context: Any) -> pb.GenerateAnswerResponse:
        question = mapping.question_from_proto(request, current_principal.get())
        return pb.GenerateAnswerResponse(answer=mapping.answer_to_proto(await self._path.generate(question)))

    async def StreamAnswer(
        self, request: pb.StreamAnswerRequest, context: Any
    ) -> AsyncIterator[pb.StreamAnswerResponse]:
        question = mapping.question_from_proto(request, current_principal.get())
        async with aclosing(self._path.stream(question)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    yield pb.StreamAnswerResponse(delta=event.text)
                else:
                    yield pb.StreamAnswerResponse(answer=mapping.answer_to_proto(event))

    async def ScoreText(self, request: pb.ScoreTextRequest, context: Any) -> pb.ScoreTextResponse:
        question = mapping.scored_from_proto(request, current_principal.get())
        return mapping.scored_to_proto(await self._path.score(question, request.text))

    async def ListServedModels(self, request: pb.ListServedModelsRequest, context: Any) -> pb.ListServedModelsResponse:
        project = ProjectName.parse(request.parent, "parent").project
        tables = self._routes.tables(project)
        return pb.ListServedModelsResponse(served_models=[mapping.served_to_proto(table) for table in tables])


class DeploymentServicer(deployment_grpc.DeploymentServiceServicer):
    """The controller; every decision is made in the use cases."""

    def __init__(self, ports: Ports, deployments: Deployments, rollouts: Rollouts, listener: Listener) -> None:
        self._ports, self._deployments, self._rollouts = ports, deployments, rollouts
        self._listener = listener
        self._reader = Reader(ports.transactions)

    async def AcquireDeployment(
        self, request: deployment_pb.AcquireDeploymentRequest, context: Any
    ) -> deployment_pb.AcquireDeploymentResponse:
        deployment = await self._deployments.acquire(request.model_version, request.holder)
        return deployment_pb.AcquireDeploymentResponse(deployment=mapping.deployment_to_proto(deployment))

    async def ReleaseDeployment(
        self, request: deployment_pb.ReleaseDeploymentRequest, context: Any
    ) -> deployment_pb.ReleaseDeploymentResponse:
        deployment = await self._deployments.release(request.name, request.holder)
        return deployment_pb.ReleaseDeploymentResponse(deployment=mapping.deployment_to_proto(deployment))

    async def GetDeployment(
        self, request: deployment_pb.GetDeploymentRequest, context: Any
    ) -> deployment_pb.GetDeploymentResponse:
        found = await self._reader.get(self._ports.deployments, "Deployment", request.name)
        return deployment_pb.GetDeploymentResponse(deployment=mapping.deployment_to_proto(found.value))

    async def ListDeployments(
        self, request: deployment_pb.ListDeploymentsRequest, context: Any
    ) -> deployment_pb.ListDeploymentsResponse:
        listed, token = await self._reader.list(self._ports.deployments, request)
        return deployment_pb.ListDeploymentsResponse(
            deployments=[mapping.deployment_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def WatchDeployment(
        self, request: deployment_pb.WatchDeploymentRequest, context: Any
    ) -> AsyncIterator[deployment_pb.WatchDeploymentResponse]:
        async def read() -> Deployment:
            return (await self._reader.get(self._ports.deployments, "Deployment", request.name)).value

        async for deployment in follow(self._listener, request.name, read, lambda _: False):
            yield deployment_pb.WatchDeploymentResponse(deployment=mapping.deployment_to_proto(deployment))

    async def UpdateRolloutPolicy(
        self, request: deployment_pb.UpdateRolloutPolicyRequest, context: Any
    ) -> deployment_pb.UpdateRolloutPolicyResponse:
        stored = await self._rollouts.put_policy(
            mapping.policy_from_proto(request.rollout_policy),
            etag=request.rollout_policy.etag,
            allow_missing=request.allow_missing,
        )
        return deployment_pb.UpdateRolloutPolicyResponse(rollout_policy=mapping.policy_to_proto(stored))

    async def GetRolloutPolicy(
        self, request: deployment_pb.GetRolloutPolicyRequest, context: Any
    ) -> deployment_pb.GetRolloutPolicyResponse:
        found = await self._reader.get(self._ports.policies, "RolloutPolicy", request.name)
        return deployment_pb.GetRolloutPolicyResponse(rollout_policy=mapping.policy_to_proto(found))

    async def ListRolloutPolicies(
        self, request: deployment_pb.ListRolloutPoliciesRequest, context: Any
    ) -> deployment_pb.ListRolloutPoliciesResponse:
        listed, token = await self._reader.list(self._ports.policies, request)
        return deployment_pb.ListRolloutPoliciesResponse(
            rollout_policies=[mapping.policy_to_proto(item) for item in listed.items], next_page_token=token
        )

    async def GetRollout(
        self, request: deployment_pb.GetRolloutRequest, context: Any
    ) -> deployment_pb.GetRolloutResponse:
        found = await self._reader.get(self._ports.rollouts, "Rollout", request.name)
        return deployment_pb.GetRolloutResponse(rollout=mapping.rollout_to_proto(found.value))

    async def ListRollouts(
        self, request: deployment_pb.ListRolloutsRequest, context: Any
    ) -> deployment_pb.ListRolloutsResponse:
        listed, token = await self._reader.list(self._ports.rollouts, request)
        return deployment_pb.ListRolloutsResponse(
            rollouts=[mapping.rollout_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def WatchRollout(
        self, request: deployment_pb.WatchRolloutRequest, context: Any
    ) -> AsyncIterator[deployment_pb.WatchRolloutResponse]:
        async def read() -> Rollout:
            return (await self._reader.get(self._ports.rollouts, "Rollout", request.name)).value

        async for rollout in follow(self._listener, request.name, read, lambda rollout: rollout.ended):
            yield deployment_pb.WatchRolloutResponse(rollout=mapping.rollout_to_proto(rollout))

    async def RollbackRollout(
        self, request: deployment_pb.RollbackRolloutRequest, context: Any
    ) -> deployment_pb.RollbackRolloutResponse:
        rollout = await self._rollouts.roll_back(request.name, request.reason)
        return deployment_pb.RollbackRolloutResponse(rollout=mapping.rollout_to_proto(rollout))
