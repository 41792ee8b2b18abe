"""Use cases of making smaller versions."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.catalogue import Lineage, ModelKind, ModelVersion
from mainspring_registry.domain.quantizations import (
    EngineMeasure,
    Format,
    Lost,
    Quantization,
    Sample,
    check_quantizable,
    kept_files,
    result_kind,
)
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.names import ModelVersionName, QuantizationName
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import Repository, require

WORK_KIND = "quantization"


@dataclass(frozen=True)
class CompressedFiles:
    """What a quantizer made.

    Attributes:
        folder: Holds the files; the caller removes it.
        files: What is served, by role.
        tensor_types: How many tensors have which type.
        before: What serving the source takes.
        after: What serving the result takes.
        lost: How far the result is from the source; None where the evaluation says it.
    """

    folder: Path
    files: Mapping[str, Path]
    tensor_types: Mapping[str, int]
    before: EngineMeasure
    after: EngineMeasure
    lost: Lost | None = None


class ModelQuantizer(Protocol):
    """Merges, encodes and measures, in processes of its own."""

    async def run(
        self, source: ModelVersion, base: ModelVersion, format_: Format, samples: Sequence[Sample] = ()
    ) -> CompressedFiles:
        """Makes the files of a smaller version; `samples` are what the loss of a format for GPUs is told on.

        Raises:
            InvalidInput: The files are none that can be compressed; the reason says why.
            Unavailable: It could not be tried now.
        """
        ...


class Quantizations:
    """Use cases of quantizations."""

    def __init__(
        self, ports: Ports, quantizations: Repository[Quantization], catalogue: Catalogue, quantizer: ModelQuantizer
    ) -> None:
        self._ports, self._quantizations = ports, quantizations
        self._catalogue, self._quantizer = catalogue, quantizer

    async def create(
        self, project: str, quantization_id: str, source: str, format_: Format, samples: Sequence[Sample] = ()
    ) -> Quantization:
        """Queues the work; the id names its turn of the loop as well.

        Raises:
            NotFound: There is no such version.
            InvalidInput: PROJECT_DIFFERS.
            PreconditionFailed: NOT_QUANTIZABLE.
        """
        version = await self._catalogue.version(source)
        if ModelVersionName.parse(version.name).project != project:
            message = f"{version.name} is not of the project {project}; name a version of it"
            raise InvalidInput(message, reason="PROJECT_DIFFERS")
        check_quantizable(version, await self._base(version), format_)
        work = Quantization(
            name=str(QuantizationName(project, quantization_id)),
            source_model_version=version.name,
            format=format_,
            cycle=quantization_id,
            samples=tuple(samples),
            create_time=self._ports.clock.now(),
        )
        async with self._ports.transactions.transaction():
            stored = await self._quantizations.add(work)
            await self._ports.work.enqueue(WORK_KIND, work.name)
        return stored.value

    async def run(self, name: str, lease: Claim) -> None:
        """Does the work: makes the files, stores them, registers the version. Safe to repeat from the start.

        Raises:
            MainspringError: As `ModelQuantizer.run`, or the store failed.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            work = (await require(self._quantizations, "Quantization", name, lock=True)).value.started()
            await self._quantizations.put(work)
            await ports.notifier.notify("watch", name)
        source = await self._catalogue.version(work.source_model_version)
        base = await self._base(source)
        made = await self._quantizer.run(source, base, work.format, work.samples)
        try:
            project = ModelVersionName.parse(source.name).project
            stored = {role: await ports.files.put_file(project, path) for role, path in made.files.items()}
        finally:
            await asyncio.to_thread(shutil.rmtree, made.folder, ignore_errors=True)
        async with lease.complete():
            model = (await require(ports.models, "Model", source.model, lock=True)).value
            kind, kept = result_kind(source, work.format), kept_files(source, work.format)
            version = await self._catalogue.add_version(
                model,
                kind=kind,
                artifacts={**stored, **{role: source.artifacts[role] for role in kept}},
                serving=source.serving,
                lineage=Lineage(
                    dataset_version=source.lineage.dataset_version,
                    dataset_root_sha256=source.lineage.dataset_root_sha256,
                    origin=f"{work.format.value} of {source.name} by {work.name}",
                    quantized_from=source.name,
                ),
                licence=source.licence,
                base=base if kind is ModelKind.MERGED else None,
                cycle=work.cycle,
            )
            done = work.measured(made.tensor_types, made.before, made.after, made.lost).forgotten()
            done = done.succeeded(version.name, ports.clock.now())
            await self._quantizations.put(done)
            await ports.notifier.notify("watch", name)

    async def give_up(self, name: str, reason: str, message: str) -> None:
        """Records why it cannot be. Joins the ambient transaction."""
        work = (await require(self._quantizations, "Quantization", name, lock=True)).value.started().forgotten()
        await self._quantizations.put(work.failed(reason, message, self._ports.clock.now()))
        await self._ports.notifier.notify("watch", name)

    async def _base(self, version: ModelVersion) -> ModelVersion:
        if version.kind is not ModelKind.ADAPTER:
            return version
        return await self._catalogue.version(version.base_model_version)
