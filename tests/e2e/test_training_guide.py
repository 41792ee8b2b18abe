"""The commands of the training guide, run as they stand there but for names and for how long they learn."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import loop, pages
from tests.support.stack import Stack

from mainspring.registry.v1 import model_pb2
from mainspring.training.v1 import run_pb2
from mainspring_client.cli.train import newest_version
from mainspring_client.client import Mainspring
from mainspring_client.configuration import Configuration
from mainspring_svckit.errors import NotFound, Unavailable
from mainspring_testkit.waiting import eventually

PROJECT = "training"
MODEL = f"projects/{PROJECT}/models/{loop.NAME}"
PARENTS = (f"{loop.NAME}@champion", f"{loop.NAME}/VERSION")
ENOUGH = "--learning-rate 0.01 --epochs 20 --batch-rows 8 --max-steps 60"
"""What the tiny model needs to learn its task; the guide's few steps are for a real one."""


def commands(folder: Path) -> list[str]:
    """The guide's blocks: advice, a run, two, a study, judgements, DPO, KTO, rewards, teachers, merged, from nothing,
    search, smaller. Rewards and teachers take minutes; their recipes are checked by tests/docs.
    """
    changes = (
        ("--project demo", f"--project {PROJECT}"),
        # Which numbers the versions have depends on what ran before.
        ("summaries/2=0.5 summaries/3=0.5", f"{PARENTS[0]}=0.5 {PARENTS[1]}=0.5"),
        ("summaries", loop.NAME),
        ("smollm2", "base"),
        ("minilm", "embedding"),
        ("/tmp/mainspring-training", str(folder)),
        (".build/", f"{folder}/"),
        ("--recipe bold --learning-rate 0.002 --max-steps 24", f"--recipe bold {ENOUGH}"),
    )
    return pages.blocks((pages.ROOT / "docs" / "guides" / "training.md").read_text(), "sh", changes)


async def data(stack: Stack, client: Mainspring, folder: Path) -> None:
    """A dataset version, a base, a suite and a policy, and nothing that was trained; made once for all tests here."""
    try:
        await newest_version(client, PROJECT, loop.NAME)
    except NotFound:
        everything = loop.configuration(PROJECT, await loop.import_base(client, PROJECT, stack.models)).sections
        sections = {name: section for name, section in everything.items() if name != "tuning_recipe"}
        await client.apply(Configuration(PROJECT, sections))
        rows = str(loop.write(folder / "in.jsonl", loop.rows(0, 100)))
        await stack.run("datasets", "import", rows, "--dataset", loop.NAME, "--project", PROJECT)


async def champion(stack: Stack, client: Mainspring, folder: Path) -> None:
    """The same, and a version that serves."""
    await data(stack, client, folder)

    async def promoted() -> bool:
        return "champion" in (await client.registry.model(MODEL)).aliases

    try:
        if await promoted():
            return
    except NotFound:
        pass  # Nothing was trained yet.
    _, _, tune, *_ = commands(folder)
    await pages.run(stack, "bash", "-ec", tune.splitlines()[0], within_s=200)
    await eventually(promoted, within_s=120, what="the tuned version to get all traffic")


async def ended(client: Mainspring, recipe: str) -> run_pb2.TrainingRun:
    """The newest run of a recipe."""
    name = f"projects/{PROJECT}/tuningRecipes/{recipe}"
    runs = [run async for run in client.training.runs(PROJECT) if run.tuning_recipe == name]
    return runs[0]


def drawn(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(600)  # On a busy machine four runs take minutes.
async def test_a_dataset_version_becomes_compared_runs_and_a_smaller_version_as_the_guide_says(
    stack: Stack, client: Mainspring, tmp_path: Path
) -> None:
    await data(stack, client, tmp_path)
    _, one, two, _, judgements, dpo, *_, smaller, packed = commands(tmp_path)
    shown = await pages.run(stack, "bash", "-ec", one, within_s=200)
    assert "validation loss" in shown
    assert drawn(tmp_path / "careful.png")
    shown = await pages.run(stack, "bash", "-ec", two, within_s=300)
    assert "optimization.learning_rate" in shown
    assert drawn(tmp_path / "compared.png")
    careful, bold = await ended(client, "careful"), await ended(client, "bold")
    assert bold.result.best_validation_loss < 0.5 < careful.result.best_validation_loss

    # The gate has let the better one out; people's judgements go on from there.
    await champion(stack, client, tmp_path)
    await pages.run(stack, "bash", "-ec", judgements, within_s=200)
    await pages.run(stack, "bash", "-ec", dpo, within_s=200)
    judged = (await ended(client, f"{loop.NAME}-dpo")).result
    assert judged.best_validation_loss < judged.initial_validation_loss

    shown = await pages.run(stack, "bash", "-ec", smaller, within_s=200)
    assert "compressed from" in shown
    assert "mean KL to the reference" in shown
    # For GPUs, with what was lost on the suite's rows; the engine of this plane cannot serve it, and says so at once.
    shown = await pages.run(stack, "bash", "-ec", packed, within_s=200)
    assert "14 INT8" in shown
    assert "nats" in shown
    assert "what answers here is llama.cpp" in shown
    assert [done.model_version async for done in client.compression.quantizations(PROJECT)] == [
        version.name async for version in client.registry.versions(MODEL) if version.lineage.quantized_from
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_prompts_searches_thumbs_and_a_model_from_nothing_are_as_the_guide_says(
    stack: Stack, client: Mainspring, tmp_path: Path
) -> None:
    await champion(stack, client, tmp_path)
    advice, _, _, search, judgements, _, kto, *_, merge, scratch, search_model, _, _ = commands(tmp_path)
    shown = await pages.run(stack, "bash", "-ec", advice, within_s=300)
    for rung in ("base", "instruction", "examples", "lora probe"):
        assert rung in shown
    assert "whole tuning: 60 rows" in shown
    shown = await pages.run(stack, "bash", "-ec", search, within_s=300)
    assert "open runs" in shown
    assert "best trial" in shown
    assert "COMPLETE" in shown
    await pages.run(stack, "bash", "-ec", judgements, within_s=200)
    await pages.run(stack, "bash", "-ec", kto, within_s=200)
    assert (await ended(client, f"{loop.NAME}-kto")).state == run_pb2.TrainingRun.STATE_SUCCEEDED
    # The version that serves, and the one that the thumbs made.
    learned = (await ended(client, f"{loop.NAME}-kto")).name

    async def registered() -> str:
        versions = [version async for version in client.registry.versions(MODEL)]
        return "".join(version.name for version in versions if version.lineage.training_run == learned)

    made = await eventually(registered, within_s=60, what="the run to become a version")
    told = await pages.run(stack, "bash", "-ec", merge.replace("/VERSION", f"/{made.rpartition('/')[2]}"), within_s=200)
    merged = [v async for v in client.registry.versions(MODEL) if made in v.lineage.merged_from]
    assert merged[0].name in told

    async def measured() -> bool:
        runs = [run async for run in client.evaluation.runs(PROJECT) if run.candidate == merged[0].name]
        return bool(runs and runs[0].results)

    await eventually(measured, within_s=120, what="the merged version to be measured")
    await pages.run(stack, "bash", "-ec", scratch, within_s=200)
    small = await client.registry.version(f"{MODEL}-small/versions/1")
    assert small.lineage.training_run == (await ended(client, f"{loop.NAME}-small-pretraining")).name

    # An embedding model that was tuned embeds, by the plane that serves.
    await loop.import_embedding(client, PROJECT, stack.models)
    await pages.run(stack, "bash", "-ec", search_model, within_s=200)
    tuned = f"projects/{PROJECT}/models/{loop.NAME}-search/versions/1"
    assert (await client.registry.version(tuned)).kind == model_pb2.MODEL_KIND_EMBEDDING

    async def embedded() -> list[list[float]]:
        try:
            return await client.embedding.embed(tuned, ["the sky"])
        except Unavailable:
            return []  # It is being loaded.

    (vector,) = await eventually(embedded, within_s=60, what="the tuned embedding model to be loaded")
    assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-3)
