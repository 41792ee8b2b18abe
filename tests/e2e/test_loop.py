"""The loop as a black box: data in, released model out, answers through both doors, feedback, and round again."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from tests.support import loop, pages
from tests.support.stack import Stack

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import dataset_pb2, erasure_pb2, ingestion_pb2
from mainspring.embedding.v1 import collection_pb2
from mainspring.inference.v1 import answer_pb2
from mainspring.registry.v1 import guard_policy_pb2, lineage_pb2, prompt_pb2, registry_service_pb2, release_pb2
from mainspring_client.client import Mainspring
from mainspring_client.configuration import Configuration
from mainspring_client.flywheel import Outcome, Result
from mainspring_svckit.errors import NotFound
from mainspring_testkit.waiting import eventually

CORRECTIONS = 6
# Good rows come with a duplicate, an empty one, a number where text should be, and a line that is no JSON.
BAD_LINES = (
    json.dumps(loop.rows(0, 1)[0]),
    '{"input": "x", "target": ""}',
    '{"input": 3, "target": "three"}',
    "{not JSON",
)
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
SAMPLING = answer_pb2.SamplingParameters(max_output_tokens=16)


class Loop:
    """One project's loop, told step by step; each step goes on where the one before it ended."""

    project, model = "loop", f"projects/loop/models/{loop.NAME}"
    base: str
    prompt: prompt_pb2.PromptVersion
    guard: guard_policy_pb2.GuardPolicyVersion
    first: Outcome
    ingestion: ingestion_pb2.Ingestion
    decision: release_pb2.GateDecision
    released: release_pb2.Release

    def __init__(self, stack: Stack, client: Mainspring) -> None:
        self.stack, self.client = stack, client

    async def is_configured(self) -> None:
        """What is released answers after a prompt of its own, behind a guard of its own, at temperature 0."""
        self.base = await loop.import_base(self.client, self.project, self.stack.models)
        brief = chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_SYSTEM, content="Be {{how}}.")
        name, content = f"projects/{self.project}/prompts/brief", prompt_pb2.PromptVersion(messages=[brief])
        self.prompt = await self.client.prompts.write(name, content)
        policy = Configuration.parse({"project": self.project, "guard_policy": GUARD})
        applied = [await self.client.apply(policy) for _ in range(2)]
        assert [change.outcome for (change,) in applied] == ["created", "unchanged"]
        self.guard = await self.client.guards.version(f"projects/{self.project}/guardPolicies/quiet/versions/1")
        unit: dict[str, Any] = {"prompt_version": self.prompt.name, "prompt_variables": {"how": "brief"}}
        unit |= {"temperature": 0, "guard_policy": self.guard.name}
        configuration = loop.configuration(self.project, self.base, retrain_after=CORRECTIONS, unit=unit)
        await self.client.apply(configuration)

    async def turns_once(self, file: Path) -> None:
        """Rows in, released model out; what is no good row is refused with its reason."""
        loop.write(file, loop.rows(0, 120), *BAD_LINES)
        self.first = await loop.turn(self.client, self.project, await loop.ingest(self.client, self.project, file))
        assert self.first.result is Result.RELEASED, self.first.reason
        assert self.first.ingestion is not None
        assert self.first.decision is not None
        self.ingestion, self.decision = self.first.ingestion, self.first.decision
        version = await self.client.data.version(self.ingestion.dataset_version)
        refused = {dataset_pb2.RefusalReason.Name(r.reason)[15:]: r.rows for r in version.refusals}
        assert refused == {"EXACT_DUPLICATE": 1, "EMPTY": 1, "NOT_TEXT": 1, "UNREADABLE": 1}
        assert sum(split.rows for split in version.splits) == 120
        assert all(rule.passed for rule in self.decision.rules)

    async def releases_what_was_measured(self) -> None:
        """Version, prompt and sampling as one."""
        measured = await self.client.evaluation.run(self.decision.evaluation_run)
        (self.released,) = [release async for release in self.client.registry.releases(self.model)]
        assert [message.content for message in self.released.served_unit.prompt] == ["Be brief."]
        assert measured.candidate_unit == measured.baseline_unit == self.released.served_unit

    async def answers_through_grpc(self) -> answer_pb2.Answer:
        """Whole and streaming: the same words, since the release says temperature 0."""
        ask, question = self.client.inference, loop.question(1000)
        whole = await ask.answer(self.model, question, sampling=SAMPLING)
        assert whole.model_version == f"{self.model}/versions/1"
        assert (whole.release, whole.prompt_version) == (self.released.name, self.prompt.name)
        guard_sha256 = self.released.served_unit.guard.sha256
        assert (whole.guard_policy_version, guard_sha256) == (self.guard.name, self.guard.sha256)
        kept_out = await ask.answer(self.model, "What is Ze\u200bphyr?")
        assert (kept_out.text, kept_out.usage.input_tokens) == ("I cannot talk of that.", 0)
        assert kept_out.finish_reason == answer_pb2.FINISH_REASON_CONTENT_FILTER
        bare = await ask.answer(whole.model_version, question, sampling=SAMPLING)
        assert bare.prompt_version == ""
        assert bare.usage.input_tokens < whole.usage.input_tokens, "the prompt stands before the question"
        pieces = [piece async for piece in ask.stream(self.model, question, sampling=SAMPLING)]
        assert "".join(piece for piece in pieces if isinstance(piece, str)) == whole.text
        return whole

    async def leads_back_and_forward(self, answer: str) -> None:
        """Back from an answer to all that it rests on, and forward from a row to all that saw it: one call each."""

        async def rests_on() -> registry_service_pb2.GetLineageResponse | None:
            with suppress(NotFound):  # That there was an answer travels by event.
                return await self.client.registry.lineage(answer, rows=lineage_pb2.LineageRows(page_size=3))
            return None

        walk = await eventually(rests_on, what="the answer to be known")
        assert walk is not None
        behind, dataset_version = {node.name for node in walk.nodes}, self.ingestion.dataset_version
        assert {
            self.released.name,
            self.decision.name,
            self.decision.evaluation_run,
            f"{self.model}/versions/1",
            dataset_version,
            self.ingestion.name,
            self.ingestion.ingestion_recipe,
            f"projects/{self.project}/tuningRecipes/{loop.NAME}",
            self.base,
            self.prompt.name,
        } <= behind
        assert any("/trainingRuns/" in name for name in behind)
        (data,) = walk.data
        assert (data.dataset_version, len(data.rows)) == (dataset_version, 3)
        assert {row.source for row in data.rows} <= {source.name for source in data.sources} <= behind
        sought = erasure_pb2.ErasureSelector(rows=erasure_pb2.RowIds(row_ids=[data.rows[0].row_id]))
        trace = [update async for update in self.client.registry.trace(self.project, sought)][-1].trace
        assert [(found.dataset_version, found.rows) for found in trace.versions] == [(dataset_version, 1)]
        assert {f"{self.model}/versions/1", self.released.name} <= {node.name for node in trace.nodes}
        assert not (await self.client.data.version(dataset_version)).HasField("deletion")

    async def answers_through_openai(self, text: str) -> None:
        """With OpenAI's client, whole and streaming."""
        url, headers = f"{(await self.stack.status())['gateway']}/v1", {"OpenAI-Project": self.project}
        messages: Any = [{"role": "user", "content": loop.question(1000)}]
        wish: Any = {"model": loop.NAME, "messages": messages, "temperature": 0, "max_tokens": 16}
        async with AsyncOpenAI(base_url=url, api_key=self.stack.token, default_headers=headers) as openai:
            assert loop.NAME in {served.id async for served in await openai.models.list()}
            completion = await openai.chat.completions.create(**wish)
            assert completion.choices[0].message.content == text
            stream = await openai.chat.completions.create(**wish, stream=True)
            assert "".join([c.choices[0].delta.content or "" async for c in stream if c.choices]) == text

    async def hears_what_people_say(self) -> None:
        """Answers are asked for, and corrected."""
        url = f"{(await self.stack.status())['gateway']}/v1"
        headers = {"authorization": f"Bearer {self.stack.token}", "openai-project": self.project}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
            for number in range(CORRECTIONS):
                body = {"model": loop.NAME, "messages": [{"role": "user", "content": loop.question(2000 + number)}]}
                answer = (await http.post("/chat/completions", json={**body, "max_tokens": 16})).json()
                judgement = {"target_id": answer["id"], "name": "correction", "value": loop.ANSWER}

                async def judged(judgement: dict[str, str] = judgement) -> bool:
                    # Which answers there were travels by event; until then the door says to try again.
                    return (await http.post("/feedback", json=judgement)).status_code == 201

                await eventually(judged, what="the judgement to be taken")

    async def turns_again_by_itself(self) -> None:
        """Enough corrections are the second turn's rows, and every event of a turn carries its cycle."""

        async def second_ingestion() -> ingestion_pb2.Ingestion | None:
            found = [i async for i in self.client.data.ingestions(self.project)]
            return found[0] if len(found) > 1 else None

        ingestion = await eventually(second_ingestion, within_s=30, what="corrections to be ingested")
        assert ingestion is not None
        second = await loop.turn(self.client, self.project, ingestion)
        assert second.result in {Result.RELEASED, Result.REFUSED}, second.reason
        assert second.result is Result.RELEASED or second.reason
        newer = await self.client.data.version(f"projects/{self.project}/datasets/{loop.NAME}/versions/2")
        assert sum(split.rows for split in newer.splits) == 120 + CORRECTIONS
        decisions = [d async for d in self.client.registry.decisions(self.model)]
        assert [d.model_version for d in decisions] == [f"{self.model}/versions/{number}" for number in (2, 1)]
        cycle = await self.client.registry.cycle(f"projects/{self.project}/cycles/{self.ingestion.cycle}")
        types = [step.event_type.split(".")[1] for step in cycle.steps]
        assert types.index("data") < types.index("training") < types.index("evaluation") < types.index("registry", 3)

    async def gives_its_judgements_as_a_dataset(self) -> None:
        """The same judgements as a dataset of somebody's own choice."""
        source = f"--from-feedback {loop.NAME} --release 1"
        collect = f"datasets import --dataset judged {source} --project {self.project} --json"
        shown = await pages.run(self.stack, "bash", "-ec", f".venv/bin/mainspring {collect}", within_s=120)
        rows = [row async for row in self.client.dataset_versions.rows(json.loads(shown)["name"])]
        assert {row.messages[-1].content for row in rows} == {loop.ANSWER}
        assert len(rows) == CORRECTIONS


@pytest.mark.timeout(400)  # On a busy machine two turns take minutes.
async def test_the_loop_turns_twice_and_answers_through_both_doors(
    stack: Stack, client: Mainspring, tmp_path: Path
) -> None:
    it = Loop(stack, client)
    await it.is_configured()
    await it.turns_once(tmp_path / "in.jsonl")
    await it.releases_what_was_measured()
    answer = await it.answers_through_grpc()
    await it.leads_back_and_forward(answer.name)
    await it.answers_through_openai(answer.text)
    await it.hears_what_people_say()
    await it.turns_again_by_itself()
    await it.gives_its_judgements_as_a_dataset()


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
