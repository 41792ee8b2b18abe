"""Smaller versions of models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

from mainspring.data.v1 import comparison_pb2
from mainspring.registry.v1 import compression_service_pb2 as pb
from mainspring.registry.v1 import compression_service_pb2_grpc, quantization_pb2
from mainspring_client.connection import Area, Connection
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName

SAMPLES, _CHARACTERS, _MESSAGES = 64, 8_000, 16
"""Samples, and of each the characters and messages, at most: together far less than a request may be."""


def samples_of(rows: Iterable[comparison_pb2.DatasetRow]) -> list[quantization_pb2.QuantizationSample]:
    """Samples from rows of a dataset version: each answer after its conversation; what is too long is left out."""
    made: list[quantization_pb2.QuantizationSample] = []
    for row in rows:
        *before, answer = row.messages
        length = sum(len(message.content) for message in row.messages)
        if len(made) < SAMPLES and answer.content and length <= _CHARACTERS and len(before) <= _MESSAGES:
            made.append(quantization_pb2.QuantizationSample(messages=before, text=answer.content))
    return made


class Compression(Area):
    """Client of the registry's compression; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = compression_service_pb2_grpc.CompressionServiceStub(connection.channel("registry"))

    async def quantize(
        self,
        source_model_version: str,
        format_: quantization_pb2.QuantizationFormat.ValueType,
        *,
        samples: Sequence[quantization_pb2.QuantizationSample] = (),
        request_id: str = "",
    ) -> quantization_pb2.Quantization:
        """Asks for a smaller version; returns at once, follow it with `watch`.

        Args:
            source_model_version: What is compressed.
            format_: How.
            samples: Texts on which INT8 and INT4 say their loss; `samples_of` takes them from a suite.
            request_id: A UUID; a repeat returns the first answer.
        """
        request = pb.CreateQuantizationRequest(
            parent="/".join(source_model_version.split("/")[:2]),
            quantization=quantization_pb2.Quantization(
                source_model_version=source_model_version, format=format_, samples=samples
            ),
            request_id=request_id or new_id(),
        )
        return (await self._unary(self.stub.CreateQuantization, request, pb.CreateQuantizationResponse)).quantization

    async def quantization(self, name: str) -> quantization_pb2.Quantization:
        """A quantization."""
        request = pb.GetQuantizationRequest(name=name)
        return (await self._unary(self.stub.GetQuantization, request, pb.GetQuantizationResponse)).quantization

    def quantizations(self, project: str) -> AsyncIterator[quantization_pb2.Quantization]:
        """A project's quantizations, newest first."""
        request = pb.ListQuantizationsRequest(parent=str(ProjectName(project)))
        return self._pages(
            self.stub.ListQuantizations, request, pb.ListQuantizationsResponse, lambda r: r.quantizations
        )

    async def watch(self, name: str) -> AsyncIterator[quantization_pb2.Quantization]:
        """The quantization now and after each change, until it has ended."""
        request = pb.WatchQuantizationRequest(name=name)
        async for response in self._watch(self.stub.WatchQuantization, request, pb.WatchQuantizationResponse):
            yield response.quantization
