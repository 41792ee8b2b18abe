"""Brings the files that a recipe's steps need to the local disk: evaluation sets, word lists, tokenizers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from mainspring_data_ingest.adapters.jobs import HeldOutFiles, SourceFile
from mainspring_data_ingest.adapters.recognition import recognised
from mainspring_data_ingest.application.ports import StepFiles
from mainspring_data_ingest.domain.columns import MESSAGES
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.steps import Decontamination, RecipeStep
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.values import ArtifactRef


async def fetch_step_files(
    store: ArtifactStore, project: str, steps: Sequence[RecipeStep], needed: Mapping[int, StepFiles], folder: Path
) -> HeldOutFiles:
    """The files of each step.

    Raises:
        NotFound: The store lacks one.
    """
    return tuple(
        [
            tuple([file async for file in _of(store, project, index, step, needed.get(index, StepFiles()), folder)])
            for index, step in enumerate(steps)
        ]
    )


async def _of(
    store: ArtifactStore, project: str, index: int, step: RecipeStep, needed: StepFiles, folder: Path
) -> AsyncIterator[SourceFile]:
    if needed.file is not None and isinstance(step, Decontamination):
        name = needed.file.filename
        path = await store.fetch(project, needed.file, folder / f"held-out-{index}")
        title = f"the evaluation set of step {index + 1}" + (f" ({name!r})" if name else "")
        yield SourceFile(path, title, recognised(path, name, title), step.columns, name)
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
