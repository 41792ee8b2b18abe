"""The loop as a black box: data in, released model out, answers through both doors, feedback, and round again."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI
from tests.support import loop, pages
from tests.support.stack import Stack

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import dataset_pb2, erasure_pb2
from mainspring.embedding.v1 import collection_pb2
from mainspring.inference.v1 import answer_pb2
from mainspring.registry.v1 import lineage_pb2, prompt_pb2, registry_service_pb2
from mainspring_client.client import Mainspring
from mainspring_client.configuration import Configuration
from mainspring_client.flywheel import Result
from mainspring_svckit.errors import NotFound
from mainspring_testkit.waiting import eventually

CORRECTIONS = 6
GUARD = {
    "id": "quiet",
    "rules": [
        {
            "id": "zephyr",
            "direction": "DIRECTION_BOTH",
            "action": "ACTION_REFUSE",
            "text": "I cannot talk of that.",
            "texts": ["zephyr"],
        }
    ],
}


async def test_the_loop_turns_twice_and_answers_through_both_doors(
    stack: Stack, client: Mainspring, tmp_path: Path
) -> None:
    project, model = "loop", f"projects/loop/models/{loop.NAME}"
    base = await loop.import_base(client, project, stack.models)
    brief = chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_SYSTEM, content="Be {{how}}.")
    prompt = await client.prompts.write(f"projects/{project}/prompts/brief", prompt_pb2.PromptVersion(messages=[brief]))
    policy = Configuration.parse({"project": project, "guard_policy": GUARD})
    applied = [await client.apply(policy) for _ in range(2)]
    assert [change.outcome for (change,) in applied] == ["created", "unchanged"]
    guard = await client.guards.version(f"projects/{project}/guardPolicies/quiet/versions/1")
    unit: dict[str, Any] = {"prompt_version": prompt.name, "prompt_variables": {"how": "brief"}, "temperature": 0}
    unit["guard_policy"] = guard.name
    await client.apply(loop.configuration(project, base, retrain_after=CORRECTIONS, unit=unit))

    # In: good rows, a duplicate, an empty one, a number where text should be.
    bad = (
        json.dumps(loop.rows(0, 1)[0]),
        '{"input": "x", "target": ""}',
        '{"input": 3, "target": "three"}',
        "{not JSON",
    )
    first = await loop.turn(
        client, project, await loop.ingest(client, project, loop.write(tmp_path / "in.jsonl", loop.rows(0, 120), *bad))
    )
    assert first.result is Result.RELEASED, first.reason
    assert first.ingestion is not None
    assert first.decision is not None
    version = await client.data.version(first.ingestion.dataset_version)
    refused = {dataset_pb2.RefusalReason.Name(r.reason)[15:]: r.rows for r in version.refusals}
    assert refused == {"EXACT_DUPLICATE": 1, "EMPTY": 1, "NOT_TEXT": 1, "UNREADABLE": 1}
    assert sum(split.rows for split in version.splits) == 120
    assert all(rule.passed for rule in first.decision.rules)

    # What was measured is what was released and answers: version, prompt and sampling as one.
    measured = await client.evaluation.run(first.decision.evaluation_run)
    (released,) = [release async for release in client.registry.releases(model)]
    assert [message.content for message in released.served_unit.prompt] == ["Be brief."]
    assert measured.candidate_unit == measured.baseline_unit == released.served_unit

    # Out through gRPC, whole and streaming: the same words, since the release says temperature 0.
    sampling = answer_pb2.SamplingParameters(max_output_tokens=16)
    whole = await client.inference.answer(model, loop.question(1000), sampling=sampling)
    assert whole.model_version == f"{model}/versions/1"
    assert (whole.release, whole.prompt_version) == (released.name, prompt.name)
    assert (whole.guard_policy_version, released.served_unit.guard.sha256) == (guard.name, guard.sha256)
    kept_out = await client.inference.answer(model, "What is Ze\u200bphyr?")
    assert (kept_out.text, kept_out.usage.input_tokens) == ("I cannot talk of that.", 0)
    assert kept_out.finish_reason == answer_pb2.FINISH_REASON_CONTENT_FILTER
    bare = await client.inference.answer(whole.model_version, loop.question(1000), sampling=sampling)
    assert bare.prompt_version == ""
    assert bare.usage.input_tokens < whole.usage.input_tokens, "the prompt stands before the question"
    pieces = [piece async for piece in client.inference.stream(model, loop.question(1000), sampling=sampling)]
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == whole.text

    # Back from the answer to all that it rests on, and forward from a row to all that saw it: one call each.
    async def rests_on() -> registry_service_pb2.GetLineageResponse | None:
        with suppress(NotFound):  # That there was an answer travels by event.
            return await client.registry.lineage(whole.name, rows=lineage_pb2.LineageRows(page_size=3))
        return None

    walk = await eventually(rests_on, what="the answer to be known")
    assert walk is not None
    behind = {node.name for node in walk.nodes}
    assert {
        released.name,
        first.decision.name,
        first.decision.evaluation_run,
        f"{model}/versions/1",
        first.ingestion.dataset_version,
        first.ingestion.name,
        first.ingestion.ingestion_recipe,
        f"projects/{project}/tuningRecipes/{loop.NAME}",
        base,
        prompt.name,
    } <= behind
    assert any("/trainingRuns/" in name for name in behind)
    (data,) = walk.data
    assert (data.dataset_version, len(data.rows)) == (first.ingestion.dataset_version, 3)
    assert {row.source for row in data.rows} <= {source.name for source in data.sources} <= behind
    sought = erasure_pb2.ErasureSelector(rows=erasure_pb2.RowIds(row_ids=[data.rows[0].row_id]))
    trace = [update async for update in client.registry.trace(project, sought)][-1].trace
    assert [(found.dataset_version, found.rows) for found in trace.versions] == [(first.ingestion.dataset_version, 1)]
    assert {f"{model}/versions/1", released.name} <= {node.name for node in trace.nodes}
    assert not (await client.data.version(first.ingestion.dataset_version)).HasField("deletion")

    # Out through OpenAI's API, with OpenAI's client.
    gateway = f"{(await stack.status())['gateway']}/v1"
    openai = AsyncOpenAI(base_url=gateway, api_key=stack.token, default_headers={"OpenAI-Project": project})
    async with openai:
        assert loop.NAME in {served.id async for served in await openai.models.list()}
        messages: Any = [{"role": "user", "content": loop.question(1000)}]
        completion = await openai.chat.completions.create(
            model=loop.NAME,
            messages=messages,
            temperature=0,
            max_tokens=16,
        )
        assert completion.choices[0].message.content == whole.text
        stream = await openai.chat.completions.create(
            model=loop.NAME,
            messages=messages,
            temperature=0,
            max_tokens=16,
            stream=True,
        )
        assert "".join([c.choices[0].delta.content or "" async for c in stream if c.choices]) == whole.text

    # What people say of answers becomes the second turn.
    headers = {"authorization": f"Bearer {stack.token}", "openai-project": project}
    async with httpx.AsyncClient(base_url=gateway, headers=headers, timeout=60) as http:
        for number in range(CORRECTIONS):
            body = {"model": loop.NAME, "messages": [{"role": "user", "content": loop.question(2000 + number)}]}
            answer = (await http.post("/chat/completions", json={**body, "max_tokens": 16})).json()
            judgement = {"target_id": answer["id"], "name": "correction", "value": loop.ANSWER}

            async def judged(judgement: dict[str, str] = judgement) -> bool:
                # Which answers there were travels by event; until then the door says to try again.
                return (await http.post("/feedback", json=judgement)).status_code == 201

            await eventually(judged, what="the judgement to be taken")

    async def second_ingestion() -> str:
        found = [i async for i in client.data.ingestions(project)]
        return found[0].name if len(found) > 1 else ""

    name = await eventually(second_ingestion, within_s=30, what="corrections to be ingested")
    (ingestion,) = [i async for i in client.data.ingestions(project) if i.name == name]
    second = await loop.turn(client, project, ingestion)
    assert second.result in {Result.RELEASED, Result.REFUSED}, second.reason
    assert second.result is Result.RELEASED or second.reason
    newer = await client.data.version(f"projects/{project}/datasets/{loop.NAME}/versions/2")
    assert sum(split.rows for split in newer.splits) == 120 + CORRECTIONS
    decisions = [d async for d in client.registry.decisions(model)]
    assert [d.model_version for d in decisions] == [f"{model}/versions/2", f"{model}/versions/1"]
    cycle = await client.registry.cycle(f"projects/{project}/cycles/{first.ingestion.cycle}")
    types = [step.event_type.split(".")[1] for step in cycle.steps]
    assert types.index("data") < types.index("training") < types.index("evaluation") < types.index("registry", 3)

    # The same judgements as a dataset of somebody's own choice.
    collect = f"datasets import --dataset judged --from-feedback {loop.NAME} --release 1 --project {project} --json"
    shown = await pages.run(stack, "bash", "-ec", f".venv/bin/mainspring {collect}", within_s=120)
    version = json.loads(shown)["name"]
    judged_rows = [row async for row in client.dataset_versions.rows(version)]
    assert {row.messages[-1].content for row in judged_rows} == {loop.ANSWER}
    assert len(judged_rows) == CORRECTIONS


async def test_an_answer_cites_the_documents_it_was_given(stack: Stack, client: Mainspring, tmp_path: Path) -> None:
    project, model = "cites", f"projects/cites/models/{loop.NAME}"
    embedding = await loop.import_embedding(client, project, stack.models)
    collection = f"projects/{project}/collections/things"
    await client.embedding.create_collection(collection, embedding)
    documents = [
        {"id": thing, "title": thing.title(), "uri": "", "text": f"The {thing} has a colour."} for thing in loop.THINGS
    ]
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    build = await client.embedding.index(collection, await client.data.upload(project, path))
    states = [update.state async for update in client.embedding.watch_build(build.name)]
    assert states[-1] == collection_pb2.IndexBuild.STATE_SUCCEEDED

    base = await loop.import_base(client, project, stack.models)
    await client.apply(loop.configuration(project, base))
    rows = loop.write(tmp_path / "in.jsonl", loop.rows(0, 100))
    outcome = await loop.turn(client, project, await loop.ingest(client, project, rows))
    assert outcome.result is Result.RELEASED, outcome.reason
    wish = answer_pb2.ContextRequest(collection=collection, top_k=2)
    sampling = answer_pb2.SamplingParameters(max_output_tokens=8)
    answer = await client.inference.answer(model, "What colour?", context=wish, sampling=sampling)
    titles = {citation.title for citation in answer.citations}
    assert len(titles) == 2
    assert titles <= {thing.title() for thing in loop.THINGS}
    vectors = await client.embedding.embed(f"projects/{project}/models/embedding", ["sky", "sky", "sea"])
    assert vectors[0] == vectors[1] != vectors[2]
