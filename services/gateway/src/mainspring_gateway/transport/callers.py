"""Who comes to the door, and in which project.

Annotations are evaluated here (no `from __future__ import annotations`), since FastAPI reads dependencies from them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header

from mainspring_svckit.auth import TokenVerifier
from mainspring_svckit.errors import InvalidInput, NotFound
from mainspring_svckit.names import is_id


@dataclass(frozen=True)
class Caller:
    """Who asks, in which project, with which header."""

    subject: str
    project: str
    authorization: str


def admit(verifier: TokenVerifier, role: str) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets only callers in who hold `role` in the project that they name, or in their only one."""

    async def admitted(
        authorization: Annotated[str | None, Header()] = None,
        openai_project: Annotated[str | None, Header(alias="OpenAI-Project")] = None,
    ) -> Caller:
        principal = verifier.verify_header(authorization)
        principal.require(role)
        named = sorted(principal.projects - {"*"})
        project = openai_project or (named[0] if len(named) == 1 else "")
        if not project:
            message = "your token is good for several projects; name one in the header OpenAI-Project"
            raise InvalidInput(message, reason="PROJECT_MISSING")
        if not is_id(project) or not principal.may_see(project):
            raise NotFound("Project", f"projects/{project[:100]}")
        return Caller(principal.subject, project, authorization or "")

    return admitted
