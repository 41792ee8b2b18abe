"""Holds model versions in memory on somebody's behalf: the client's side of deployments."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import grpc

from mainspring.inference.v1 import deployment_pb2
from mainspring.inference.v1 import deployment_service_pb2 as pb
from mainspring.inference.v1 import deployment_service_pb2_grpc as pb_grpc
from mainspring_svckit.errors import NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.ids import new_id
from mainspring_svckit.logs import get_logger
from mainspring_svckit.names import ModelVersionName, ProjectName, project_of

_RECONNECT_S = 0.5
log = get_logger(__name__)


class DeploymentHolder:
    """Acquires, follows and releases deployments by `DeploymentService`."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller, *, load_timeout_s: float) -> None:
        """Takes where to ask, and the longest wait for a version to be loaded."""
        self._stub: Any = pb_grpc.DeploymentServiceStub(channel)
        self._caller, self._load_timeout_s = caller, load_timeout_s

    async def ask_for(self, version: str, holder: str) -> None:
        """Holds a version without waiting until it is loaded; repeats change nothing.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: DEPLOYMENT_FAILED, it cannot be loaded.
            Unavailable: The serving plane is away.
        """
        _ready(version, await self._acquire(version, holder))

    async def hold(self, version: str, holder: str) -> None:
        """Holds a version and returns when it answers; repeats change nothing.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: DEPLOYMENT_FAILED, it cannot be loaded, or was not in time.
            Unavailable: The serving plane is away.
        """
        try:
            async with asyncio.timeout(self._load_timeout_s):
                while True:
                    deployment = await self._acquire(version, holder)
                    if _ready(version, deployment) or await self._becomes_ready(version, deployment.name):
                        return
                    await asyncio.sleep(_RECONNECT_S)
        except TimeoutError as err:
            message = f"{version} was not loaded within {self._load_timeout_s:.0f} s; look at its deployment"
            raise PreconditionFailed("DEPLOYMENT_FAILED", message, {"modelVersion": version}) from err

    async def let_go(self, holder: str) -> None:
        """Releases everything that a holder holds in its project; repeats change nothing.

        Args:
            holder: A resource name; what it holds is looked for in its project.

        Raises:
            Unavailable: The serving plane is away.
        """
        parent = f"projects/{project_of(holder)}"
        token = ""
        while True:
            page = await self._caller.unary(
                self._stub.ListDeployments,
                pb.ListDeploymentsRequest(parent=parent, page_size=500, page_token=token),
                pb.ListDeploymentsResponse,
            )
            for deployment in page.deployments:
                if holder in deployment.holders:
                    await self._release(deployment.name, holder)
            token = page.next_page_token
            if not token:
                return

    async def _release(self, name: str, holder: str) -> None:
        request = pb.ReleaseDeploymentRequest(name=name, holder=holder, request_id=new_id())
        try:
            await self._caller.unary(self._stub.ReleaseDeployment, request, pb.ReleaseDeploymentResponse)
        except NotFound:
            log.info("deployment_gone_already", deployment=name)

    async def _acquire(self, version: str, holder: str) -> deployment_pb2.Deployment:
        project = ProjectName(ModelVersionName.parse(version).project)
        request = pb.AcquireDeploymentRequest(
            parent=str(project), holder=holder, model_version=version, request_id=new_id()
        )
        answer = await self._caller.unary(self._stub.AcquireDeployment, request, pb.AcquireDeploymentResponse)
        return answer.deployment

    async def _becomes_ready(self, version: str, deployment: str) -> bool:
        """Follows a deployment until it is ready; False when it must be asked for again."""
        request = pb.WatchDeploymentRequest(name=deployment)
        watch = self._caller.stream(self._stub.WatchDeployment, request, pb.WatchDeploymentResponse)
        try:
            async with aclosing(watch) as changes:  # type: ignore[type-var]
                async for change in changes:
                    if _ready(version, change.deployment):
                        return True
        except (Unavailable, NotFound) as err:
            log.info("deployment_followed_again", version=version, reason=err.reason)
        return False


def _ready(version: str, deployment: deployment_pb2.Deployment) -> bool:
    if deployment.state == deployment_pb2.Deployment.STATE_FAILED:
        message = f"{version} cannot be loaded: {deployment.error.message or 'no reason was given'}"
        raise PreconditionFailed("DEPLOYMENT_FAILED", message, {"modelVersion": version})
    return deployment.state == deployment_pb2.Deployment.STATE_READY
