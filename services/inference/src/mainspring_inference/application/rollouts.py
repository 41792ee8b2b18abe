"""Use cases of roll-outs: a release gets traffic step by step, and loses it when its answers fail."""

from __future__ import annotations

from dataclasses import replace

from mainspring_answers.domain import RoutingTable, model_of
from mainspring_inference.application.deployments import Deployments
from mainspring_inference.application.ports import Ports
from mainspring_inference.domain.deployments import DeploymentState, deployment_name
from mainspring_inference.domain.rollouts import (
    Rollout,
    RolloutPolicy,
    RolloutState,
    Served,
    Traffic,
    Verdict,
    rollout_name,
)
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import Stored, require
from mainspring_svckit.values import ServedUnit

WORK_KIND = "rollout"
LOOK_AGAIN_S = 1.0


class Rollouts:
    """Use cases of roll-outs. Everything about one model's traffic happens under the lock of its row."""

    def __init__(self, ports: Ports, deployments: Deployments) -> None:
        self._ports, self._deployments = ports, deployments

    async def put_policy(self, policy: RolloutPolicy, *, etag: str, allow_missing: bool) -> Stored[RolloutPolicy]:
        """Writes a policy.

        Raises:
            NotFound: It is missing and `allow_missing` is not set.
            InvalidInput: Its steps do not rise to 100 percent.
            PreconditionFailed: The model has another policy already.
            EtagMismatch: Somebody wrote it since `etag` was read.
        """
        policy.check()
        ports = self._ports
        async with ports.transactions.transaction():
            if not allow_missing:
                await require(ports.policies, "RolloutPolicy", policy.name)
            others = [p.name for p in await ports.policies.find("model", policy.model) if p.name != policy.name]
            if others:
                message = f"{policy.model} has the roll-out policy {others[0]} already; change that one"
                raise PreconditionFailed("MODEL_HAS_POLICY", message, {"rolloutPolicy": others[0]})
            return await ports.policies.put(policy, etag=etag)

    async def start(self, release: str, model_version: str, cycle: str, *, restore_id: str = "") -> None:
        """Begins to move traffic to a release; the same release again changes nothing.

        Args:
            release: The release.
            model_version: Its version.
            cycle: Turn of the loop.
            restore_id: Tells apart the times that an older release is restored; then it gets all traffic at once.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            name = rollout_name(release, f"-{restore_id}" if restore_id else "")
            if await ports.rollouts.get(name):
                return
            model = model_of(model_version)
            await self._lock(model)
            for other in await ports.rollouts.find("model", model):
                if not other.ended:
                    await self._roll_back(other, f"{release} takes its place")
            policy = next(iter(await ports.policies.find("model", model)), None)
            if policy is None or restore_id:
                policy = RolloutPolicy("", model)
            rollout = Rollout(name, model, release, model_version, policy, cycle, ports.clock.now())
            await ports.rollouts.add(rollout)
            await ports.announcements.started(rollout)
            await self._deployments.acquire(model_version, release)
            await ports.work.enqueue(WORK_KIND, name, priority=1)

    async def revoked(self, release: str, reason: str, restored: Served | None, restore_id: str) -> None:
        """Hears that a release was taken back; the restored one gets its traffic, or nothing does."""
        ports = self._ports
        async with ports.transactions.transaction():
            for rollout in await ports.rollouts.find("release", release):
                if not rollout.ended:
                    await self._lock(rollout.model)
                    await self._roll_back(rollout, reason)
            if restored is None:
                await self._stop_serving(release)
                return
            traffic = await self._lock(model_of(restored.model_version))
            if traffic.stable is None or traffic.stable.release != restored.release:
                await self.start(restored.release, restored.model_version, restored.cycle, restore_id=restore_id)

    async def run(self, name: str, lease: Claim) -> None:
        """Takes a roll-out through its steps; safe to repeat from wherever it stands.

        Raises:
            PreconditionFailed: Nobody trusted has signed the release.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            begun = (await require(ports.rollouts, "Rollout", name)).value
        if begun.state is RolloutState.LOADING:
            unit = await ports.catalogue.check_release(begun.release, begun.model_version)
            await self._take_unit(name, unit, lease)
        while True:
            async with ports.transactions.transaction():
                rollout = (await require(ports.rollouts, "Rollout", name)).value
            if rollout.ended:
                async with lease.complete():
                    return
            watched = deployment_name(rollout.model_version) if rollout.state is RolloutState.LOADING else name
            with ports.changes.watch(watched) as changes:
                if not await self._step(name, lease):
                    await changes.wait(LOOK_AGAIN_S)

    async def count(self, model_version: str, release: str, *, failed: bool) -> None:
        """Counts an answer that a release in its roll-out gave."""
        if not release:
            return
        ports = self._ports
        async with ports.transactions.transaction():
            for known in await ports.rollouts.find("release", release):
                if known.state is RolloutState.SHIFTING and known.model_version == model_version:
                    current = (await require(ports.rollouts, "Rollout", known.name, lock=True)).value
                    await ports.rollouts.put(current.counted(failed=failed))
                    await ports.notifier.notify("watch", known.name)

    async def roll_back(self, name: str, reason: str) -> Rollout:
        """Takes the traffic away from a release that is being rolled out, because somebody says so.

        Raises:
            NotFound: There is no such roll-out.
            IllegalTransition: It has ended.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            model = (await require(ports.rollouts, "Rollout", name)).value.model
            await self._lock(model)
            rollout = (await require(ports.rollouts, "Rollout", name, lock=True)).value
            table = await self._roll_back(rollout, reason)
            ended = (await require(ports.rollouts, "Rollout", name)).value
        await self._deployments.publish(table)
        return ended

    async def give_up(self, name: str, error: Exception) -> None:
        """Rolls back what could not be moved. Joins the ambient transaction."""
        rollout = (await require(self._ports.rollouts, "Rollout", name, lock=True)).value
        if not rollout.ended:
            await self._roll_back(rollout, f"the roll-out failed: {error}")

    async def _step(self, name: str, lease: Claim) -> bool:
        """One move if one can be made now; False when there is nothing to do but wait."""
        ports = self._ports
        table: RoutingTable | None = None
        async with lease.transaction():
            model = (await require(ports.rollouts, "Rollout", name)).value.model
            await self._lock(model)
            rollout = (await require(ports.rollouts, "Rollout", name, lock=True)).value
            if rollout.state is RolloutState.LOADING:
                table = await self._step_loading(rollout)
            elif rollout.state is RolloutState.SHIFTING:
                table = await self._step_shifting(rollout)
        if table is not None:
            await self._deployments.publish(table)
        return table is not None

    async def _take_unit(self, name: str, unit: ServedUnit, lease: Claim) -> None:
        async with lease.transaction():
            model = (await require(self._ports.rollouts, "Rollout", name)).value.model
            await self._lock(model)
            rollout = (await require(self._ports.rollouts, "Rollout", name, lock=True)).value
            if not rollout.ended and rollout.unit != unit:
                await self._ports.rollouts.put(replace(rollout, unit=unit))

    async def _step_loading(self, rollout: Rollout) -> RoutingTable | None:
        found = await self._ports.deployments.get(deployment_name(rollout.model_version))
        if found is None:
            await self._deployments.acquire(rollout.model_version, rollout.release)
            return None
        deployment = found.value
        if deployment.state is DeploymentState.FAILED:
            return await self._roll_back(rollout, f"it cannot be loaded: {deployment.error_message}")
        if deployment.state is DeploymentState.READY:
            return await self._shift(rollout, rollout.next_percent)
        return None

    async def _step_shifting(self, rollout: Rollout) -> RoutingTable | None:
        verdict, reason = rollout.verdict(self._ports.clock.now())
        match verdict:
            case Verdict.ROLL_BACK:
                return await self._roll_back(rollout, reason)
            case Verdict.GO_ON if rollout.percent == 100:
                return await self._promote(rollout)
            case Verdict.GO_ON:
                return await self._shift(rollout, rollout.next_percent)
            case Verdict.WAIT:
                if reason != rollout.reason:
                    await self._ports.rollouts.put(replace(rollout, reason=reason))
                return None

    async def _shift(self, rollout: Rollout, percent: int) -> RoutingTable:
        shifted = rollout.shifted(percent, self._ports.clock.now())
        traffic = await self._lock(rollout.model)
        await self._keep(shifted, replace(traffic, candidate=rollout.served, percent=percent))
        await self._ports.announcements.advanced(shifted)
        return await self._deployments.changed_table(rollout.model)

    async def _promote(self, rollout: Rollout) -> RoutingTable:
        promoted = rollout.promoted(self._ports.clock.now())
        traffic = await self._lock(rollout.model)
        await self._keep(promoted, replace(traffic, stable=rollout.served, candidate=None, percent=0))
        await self._ports.announcements.promoted(promoted)
        before = traffic.stable
        if before is not None and before.release != rollout.release:
            await self._deployments.let_go(before.model_version, before.release)
        return await self._deployments.changed_table(rollout.model)

    async def _roll_back(self, rollout: Rollout, reason: str) -> RoutingTable:
        ended = rollout.rolled_back(reason, self._ports.clock.now())
        traffic = await self._lock(rollout.model)
        if traffic.candidate is not None and traffic.candidate.release == rollout.release:
            traffic = replace(traffic, candidate=None, percent=0)
        await self._keep(ended, traffic)
        await self._ports.announcements.rolled_back(ended)
        if traffic.stable is None or traffic.stable.release != rollout.release:
            await self._deployments.let_go(rollout.model_version, rollout.release)
        return await self._deployments.changed_table(rollout.model)

    async def _stop_serving(self, release: str) -> None:
        for traffic in await self._ports.traffic.all():
            if traffic.stable is not None and traffic.stable.release == release:
                locked = await self._lock(traffic.name)
                await self._ports.traffic.put(replace(locked, stable=None))
                await self._deployments.let_go(traffic.stable.model_version, release)
                await self._deployments.changed_table(traffic.name)

    async def _keep(self, rollout: Rollout, traffic: Traffic) -> None:
        await self._ports.rollouts.put(rollout)
        await self._ports.traffic.put(traffic)
        await self._ports.notifier.notify("watch", rollout.name)

    async def _lock(self, model: str) -> Traffic:
        found = await self._ports.traffic.get(model, lock=True)
        if found is not None:
            return found.value
        return (await self._ports.traffic.put(Traffic(model))).value
