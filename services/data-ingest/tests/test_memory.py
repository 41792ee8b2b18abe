"""Processes that need more memory than they may take end with a word of what to do, whoever would have crashed."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mainspring_data_ingest.adapters.children import OUT_OF_MEMORY
from mainspring_data_ingest.adapters.jobs import JOB, Job, SourceFile
from mainspring_data_ingest.adapters.previewer import ChildPreviewer
from mainspring_data_ingest.adapters.refiner import MODULE, ChildRefiner
from mainspring_data_ingest.domain.ingestions import Ingestion, Source, SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.steps import Decontamination
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.scratch import Scratch
from mainspring_svckit.values import ArtifactRef, Progress

from .refining import PAIRS

LITTLE = 100 << 20
"""Bytes that are fewer than the libraries of a process take."""


def recipe(*steps: Decontamination) -> IngestionRecipe:
    return IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", PAIRS, steps=steps)


@pytest.mark.parametrize("memory_bytes", [LITTLE, 256 << 20, 288 << 20])
def test_f19_a_process_that_needs_more_memory_than_it_may_have_ends_with_a_status_of_its_own(
    tmp_path: Path, memory_bytes: int
) -> None:
    rows, held_out = tmp_path / "rows.jsonl", tmp_path / "evaluation.jsonl"
    rows.write_text('{"mr": "a", "ref": "b"}\n')
    with held_out.open("w") as file:
        for row in range(2_000):
            text = " ".join(f"{row}word{number}" for number in range(300))
            file.write(json.dumps({"mr": f"e{row}", "ref": text}) + "\n")
    job = Job(
        recipe(Decontamination(file=ArtifactRef("0" * 64, 1))),
        (SourceFile(rows, "source 0", SourceFormat.JSONL, None),),
        held_out=((SourceFile(held_out, "held out", SourceFormat.JSONL, None),),),
        memory_bytes=memory_bytes,
    )
    (tmp_path / "job.json").write_bytes(JOB.dump_json(job))
    with subprocess.Popen([sys.executable, "-m", MODULE, str(tmp_path)], stdin=subprocess.PIPE) as process:
        assert process.wait() == OUT_OF_MEMORY  # Closing its standard input would end it otherwise.


async def test_f19_what_is_told_of_such_a_process_says_what_to_do(tmp_path: Path) -> None:
    async def no_matter(_: Progress) -> None: ...

    store, scratch = ArtifactStore((tmp_path / "store").as_uri()), Scratch("ingestion", tmp_path / "scratch")
    (tmp_path / "rows.jsonl").write_text('{"mr": "a", "ref": "b"}\n')
    artifact = await store.put_file("p", tmp_path / "rows.jsonl")
    source = Source(artifact, SourceFormat.JSONL)
    work = Ingestion("projects/p/ingestions/i", recipe(), (source,), "c", datetime.now(UTC))
    told = "100 MiB; .*MAINSPRING_PROCESS_MEMORY_BYTES"
    with pytest.raises(InvalidInput, match=told) as caught:
        async with ChildRefiner(store, scratch, memory_bytes=LITTLE).refine(work, {}, no_matter):
            pass
    assert caught.value.reason == "REFINING_OUT_OF_MEMORY"
    with pytest.raises(InvalidInput, match=told):
        await ChildPreviewer(store, scratch, memory_bytes=LITTLE).preview("p", artifact, None, None, 2)
