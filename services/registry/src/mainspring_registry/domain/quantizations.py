"""Making smaller versions of versions in the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from mainspring_registry.domain.catalogue import ModelKind, ModelVersion
from mainspring_registry.domain.making import Making
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.values import Message

GGUF, ADAPTER_GGUF, PROBE = "gguf", "adapter.gguf", "fidelity_probe.json"
HF = "hf/"
PEFT = "adapter/"


class Format(StrEnum):
    """How weights are encoded."""

    Q8_0 = "Q8_0"
    Q6_K = "Q6_K"
    Q4_K_M = "Q4_K_M"
    INT8 = "INT8"
    INT4 = "INT4"

    @property
    def for_gpus(self) -> bool:
        """Whether the result is a Hugging Face folder for engines on GPUs, not a GGUF file."""
        return self in {Format.INT8, Format.INT4}


@dataclass(frozen=True)
class EngineMeasure:
    """What the engine needs for a model; see the contract's message of the same name."""

    file_bytes: int
    resident_bytes: int = 0
    prompt_tokens_per_second: float = 0.0
    tokens_per_second: float = 0.0
    device: str = ""


@dataclass(frozen=True)
class Sample:
    """A text for the loss; see the contract's `QuantizationSample`."""

    messages: tuple[Message, ...]
    text: str


@dataclass(frozen=True)
class Lost:
    """How far the result is from its source; see the contract's `QuantizationLoss`."""

    mean_kl_nats: float
    top1_agreement: float
    positions: int
    loss_before: float
    loss_after: float
    tokens: int


@dataclass(frozen=True)
class Quantization(Making):
    """The work of making one smaller version; `cycle` is the turn of the loop in which it is measured."""

    name: str
    source_model_version: str
    format: Format
    cycle: str
    create_time: datetime
    tensor_types: Mapping[str, int] = field(default_factory=dict[str, int])
    before: EngineMeasure | None = None
    after: EngineMeasure | None = None
    lost: Lost | None = None
    samples: tuple[Sample, ...] = ()

    def measured(
        self, tensor_types: Mapping[str, int], before: EngineMeasure, after: EngineMeasure, lost: Lost | None
    ) -> Quantization:
        """The work with what is known of its result."""
        return replace(self, tensor_types=tensor_types, before=before, after=after, lost=lost)

    def forgotten(self) -> Quantization:
        """The work without what people wrote, which is kept no longer than it is needed."""
        return replace(self, samples=())


def check_quantizable(source: ModelVersion, base: ModelVersion, format_: Format) -> None:
    """Raises `PreconditionFailed` unless the files are there that a smaller version is made of.

    Args:
        source: What is compressed.
        base: Its foundation model; the source itself when it is one.
        format_: What it becomes; only llama.cpp's formats are measured against the files that llama.cpp serves.
    """
    served = () if format_.for_gpus else (GGUF, ADAPTER_GGUF)
    lacking = [role for role in ("hf/config.json", *served[:1]) if role not in base.artifacts]
    if source.kind is ModelKind.ADAPTER:
        adapter = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors", *served[1:])
        lacking += [role for role in adapter if role not in source.artifacts]
    elif source.kind is not ModelKind.FOUNDATION:
        message = f"{source.name} is {source.kind.value}; name an adapter's version or a foundation model's"
        raise PreconditionFailed("NOT_QUANTIZABLE", message, {"modelVersion": source.name})
    elif source.lineage.quantized_from:
        message = f"{source.name} is compressed already; name {source.lineage.quantized_from}, which it was made from"
        raise PreconditionFailed("NOT_QUANTIZABLE", message, {"modelVersion": source.name})
    if lacking:
        message = f"{source.name} lacks {', '.join(lacking)}; import or train it again"
        raise PreconditionFailed("NOT_QUANTIZABLE", message, {"modelVersion": source.name})


def result_kind(source: ModelVersion, format_: Format) -> ModelKind:
    """What the result is for: a foundation model stays one where the weights that are tuned stay beside the file."""
    return source.kind if source.kind is ModelKind.FOUNDATION and not format_.for_gpus else ModelKind.MERGED


def kept_files(source: ModelVersion, format_: Format) -> tuple[str, ...]:
    """Roles of the source that its smaller version has as well: what it is measured against, and what is tuned on."""
    tuned_on = result_kind(source, format_) is ModelKind.FOUNDATION
    return tuple(role for role in source.artifacts if role == PROBE or (tuned_on and role.startswith(HF)))
