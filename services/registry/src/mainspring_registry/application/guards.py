"""Use cases of guard policies."""

from __future__ import annotations

import asyncio

from mainspring_guards.guard import Guard
from mainspring_registry.application.lines import Lines, Naming
from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.guards import GuardPolicy, GuardPolicyVersion
from mainspring_svckit.names import GuardPolicyLabelName, GuardPolicyName, GuardPolicyVersionName
from mainspring_svckit.values import GuardRule

NAMING = Naming("GuardPolicy", GuardPolicyName, GuardPolicyVersionName, GuardPolicyLabelName, "GUARD_POLICY_DIFFERS")


class Guards(Lines[GuardPolicy, GuardPolicyVersion, tuple[GuardRule, ...]]):
    """Guard policies, their versions and labels."""

    def __init__(self, ports: Ports) -> None:
        super().__init__(ports, NAMING, ports.guards, ports.guard_versions, GuardPolicy, GuardPolicyVersion)

    async def create(self, name: str, content: tuple[GuardRule, ...], comment: str, author: str) -> GuardPolicyVersion:
        """As every line; rules are compiled as doors will compile them.

        Raises:
            InvalidInput: GUARD_POLICY_INVALID, a rule cannot be applied.
        """
        await asyncio.to_thread(Guard, content)
        return await super().create(name, content, comment, author)
