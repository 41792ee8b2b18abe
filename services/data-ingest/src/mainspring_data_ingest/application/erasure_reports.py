"""The report of a version that an erasure leaves.

An erasure never waits for its report: what cannot be had for it (an evaluation set that is gone, an embedder that does
not answer, a sample that cannot be measured) is not in it, and without the report before there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from mainspring_data_ingest.application.embedding import Embeddings, embed_sample
from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.application.step_files import StepFinder
from mainspring_data_ingest.application.version_ports import Leftovers, LeftTexts, ShardTools, Sought
from mainspring_data_ingest.domain.datasets import DatasetVersion
from mainspring_data_ingest.domain.erasures import Selector
from mainspring_data_ingest.domain.records import RefusalReason
from mainspring_data_ingest.domain.report import Report, TextReport
from mainspring_svckit.errors import MainspringError, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.names import DatasetVersionName
from mainspring_svckit.values import ArtifactRef


class ErasureReports:
    """Use case of accounting for what an erasure did to a version."""

    def __init__(self, ports: Ports, tools: ShardTools, finder: StepFinder, embeddings: Embeddings | None) -> None:
        """Takes the ports, what reads and measures, what finds evaluation sets, and what makes vectors; without it they
        are lexical.
        """
        self._ports, self._tools, self._finder, self._embeddings = ports, tools, finder, embeddings

    async def sought(self, erasure: str, selector: Selector, version: DatasetVersion, *, search_only: bool) -> Sought:
        """What is looked for in a version, with what its report needs; a search needs none."""
        if search_only or version.report is None:
            return Sought(selector, erasure, version.ingestion, None, {})
        async with self._ports.transactions.transaction():
            ingestion = await self._ports.ingestions.get(version.ingestion)
        if ingestion is None:
            return Sought(selector, erasure, version.ingestion, None, {})
        recipe = ingestion.value.recipe
        return Sought(selector, erasure, version.ingestion, recipe, await self._finder.reference(recipe))

    async def write(
        self, version: DatasetVersion, left: Leftovers, refused: Mapping[RefusalReason, int]
    ) -> ArtifactRef | None:
        """Stores the report of a version's successor; None when the version has none that can be read.

        Args:
            version: The version before.
            left: What is left of it.
            refused: Refused rows of the successor, by reason.
        """
        if version.report is None or left.texts is None:
            return None
        project = DatasetVersionName.parse(version.name).project
        try:
            old = Report.parse(await self._ports.files.read(project, version.report))
        except (NotFound, ValueError):
            return None  # It is lost, or another release wrote it.
        texts = left.texts
        vectors, model = await self._vectors(project, texts)
        before, after = await asyncio.gather(
            self._measured(texts.before, texts.answers_before, texts.reference, vectors, model),
            self._measured(texts.after, texts.answers_after, texts.reference, vectors, model),
        )
        report = old.erased(
            refused,
            rows=left.erased_rows,
            refused_rows=left.erased_refused,
            changed_rows=texts.erased_changed,
            before=before,
            after=after,
        )
        return await self._ports.files.put_bytes(
            project, report.as_bytes(), media_type="application/json", filename="report.json"
        )

    async def _vectors(self, project: str, texts: LeftTexts) -> tuple[dict[str, list[float]] | None, str]:
        """Vectors of all sampled texts by the recipe's model; None for lexical ones."""
        if not texts.embedding_model or self._embeddings is None:
            return None, ""
        sampled = list(dict.fromkeys((*texts.answers_before, *texts.answers_after, *texts.reference)))
        try:
            made = await embed_sample(self._embeddings, project, texts.embedding_model, sampled)
        except MainspringError:
            return None, ""
        return dict(zip(sampled, made, strict=True)), texts.embedding_model

    async def _measured(
        self,
        described: TextReport,
        answers: list[str],
        reference: list[str],
        vectors: dict[str, list[float]] | None,
        model: str,
    ) -> TextReport:
        if not answers:
            return described
        made = [vectors[text] for text in (*answers, *reference)] if vectors is not None else None
        try:
            return replace(described, diversity=await self._tools.measure(answers, answers, reference, made, model))
        except (PreconditionFailed, Unavailable):
            return described
