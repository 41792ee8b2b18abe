"""Use case of measuring a version's texts."""

from __future__ import annotations

from mainspring_data_ingest.application.deletions import manifest_of, readable
from mainspring_data_ingest.application.embedding import Embeddings
from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.application.version_ports import ShardTools
from mainspring_data_ingest.domain.datasets import Shard
from mainspring_data_ingest.domain.measurements import SAMPLE_ROWS, Measurement
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.names import DatasetVersionName


class Measurements:
    """Use case of measuring."""

    def __init__(self, ports: Ports, tools: ShardTools, embeddings: Embeddings | None) -> None:
        """Takes the ports; without `embeddings` only lexical vectors can be had."""
        self._ports, self._tools, self._embeddings = ports, tools, embeddings

    async def measure(self, name: str, reference: str, model: str) -> Measurement:
        """Measures a sample of a version.

        Args:
            name: The version.
            reference: The version that it is compared with; empty for none.
            model: Embedding model, or one of its versions; empty for lexical vectors.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: DATASET_VERSION_DELETED, or EMBEDDER_NOT_CONFIGURED.
        """
        project = DatasetVersionName.parse(name).project
        if model and self._embeddings is None:
            message = "set MAINSPRING_EMBEDDER_ADDRESS for vectors of a model, or name none for lexical vectors"
            raise PreconditionFailed("EMBEDDER_NOT_CONFIGURED", message)
        rows = await self._tools.sample(project, await self._shards(name, Split.TRAIN), SAMPLE_ROWS)
        others = (
            await self._tools.sample(project, await self._shards(reference, Split.TEST), SAMPLE_ROWS)
            if reference
            else []
        )
        texts = [text for _, text in rows]
        reference_texts = [text for _, text in others]
        vectors: list[list[float]] | None = None
        if model and self._embeddings is not None and rows:
            vectors, model = await self._embeddings.embed(project, model, [*texts, *reference_texts])
        return await self._tools.measure([answer for answer, _ in rows], texts, reference_texts, vectors, model)

    async def _shards(self, name: str, split: Split) -> tuple[Shard, ...]:
        """The files of a split, or of all where it is empty."""
        async with self._ports.transactions.transaction():
            version = await readable(self._ports, name)
        manifest = await manifest_of(self._ports, version)
        return manifest.of(split) or manifest.shards
