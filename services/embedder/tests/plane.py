"""The services around this one, as it sees them."""

import asyncio
import re
import struct
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from mainspring.inference.v1 import deployment_pb2, deployment_service_pb2
from mainspring.registry.v1 import model_pb2, registry_service_pb2
from mainspring_answers.domain import Route, RoutingTable
from mainspring_answers.routing import RoutingPublisher
from mainspring_answers.triton_protocol import SERVICE, messages
from mainspring_eventkit.bus import Bus
from mainspring_svckit.errors import NotFound, Unavailable
from mainspring_svckit.mapping import failure_to_proto

from .fakes import GENERATING

MODEL, VERSION = "projects/p/models/e", "projects/p/models/e/versions/1"
TOPICS = ("rose", "violet", "grass", "sky")


SERVICES = ("registry.v1.RegistryService", "inference.v1.DeploymentService")


class Plane:
    """Registry, inference and the engine as the embedder sees them, over real gRPC and a real routing bucket."""

    def __init__(self, bus: Bus) -> None:
        self._publisher, self._revision = RoutingPublisher(bus), 0
        self.deployment = deployment_pb2.Deployment(name="projects/p/deployments/e-1", model_version=VERSION)
        self.refused, self.loads = False, True
        self.embedded: Counter[str] = Counter()
        self.may_embed = asyncio.Event()
        self.may_embed.set()
        self.stop_after = 1_000_000
        self.away_for = 0

    async def GetModel(self, request: Any, context: Any) -> Any:
        if request.name != MODEL:
            raise NotFound("Model", request.name)
        return registry_service_pb2.GetModelResponse(model=model_pb2.Model(name=MODEL, latest_version=VERSION))

    async def GetModelVersion(self, request: Any, context: Any) -> Any:
        kinds = {VERSION: model_pb2.MODEL_KIND_EMBEDDING, GENERATING: model_pb2.MODEL_KIND_FOUNDATION}
        if request.name not in kinds:
            raise NotFound("ModelVersion", request.name)
        version = model_pb2.ModelVersion(name=request.name, kind=kinds[request.name])
        return registry_service_pb2.GetModelVersionResponse(model_version=version)

    async def AcquireDeployment(self, request: Any, context: Any) -> Any:
        if request.model_version != VERSION:
            raise NotFound("ModelVersion", request.model_version)
        if request.holder not in self.deployment.holders:
            self.deployment.holders.append(request.holder)
        if self.loads:
            await self.load()
        return deployment_service_pb2.AcquireDeploymentResponse(deployment=self.deployment)

    async def WatchDeployment(self, request: Any, context: Any) -> AsyncIterator[Any]:
        seen = deployment_pb2.Deployment()
        seen.CopyFrom(self.deployment)
        seen.state = deployment_pb2.Deployment.STATE_LOADING
        yield deployment_service_pb2.WatchDeploymentResponse(deployment=seen)
        seen.state = deployment_pb2.Deployment.STATE_READY
        if self.refused:
            seen.state = deployment_pb2.Deployment.STATE_FAILED
            seen.error.CopyFrom(failure_to_proto("TRITON_REFUSED", "bad weights"))  # type: ignore[arg-type]
        yield deployment_service_pb2.WatchDeploymentResponse(deployment=seen)
        await asyncio.Event().wait()  # Until the caller leaves, as the contract says.

    async def load(self) -> None:
        """Publishes where the model can be reached."""
        self._revision += 1
        route = Route(VERSION, "", 0, "triton-e", dimensions=len(TOPICS))
        await self._publisher.publish(RoutingTable(MODEL, self._revision, (route,)))

    async def unload(self) -> None:
        """Takes the model out of memory."""
        del self.deployment.holders[:]
        self._revision += 1
        await self._publisher.publish(RoutingTable(MODEL, self._revision, ()))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector has one component for each topic, by how often the text names it."""
        if self.away_for:
            self.away_for -= 1
            raise Unavailable("TRITON_UNAVAILABLE", "away", retry_after_s=0.01)
        if self.embedded.total() >= self.stop_after:
            await self.may_embed.wait()
        self.embedded.update(texts)
        return [[0.01 + len(re.findall(topic, text)) for topic in TOPICS] for text in texts]


class _Triton(grpc.GenericRpcHandler):
    """Triton with one embedding model: `text_input` in, `embedding` and `num_input_tokens` out."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def service(self, handler_call_details: Any) -> Any:
        match handler_call_details.method.removeprefix(SERVICE):
            case "RepositoryIndex":
                return grpc.unary_unary_rpc_method_handler(
                    self._index,
                    request_deserializer=messages["RepositoryIndexRequest"].FromString,
                    response_serializer=messages["RepositoryIndexResponse"].SerializeToString,
                )
            case "ModelStreamInfer":
                return grpc.stream_stream_rpc_method_handler(
                    self._infer,
                    request_deserializer=messages["ModelInferRequest"].FromString,
                    response_serializer=messages["ModelStreamInferResponse"].SerializeToString,
                )
            case _:
                return None

    async def _index(self, request: Any, context: Any) -> Any:
        answer = messages["RepositoryIndexResponse"]()
        answer.models.add(name="triton-e", state="READY")
        return answer

    async def _infer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            response = messages["ModelStreamInferResponse"]()
            texts = _texts_of(request)
            try:
                vectors = await self._plane.embed(texts)
            except Unavailable as err:
                response.error_message = err.message
                yield response
                continue
            assert request.model_name == "triton-e"
            answer = response.infer_response
            answer.parameters["triton_final_response"].bool_param = True
            values = [value for vector in vectors for value in vector]
            answer.outputs.add(name="embedding", datatype="FP32", shape=[len(texts), len(TOPICS)])
            answer.raw_output_contents.append(struct.pack(f"<{len(values)}f", *values))
            answer.outputs.add(name="num_input_tokens", datatype="UINT32", shape=[1])
            answer.raw_output_contents.append(struct.pack("<I", sum(len(text.split()) for text in texts)))
            yield response


def _texts_of(request: Any) -> list[str]:
    """The strings of a BYTES tensor, each after its length."""
    data, texts = request.raw_input_contents[0], list[str]()
    while data:
        (length,) = struct.unpack_from("<I", data)
        texts.append(data[4 : 4 + length].decode())
        data = data[4 + length :]
    return texts


@asynccontextmanager
async def triton_of(plane: Plane) -> AsyncIterator[str]:
    """Serves the plane's embedding model; gives the address."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Triton(plane),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)
