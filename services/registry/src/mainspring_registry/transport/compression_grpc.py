"""`mainspring.registry.v1.CompressionService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mainspring.common.v1 import statistics_pb2
from mainspring.registry.v1 import compression_service_pb2 as pb
from mainspring.registry.v1 import compression_service_pb2_grpc as pb_grpc
from mainspring.registry.v1 import quantization_pb2
from mainspring_registry.application.quantizations import Quantizations
from mainspring_registry.domain.making import MAKING_STATES
from mainspring_registry.domain.quantizations import (
    EngineMeasure,
    Format,
    Lost,
    Quantization,
    Sample,
)
from mainspring_svckit.database import Listener
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import failure_to_proto, messages_from_proto, time_to_proto
from mainspring_svckit.names import ProjectName
from mainspring_svckit.reading import Reader
from mainspring_svckit.repository import Repository
from mainspring_svckit.watching import follow

NAME = "mainspring.registry.v1.CompressionService"


class CompressionServicer(pb_grpc.CompressionServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(
        self, reader: Reader, repository: Repository[Quantization], quantizations: Quantizations, listener: Listener
    ) -> None:
        self._reader, self._repository = reader, repository
        self._quantizations, self._listener = quantizations, listener

    async def CreateQuantization(
        self, request: pb.CreateQuantizationRequest, context: Any
    ) -> pb.CreateQuantizationResponse:
        project = ProjectName.parse(request.parent, "parent").project
        wish = request.quantization
        format_ = Format(_format_name(wish.format))
        samples = [Sample(messages_from_proto(sample.messages), sample.text) for sample in wish.samples]
        work = await self._quantizations.create(project, new_id(), wish.source_model_version, format_, samples)
        return pb.CreateQuantizationResponse(quantization=quantization_to_proto(work))

    async def GetQuantization(self, request: pb.GetQuantizationRequest, context: Any) -> pb.GetQuantizationResponse:
        found = await self._reader.get(self._repository, "Quantization", request.name)
        return pb.GetQuantizationResponse(quantization=quantization_to_proto(found.value))

    async def ListQuantizations(
        self, request: pb.ListQuantizationsRequest, context: Any
    ) -> pb.ListQuantizationsResponse:
        listed, token = await self._reader.list(self._repository, request)
        return pb.ListQuantizationsResponse(
            quantizations=[quantization_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def WatchQuantization(
        self, request: pb.WatchQuantizationRequest, context: Any
    ) -> AsyncIterator[pb.WatchQuantizationResponse]:
        async def read() -> Quantization:
            return (await self._reader.get(self._repository, "Quantization", request.name)).value

        async for work in follow(self._listener, request.name, read, lambda work: MAKING_STATES.ended(work.state)):
            yield pb.WatchQuantizationResponse(quantization=quantization_to_proto(work))


def quantization_to_proto(work: Quantization) -> quantization_pb2.Quantization:
    """Prints a quantization."""
    return quantization_pb2.Quantization(
        name=work.name,
        source_model_version=work.source_model_version,
        format=quantization_pb2.QuantizationFormat.Value(f"QUANTIZATION_FORMAT_{work.format.value}"),
        state=quantization_pb2.Quantization.State.Value(f"STATE_{work.state.value}"),
        model_version=work.model_version,
        tensor_types=work.tensor_types,
        before=_measure_to_proto(work.before),
        after=_measure_to_proto(work.after),
        lost=_lost_to_proto(work.lost),
        error=failure_to_proto(work.error_reason, work.error_message),
        cycle=work.cycle,
        create_time=time_to_proto(work.create_time),
        end_time=time_to_proto(work.end_time),
    )


def _measure_to_proto(measure: EngineMeasure | None) -> quantization_pb2.EngineMeasure | None:
    return quantization_pb2.EngineMeasure(**measure.__dict__) if measure is not None else None


def _lost_to_proto(lost: Lost | None) -> quantization_pb2.QuantizationLoss | None:
    if lost is None:
        return None
    fidelity = statistics_pb2.Fidelity(
        mean_kl_nats=lost.mean_kl_nats, top1_agreement=lost.top1_agreement, positions=lost.positions
    )
    return quantization_pb2.QuantizationLoss(
        fidelity=fidelity, loss_before=lost.loss_before, loss_after=lost.loss_after, tokens=lost.tokens
    )


def _format_name(number: quantization_pb2.QuantizationFormat.ValueType) -> str:
    return quantization_pb2.QuantizationFormat.Name(number).removeprefix("QUANTIZATION_FORMAT_")
