"""Brings the files that a recipe needs to the local disk: evaluation sets, examples, word lists, tokenizers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from mainspring_data_ingest.adapters.jobs import HeldOutFiles, SourceFile
from mainspring_data_ingest.adapters.recognition import recognised
from mainspring_data_ingest.application.ports import StepFiles
from mainspring_data_ingest.domain.columns import MESSAGES
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.steps import Decontamination, RecipeStep, ReferenceExamples
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.values import ArtifactRef

Part = RecipeStep | ReferenceExamples


async def fetch_step_files(
    store: ArtifactStore, project: str, parts: Sequence[Part], needed: Mapping[int, StepFiles], folder: Path
) -> HeldOutFiles:
    """The files of each part of a recipe.

    Raises:
        NotFound: The store lacks one.
    """
    return tuple(
        [
            tuple([file async for file in _of(store, project, index, part, needed.get(index, StepFiles()), folder)])
            for index, part in enumerate(parts)
        ]
    )


async def _of(
    store: ArtifactStore, project: str, index: int, part: Part, needed: StepFiles, folder: Path
) -> AsyncIterator[SourceFile]:
    if needed.file is not None and isinstance(part, Decontamination | ReferenceExamples):
        name = needed.file.filename
        path = await store.fetch(project, needed.file, folder / f"held-out-{index}")
        step = isinstance(part, Decontamination)
        title = f"the evaluation set of step {index + 1}" if step else "the file of reference examples"
        title += f" ({name!r})" if name else ""
        yield SourceFile(path, title, recognised(path, name, title), part.columns, name)
    elif needed.file is not None:
        path = await store.fetch(project, needed.file, folder / f"step-{index}")
        yield SourceFile(path, f"the file of step {index + 1}", SourceFormat.TEXT, None)
    for place, held_out in enumerate(needed.held_out):
        manifest = json.loads(await store.read(project, held_out.manifest))
        split = held_out.split.value.lower()
        for number, shard in enumerate(manifest["splits"][split]):
            artifact = ArtifactRef(shard["sha256"], shard["size_bytes"])
            path = await store.fetch(project, artifact, folder / f"held-out-{index}-{place}-{number}")
            title = f"the {split} split of {held_out.dataset_version}"
            yield SourceFile(path, title, SourceFormat.PARQUET, MESSAGES)
