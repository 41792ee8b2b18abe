"""The commands of the guides, run as they stand there but for the names of what they ask."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import sysconfig
from pathlib import Path

import pytest
from mlflow.models import get_model_info
from tests.support import loop, pages
from tests.support.stack import Stack

from mainspring_client.client import Mainspring
from mainspring_testkit.waiting import eventually

PROJECT = "guide"
MODEL = f"projects/{PROJECT}/models/{loop.NAME}"


async def first_line_of(stack: Stack, program: str) -> str:
    """The first line that a Python program prints which would go on for ever."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        env={**os.environ, "MAINSPRING_DATA": str(stack.data)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            return (await process.stdout.readline()).decode()
    finally:
        process.kill()
        await process.wait()


async def by_mlflow(folder: Path, base: Path, question: str) -> str:
    """What MLflow's own loader answers with an exported adapter, where torch is: MLflow itself is beside us."""
    program = (
        "import sys; sys.path.append(sys.argv[1]); import mlflow\n"
        "model = mlflow.pyfunc.load_model(sys.argv[2], model_config={'base_model': sys.argv[3]})\n"
        "print(model.predict([sys.argv[4]])[0])"
    )
    python, here = pages.ROOT / ".venv-train" / "bin" / "python", sysconfig.get_path("purelib")
    process = await asyncio.create_subprocess_exec(
        python, "-c", program, here, folder, base, question, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


async def test_a_backend_hears_of_a_release_as_the_guide_says(stack: Stack, client: Mainspring, tmp_path: Path) -> None:
    await loop.release_once(client, PROJECT, stack.models, tmp_path)
    text = (pages.ROOT / "docs" / "guides" / "subscribe-to-releases.md").read_text()
    changes = (
        ("--project demo", f"--project {PROJECT}"),
        ('subscribe("demo"', f'subscribe("{PROJECT}"'),
        ("follow.mjs demo", f"follow.mjs {PROJECT}"),
        ("~/.mainspring-demo", str(stack.data)),
    )
    table, lines, node, webhooks = pages.blocks(text, "sh", changes)
    assert "registry.model.released" in await pages.run(stack, "bash", "-c", table)
    event = json.loads(await pages.run(stack, "bash", "-c", lines))
    assert event["data"]["model_version"] == f"{MODEL}/versions/1"
    event = json.loads(await pages.run(stack, "bash", "-c", node))
    assert (event["project"], event["data"]["modelVersion"]) == (PROJECT, f"{MODEL}/versions/1")
    told = await pages.run(stack, "bash", "-ec", webhooks)
    assert "whsec_" in told
    assert "no deliveries" in told

    (python,) = pages.blocks(text, "python", changes)
    manifest = event["data"]["manifest"]["sha256"]
    assert (await first_line_of(stack, python)).startswith(f"use {MODEL}/versions/1: ")
    assert manifest == (await client.registry.version(f"{MODEL}/versions/1")).manifest.sha256


async def test_evidence_and_lineage_are_seen_as_the_guide_says(
    stack: Stack, client: Mainspring, tmp_path: Path
) -> None:
    await loop.release_once(client, PROJECT, stack.models, tmp_path)
    text = (pages.ROOT / "docs" / "guides" / "evaluation-and-release.md").read_text()
    changes = (("--project demo", f"--project {PROJECT}"), ("summaries", loop.NAME))
    decisions, *_, up, down = pages.blocks(text, "sh", changes)
    assert "ALLOWED" in await pages.run(stack, "bash", "-c", decisions)
    shown = await pages.run(stack, "bash", "-c", up)
    version = await client.registry.version(f"{MODEL}/versions/1")
    for name in (version.lineage.training_run, version.lineage.dataset_version, version.base_model_version):
        assert name in shown
    found = json.loads(await pages.run(stack, "bash", "-c", down))
    assert {version.lineage.dataset_version, version.name, f"{MODEL}/releases/1"} <= {n["name"] for n in found["nodes"]}
    # An answer leads back to the data, once the registry has heard of it.
    answer = await client.inference.answer(MODEL, loop.question(1000))

    async def traced() -> bool:
        return version.lineage.dataset_version in await stack.run("lineage", answer.name, check=False)

    await eventually(traced, within_s=30, what="the answer to be traced")


@pytest.mark.timeout(400)
async def test_a_messy_file_becomes_a_reviewed_version_as_the_guide_says(stack: Stack, tmp_path: Path) -> None:
    text = (pages.ROOT / "docs" / "guides" / "data.md").read_text()
    changes = (("--project demo", f"--project {PROJECT}"), ("/tmp/mainspring-guide", str(tmp_path)))
    file, imports, account, compare, measure, name, export, erase = pages.blocks(text, "sh", changes)
    await pages.run(stack, "bash", "-c", file)
    await pages.run(stack, "bash", "-ec", imports, within_s=200)
    shown = await pages.run(stack, "bash", "-ec", account, within_s=200)
    assert "EMAIL_ADDRESS 1" in shown
    assert "is not JSON" in shown
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    shown = await pages.run(stack, "bash", "-ec", compare, within_s=200)
    assert "The café is on the second floor" in shown
    assert "grace.hopper" in shown
    shown = await pages.run(stack, "bash", "-ec", measure, within_s=200)
    assert "Vendi score" in shown
    assert "covered by the version" in shown
    assert "tickets/2 is reviewed from now on" in await pages.run(stack, "bash", "-ec", name, within_s=200)
    assert "5 rows" in await pages.run(stack, "bash", "-ec", export, within_s=200)
    assert "example.org" in (tmp_path / "tickets.jsonl").read_text()
    shown = await pages.run(stack, "bash", "-ec", erase, within_s=200)
    assert "(deleted)" in shown
    assert "reviewed" in shown
    # It was masked in the newest version's rows, so the step took none of them away.
    assert re.search(r"^ *erasure +5 +0 +0 +rows 0", shown, re.MULTILINE), shown
    assert not [path for path in stack.data.glob("artifacts/**/*") if path.is_file() and b"hopper" in path.read_bytes()]


async def test_the_gate_history_and_proof_are_as_the_guide_says(
    stack: Stack, client: Mainspring, tmp_path: Path
) -> None:
    await loop.release_once(client, PROJECT, stack.models, tmp_path)
    text = (pages.ROOT / "docs" / "guides" / "evaluation-and-release.md").read_text()
    changes = (
        ("--project demo", f"--project {PROJECT}"),
        ("/tmp/summaries", str(tmp_path / "summaries")),
        ("summaries/1", f"{loop.NAME}/1"),
        ("show summaries", f"show {loop.NAME}"),
        ("history summaries", f"history {loop.NAME}"),
        ("write summaries", f"write {loop.NAME}"),
        ("create summaries", f"create {loop.NAME}"),
    )
    _, check, approve, history, proof, prompts, guards, _, _ = pages.blocks(text, "sh", changes)
    shown = await pages.run(stack, "bash", "-c", check)
    assert "kept   fidelity" in shown
    assert '"primary_scorer"' in shown
    assert "admin approved" in await pages.run(stack, "bash", "-c", approve)
    told = await pages.run(stack, "bash", "-c", history)
    assert "RELEASED" in told
    assert "intact" in told
    proved = await pages.run(stack, "bash", "-c", proof)
    assert "verified: every file is as it was signed" in proved
    assert f"{MODEL}/releases/1" in proved
    described = get_model_info(str(tmp_path / "summaries-mlflow"))
    assert described.flavors["mainspring"]["model_version"] == f"{MODEL}/versions/1"
    assert await by_mlflow(tmp_path / "summaries-mlflow", stack.models / "llama", loop.question(7)) == loop.ANSWER
    card = (tmp_path / "summaries-1" / "README.md").read_text()
    assert (await client.registry.version(f"{MODEL}/versions/1")).lineage.dataset_version in card
    assert '"language"' in await pages.run(stack, "bash", "-c", prompts)
    assert '"unreleased"' in await pages.run(stack, "bash", "-c", guards)

    # One bit of one file, and the folder proves nothing.
    weights = tmp_path / "summaries-1" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    said = await stack.run("models", "verify", str(weights.parent), check=False)
    assert "verified" not in said


@pytest.mark.timeout(400)  # On a busy machine the turn before it and nine commands take minutes.
async def test_versions_are_measured_and_watched_as_the_guide_says(
    stack: Stack, client: Mainspring, tmp_path: Path
) -> None:
    await loop.release_once(client, PROJECT, stack.models, tmp_path)
    text = (pages.ROOT / "docs" / "guides" / "evaluation-and-release.md").read_text()
    changes = (("--project demo", f"--project {PROJECT}"), ("summaries", loop.NAME))
    measure, look, watch = pages.blocks(text, "bash", changes)
    shown = await pages.run(stack, "bash", "-ec", measure)
    assert "rouge_l" in shown
    assert "p (Holm)" in shown
    shown = await pages.run(stack, "bash", "-ec", look)
    assert "find a difference of" in shown
    assert "questions were asked by both runs" in shown
    shown = await pages.run(stack, "bash", "-ec", watch)
    assert "checks every 24 h" in shown
