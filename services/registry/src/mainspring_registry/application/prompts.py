"""Use cases of prompts."""

from __future__ import annotations

from mainspring_registry.application.lines import Lines, Naming
from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.prompts import Prompt, PromptText, PromptVersion
from mainspring_svckit.names import PromptLabelName, PromptName, PromptVersionName

NAMING = Naming("Prompt", PromptName, PromptVersionName, PromptLabelName, "PROMPT_DIFFERS")


class Prompts(Lines[Prompt, PromptVersion, PromptText]):
    """Prompts, their versions and labels."""

    def __init__(self, ports: Ports) -> None:
        super().__init__(ports, NAMING, ports.prompts, ports.prompt_versions, Prompt, PromptVersion)
