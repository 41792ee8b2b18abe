"""Prompts as versioned artifacts."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mainspring.registry.v1 import prompt_pb2, prompt_service_pb2_grpc
from mainspring.registry.v1 import prompt_service_pb2 as pb
from mainspring_client.connection import Area, Connection
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName


class Prompts(Area):
    """Client of the registry's prompts; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = prompt_service_pb2_grpc.PromptServiceStub(connection.channel("registry"))

    async def write(self, prompt: str, version: prompt_pb2.PromptVersion) -> prompt_pb2.PromptVersion:
        """Writes a version; the newest one's own messages again give that version."""
        request = pb.CreatePromptVersionRequest(parent=prompt, prompt_version=version, request_id=new_id())
        kind = pb.CreatePromptVersionResponse
        return (await self._unary(self.stub.CreatePromptVersion, request, kind)).prompt_version

    async def version(self, name: str) -> prompt_pb2.PromptVersion:
        """A version, by number (`.../versions/3`) or by label (`...@production`)."""
        request = pb.GetPromptVersionRequest(name=name)
        return (await self._unary(self.stub.GetPromptVersion, request, pb.GetPromptVersionResponse)).prompt_version

    def prompts(self, project: str) -> AsyncIterator[prompt_pb2.Prompt]:
        """A project's prompts by name."""
        request = pb.ListPromptsRequest(parent=str(ProjectName(project)))
        return self._pages(self.stub.ListPrompts, request, pb.ListPromptsResponse, lambda r: r.prompts)

    async def label(self, prompt_version: str, label: str) -> prompt_pb2.Prompt:
        """Points a label at a version."""
        request = pb.SetPromptLabelRequest(
            name=prompt_version.rsplit("/versions/", 1)[0],
            label=label,
            prompt_version=prompt_version,
            request_id=new_id(),
        )
        return (await self._unary(self.stub.SetPromptLabel, request, pb.SetPromptLabelResponse)).prompt
