"""Use cases of prompts."""

from __future__ import annotations

from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.prompts import Prompt, PromptText, PromptVersion
from mainspring_svckit.errors import InvalidInput, NotFound
from mainspring_svckit.names import PromptLabelName, PromptName, PromptVersionName
from mainspring_svckit.repository import require


class Prompts:
    """Prompts, their versions and labels."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def create(self, name: str, text: PromptText, comment: str, author: str) -> PromptVersion:
        """Writes a version; the newest one's own text again gives that version."""
        PromptName.parse(name, "parent")
        ports = self._ports
        async with ports.transactions.transaction():
            found = await ports.prompts.get(name, lock=True)
            prompt = found.value if found is not None else Prompt(name, ports.clock.now())
            if prompt.versions:
                newest = await require(ports.prompt_versions, "PromptVersion", prompt.version(str(prompt.versions)))
                if newest.value.text == text:
                    return newest.value
            prompt, version_name = prompt.with_version()
            version = PromptVersion(version_name, name, text, comment, author, ports.clock.now())
            await ports.prompts.put(prompt)
            return (await ports.prompt_versions.add(version)).value

    async def version(self, name: str) -> PromptVersion:
        """A version by number or by label.

        Raises:
            NotFound: There is no such prompt, label or version.
        """
        async with self._ports.transactions.transaction():
            if PromptLabelName.matches(name):
                label = PromptLabelName.parse(name)
                prompt = await require(self._ports.prompts, "Prompt", str(PromptName(label.project, label.prompt)))
                number = prompt.value.labels.get(label.label)
                if number is None:
                    raise NotFound("PromptVersion", name)
                name = prompt.value.version(number)
            return (await require(self._ports.prompt_versions, "PromptVersion", name)).value

    async def set_label(self, name: str, label: str, version: str) -> Prompt:
        """Points a label at a version.

        Raises:
            InvalidInput: The version is another prompt's.
            NotFound: The prompt or the version does not exist.
        """
        named = PromptVersionName.parse(version, "prompt_version")
        if str(PromptName(named.project, named.prompt)) != name:
            raise InvalidInput(f"{version} is not a version of {name}", reason="PROMPT_DIFFERS")
        async with self._ports.transactions.transaction():
            prompt = (await require(self._ports.prompts, "Prompt", name, lock=True)).value
            await require(self._ports.prompt_versions, "PromptVersion", version)
            return (await self._ports.prompts.put(prompt.with_label(label, version))).value
