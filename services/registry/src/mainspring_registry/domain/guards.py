"""Guard policies as versioned artifacts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mainspring_registry.domain.lines import Line
from mainspring_svckit.names import GuardPolicyVersionName
from mainspring_svckit.values import GuardRule, ServedGuard, rules_sha256


@dataclass(frozen=True)
class GuardPolicy(Line):
    """A named line of guard policies."""


@dataclass(frozen=True)
class GuardPolicyVersion:
    """An immutable set of rules."""

    name: str
    guard_policy: str
    rules: tuple[GuardRule, ...]
    comment: str
    author: str
    create_time: datetime

    @property
    def content(self) -> tuple[GuardRule, ...]:
        """See `LineVersion`."""
        return self.rules

    @property
    def number(self) -> int:
        """Its place in the line, from 1."""
        return int(GuardPolicyVersionName.parse(self.name).version)

    @property
    def served(self) -> ServedGuard:
        """The policy in full, as doors apply it."""
        return ServedGuard(self.name, rules_sha256(self.rules), self.rules)
