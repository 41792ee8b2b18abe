"""From what a policy names to what doors apply: prompt and guard policy in full. Joins the ambient transaction."""

from __future__ import annotations

from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.policies import ServingUnit
from mainspring_registry.domain.releases import Release
from mainspring_svckit.errors import InvalidInput, NotFound
from mainspring_svckit.values import Message, ServedGuard, ServedUnit

MAX_PROMPT_CHARACTERS = 100_000
"""It travels in every routing table, which is one message on the bus."""


class Units:
    """Looks prompts up and fills them in, and guard policies."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def served(self, unit: ServingUnit) -> ServedUnit:
        """The unit as doors apply it.

        Raises:
            InvalidInput: UNIT_NOT_SERVABLE, it names what no door can apply.
        """
        unit.check()
        prompt: tuple[Message, ...] = ()
        if unit.prompt_version:
            found = await self._ports.prompt_versions.get(unit.prompt_version)
            if found is None:
                message = f"there is no prompt version {unit.prompt_version}; write it first"
                raise InvalidInput(message, reason="UNIT_NOT_SERVABLE")
            prompt = found.value.text.filled(unit.prompt_variables)
        length = sum(len(message.content) for message in prompt)
        if length > MAX_PROMPT_CHARACTERS:
            message = f"the prompt has {length} characters, at most {MAX_PROMPT_CHARACTERS} can go live"
            raise InvalidInput(message, reason="UNIT_NOT_SERVABLE")
        guard = await self._guard(unit.guard_policy) if unit.guard_policy else None
        return ServedUnit(unit.prompt_version, prompt, unit.collection, unit.temperature, unit.max_output_tokens, guard)

    async def _guard(self, name: str) -> ServedGuard:
        found = await self._ports.guard_versions.get(name)
        if found is None:
            message = f"there is no guard policy version {name}; write it first"
            raise InvalidInput(message, reason="UNIT_NOT_SERVABLE")
        return found.value.served

    async def of_release(self, release: Release) -> ServedUnit:
        """What a release has doors apply; releases from before units were kept in full are looked up."""
        if release.served_unit is not None:
            return release.served_unit
        try:
            return await self.served(release.unit)
        except (InvalidInput, NotFound):
            return ServedUnit(temperature=release.unit.temperature)
