"""`mainspring.registry.v1.PromptService`."""

from __future__ import annotations

from typing import Any

from mainspring.registry.v1 import prompt_service_pb2 as pb
from mainspring.registry.v1 import prompt_service_pb2_grpc as pb_grpc
from mainspring_registry.application.ports import Ports
from mainspring_registry.application.prompts import Prompts
from mainspring_registry.transport import prompts_mapping as mapping
from mainspring_svckit.auth import current_principal
from mainspring_svckit.reading import Reader

PROMPTS = "mainspring.registry.v1.PromptService"


class PromptServicer(pb_grpc.PromptServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, ports: Ports, prompts: Prompts) -> None:
        self._ports, self._prompts = ports, prompts
        self._reader = Reader(ports.transactions)

    async def CreatePromptVersion(
        self, request: pb.CreatePromptVersionRequest, context: Any
    ) -> pb.CreatePromptVersionResponse:
        wish = request.prompt_version
        author = current_principal.get().subject
        version = await self._prompts.create(request.parent, mapping.text_from_proto(wish), wish.comment, author)
        return pb.CreatePromptVersionResponse(prompt_version=mapping.version_to_proto(version))

    async def GetPromptVersion(self, request: pb.GetPromptVersionRequest, context: Any) -> pb.GetPromptVersionResponse:
        version = await self._prompts.version(request.name)
        return pb.GetPromptVersionResponse(prompt_version=mapping.version_to_proto(version))

    async def ListPromptVersions(
        self, request: pb.ListPromptVersionsRequest, context: Any
    ) -> pb.ListPromptVersionsResponse:
        listed, token = await self._reader.list(self._ports.prompt_versions, request)
        return pb.ListPromptVersionsResponse(
            prompt_versions=[mapping.version_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def ListPrompts(self, request: pb.ListPromptsRequest, context: Any) -> pb.ListPromptsResponse:
        listed, token = await self._reader.list(self._ports.prompts, request)
        return pb.ListPromptsResponse(
            prompts=[mapping.prompt_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def SetPromptLabel(self, request: pb.SetPromptLabelRequest, context: Any) -> pb.SetPromptLabelResponse:
        prompt = await self._prompts.set_label(request.name, request.label, request.prompt_version)
        return pb.SetPromptLabelResponse(prompt=mapping.prompt_to_proto(prompt))
