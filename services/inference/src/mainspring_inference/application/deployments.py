"""Use cases of deployments: hold, let go, load, unload, and notice what Triton has lost."""

from __future__ import annotations

from dataclasses import replace

from mainspring_answers.domain import RoutingTable
from mainspring_inference.application.ports import Ports
from mainspring_inference.domain.deployments import Deployment, DeploymentState, deployment_name, new_deployment
from mainspring_inference.domain.rollouts import Traffic
from mainspring_inference.domain.routing import routing_table
from mainspring_svckit.errors import NotFound, Unavailable, failure_of
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require

WORK_KIND = "deployment"
LINGER_S = 10.0
"""A version that nobody holds stays in memory for so long; what was just evaluated is often released next."""


class Deployments:
    """Use cases of deployments. The routing table of a model follows from its deployments and its traffic."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def acquire(self, model_version: str, holder: str) -> Deployment:
        """Holds a version in memory on behalf of somebody; repeats change nothing."""
        ports = self._ports
        async with ports.transactions.transaction():
            name = deployment_name(model_version)
            found = await ports.deployments.get(name, lock=True)
            before = found.value if found is not None else None
            after = (
                before.held_by(holder)
                if before is not None
                else new_deployment(model_version, holder, ports.clock.now())
            )
            if after == before:
                return after
            await ports.deployments.put(after)
            if before is None or after.state is not before.state:
                await ports.work.enqueue(WORK_KIND, name, priority=1, coalesce=True)
            await ports.notifier.notify("watch", name)
            return after

    async def release(self, name: str, holder: str) -> Deployment:
        """Ends a holder's need; repeats change nothing.

        Raises:
            NotFound: There is no such deployment.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            before = (await require(ports.deployments, "Deployment", name, lock=True)).value
            after = before.let_go_by(holder)
            if after != before:
                await ports.deployments.put(after)
                await ports.notifier.notify("watch", name)
            if after.state is DeploymentState.UNLOADING and before.state is not DeploymentState.UNLOADING:
                await ports.work.enqueue(WORK_KIND, name, delay_s=LINGER_S, coalesce=True)
            return after

    async def let_go(self, model_version: str, holder: str) -> None:
        """As `release`, for a version that may not be deployed at all."""
        try:
            await self.release(deployment_name(model_version), holder)
        except NotFound:
            return

    async def settle(self, name: str, lease: Claim) -> None:
        """Brings Triton to what a deployment's state asks for.

        Raises:
            MainspringError: It could not be done now, or never; see `ModelServer.load`.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            found = await ports.deployments.get(name)
        if found is None or found.value.state in {DeploymentState.READY, DeploymentState.FAILED}:
            async with lease.complete():
                return
        deployment = found.value
        if deployment.state is DeploymentState.UNLOADING:
            await self._unload(deployment, lease)
            return
        version = await ports.catalogue.servable(deployment.model_version)
        await ports.server.load(deployment.triton_model, version)
        async with lease.complete():
            current = (await require(ports.deployments, "Deployment", name, lock=True)).value
            if current.state is DeploymentState.LOADING:
                await ports.deployments.put(current.loaded(version.serving, ports.clock.now()))
            table = await self.changed_table(deployment.model)
            await ports.notifier.notify("watch", name)
        await self.publish(table)

    async def give_up(self, name: str, error: Exception) -> None:
        """Records why a version cannot be loaded. Joins the ambient transaction."""
        found = await self._ports.deployments.get(name, lock=True)
        if found is not None and found.value.state is DeploymentState.LOADING:
            await self._ports.deployments.put(found.value.failed(*failure_of(error)))
            await self.changed_table(found.value.model)
            await self._ports.notifier.notify("watch", name)

    async def reconcile(self) -> None:
        """Notices what Triton has lost, and publishes tables that did not get through; called every few seconds.

        Raises:
            Unavailable: Triton is away; nothing can be said about its models.
        """
        ports = self._ports
        # In this order: what becomes ready meanwhile is not mistaken for lost.
        async with ports.transactions.transaction():
            ready = await ports.deployments.find("state", DeploymentState.READY.value)
        loaded = await ports.server.loaded()
        for deployment in ready:
            if deployment.triton_model not in loaded:
                await self._reload(deployment.name)
        await self.publish_all()

    async def publish_all(self) -> None:
        """Puts up every table once more; the board keeps newer ones."""
        ports = self._ports
        async with ports.transactions.transaction():
            tables = [
                routing_table(traffic, await ports.deployments.find("model", traffic.name))
                for traffic in await ports.traffic.all()
            ]
        for table in tables:
            await self.publish(table)

    async def changed_table(self, model: str) -> RoutingTable:
        """The model's routing table with a new revision. Joins the ambient transaction; publish it after the commit."""
        ports = self._ports
        found = await ports.traffic.get(model, lock=True)
        traffic = found.value if found is not None else Traffic(model)
        traffic = replace(traffic, revision=traffic.revision + 1)
        await ports.traffic.put(traffic)
        return routing_table(traffic, await ports.deployments.find("model", model))

    async def publish(self, table: RoutingTable) -> None:
        """Puts a table up; when the bus is away `reconcile` does it later."""
        try:
            await self._ports.board.publish(table)
        except Unavailable:
            return

    async def _unload(self, deployment: Deployment, lease: Claim) -> None:
        ports = self._ports
        # Doors must have stopped sending questions before the model leaves memory.
        async with lease.transaction():
            table = await self.changed_table(deployment.model)
        await self.publish(table)
        await ports.server.unload(deployment.triton_model)
        async with lease.complete():
            current = await ports.deployments.get(deployment.name, lock=True)
            if current is not None and current.value.state is DeploymentState.UNLOADING:
                await ports.deployments.remove(deployment.name)
            await ports.notifier.notify("watch", deployment.name)

    async def _reload(self, name: str) -> None:
        ports = self._ports
        async with ports.transactions.transaction():
            current = await ports.deployments.get(name, lock=True)
            if current is not None and current.value.state is DeploymentState.READY:
                await ports.deployments.put(current.value.lost())
                await ports.work.enqueue(WORK_KIND, name, priority=1, coalesce=True)
                await ports.notifier.notify("watch", name)
