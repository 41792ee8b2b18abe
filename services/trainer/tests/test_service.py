"""The trainer as its users meet it: gRPC, events in and out, real NATS and Postgres, and the real training worker."""

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from grpc_status import rpc_status

from mainspring.data.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2
from mainspring.events.v1.data_events_pb2 import DatasetVersionPublished
from mainspring.events.v1.training_events_pb2 import TrainingRunCancelled, TrainingRunFailed, TrainingRunSucceeded
from mainspring.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from mainspring.training.v1 import recipe_pb2, run_pb2
from mainspring.training.v1 import training_service_pb2 as pb
from mainspring.training.v1 import training_service_pb2_grpc as pb_grpc
from mainspring_eventkit.bus import Bus
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import ConcurrentChange, InvalidInput, MainspringError, NotFound, PreconditionFailed
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_from_proto, artifact_to_proto, failure_from_proto
from mainspring_svckit.status import to_status
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import ServiceProcess, Surroundings
from mainspring_testkit.tiny import tiny_llama
from mainspring_testkit.waiting import eventually

ROOT = Path(__file__).parents[3]
WORKER_PYTHON = ROOT / ".venv-train" / "bin" / "python"
RECIPE = "projects/p/tuningRecipes/t"
DATASET = "projects/p/datasets/d"
BASE = "projects/p/models/base/versions/1"
MODEL = "projects/p/models/m"
Run = run_pb2.TrainingRun

# Stands for the worker where a test is about the service: it tells what the real one tells, as fast or as slowly as
# the test wants. A second start goes on from the checkpoint of the first.
FAKE_WORKER = """
import json, os, pathlib, signal, sys, time
spec = json.loads(pathlib.Path(sys.argv[-1]).read_text())
output = pathlib.Path(spec["output"])
def tell(kind, **values):
    os.write(spec["progress_fd"], (json.dumps({"type": kind, **values}) + "\\n").encode())
def checkpoint(step):
    (output / f"c{step}").write_text(f"{step} of {spec['run']}")
    tell("checkpoint", step=step, file=f"c{step}")
done = int(pathlib.Path(spec["resume_from"]).read_text().split()[0]) if spec["resume_from"] else 0
def stop(*_):
    checkpoint(done)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
steps = spec["optimization"]["max_steps"]
tell("plan", steps=steps, precision="fp32")
wait = pathlib.Path(__file__).with_name("wait-at")
pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
pathlib.Path(__file__).with_name("resumed-from").write_text(str(done))
for step in range(done, steps + 1):
    done = step
    loss = 2.0 - step / 10
    tell("metric", step=step, epoch=step / 10, train_loss=loss, validation_loss=loss if step % 5 == 0 else None,
         learning_rate=1e-3, tokens_per_second=100.0)
    if step and step % 5 == 0:
        checkpoint(step)
    while wait.exists() and int(wait.read_text()) == step:
        time.sleep(0.01)
roles = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter.gguf", "fidelity_probe.json",
         "training_report.json"]
(output / "file").write_text("made by " + spec["run"])
tell("result", files=dict.fromkeys(roles, "file"), best_step=steps, best_validation_loss=1.0,
     initial_validation_loss=2.0, steps=steps, tokens=10, stopped_early=False, rows_too_long=0)
"""


class Others(registry_service_pb2_grpc.RegistryServiceServicer, data_service_pb2_grpc.DataServiceServicer):
    """What the registry and data-ingest know."""

    def __init__(self) -> None:
        self.models: dict[str, model_pb2.ModelVersion] = {}
        self.datasets: dict[str, dataset_pb2.DatasetVersion] = {}

    async def GetModelVersion(self, request: Any, context: Any) -> Any:
        if request.name not in self.models:
            await refuse(context, NotFound("ModelVersion", request.name))
        return registry_service_pb2.GetModelVersionResponse(model_version=self.models[request.name])

    async def GetDatasetVersion(self, request: Any, context: Any) -> Any:
        if request.name not in self.datasets:
            await refuse(context, NotFound("DatasetVersion", request.name))
        return data_service_pb2.GetDatasetVersionResponse(dataset_version=self.datasets[request.name])


class Trainer:
    """Replicas of the trainer, what is around them, and somebody who calls them."""

    def __init__(
        self,
        surroundings: Surroundings,
        database: str,
        others: Others,
        address: str,
        store: ArtifactStore,
        folder: Path,
    ) -> None:
        self.surroundings, self.others, self.store, self.folder = surroundings, others, store, folder
        self.caller = surroundings.caller("admin")
        self.replicas: list[ServiceProcess] = []
        self.turn = 0
        self._database, self._address = database, address
        self.python = folder / "python"
        self.python.write_text(f"#!{sys.executable}\n{FAKE_WORKER}")
        self.python.chmod(0o755)

    def replica(self, **settings: Any) -> ServiceProcess:
        given = {
            "registry_address": self._address,
            "data_ingest_address": self._address,
            "cache_dir": str(self.folder / "cache"),
            "worker_python": str(self.python),
            "torch_threads": 1,
            "run_lease_s": 3,
            **settings,
        }
        made = self.surroundings.replica("mainspring_trainer.main", self._database, **given)
        self.replicas.append(made)
        return made

    async def start(self, count: int = 2, **settings: Any) -> None:
        await asyncio.gather(*(self.replica(**settings).start() for _ in range(count)))

    async def call(self, method: str, **fields: Any) -> Any:
        self.turn += 1
        running = [replica for replica in self.replicas if replica.ports]
        request = getattr(pb, f"{method}Request")(**fields)
        stub: Any = pb_grpc.TrainingServiceStub(running[self.turn % len(running)].channel)
        return await self.caller.unary(getattr(stub, method), request, getattr(pb, f"{method}Response"))

    async def watch(self, name: str) -> list[pb.WatchTrainingRunResponse]:
        stub: Any = pb_grpc.TrainingServiceStub(self.replicas[-1].channel)
        request = pb.WatchTrainingRunRequest(name=name)
        return [r async for r in self.caller.stream(stub.WatchTrainingRun, request, pb.WatchTrainingRunResponse)]

    async def recipe(self, steps: int = 12, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "name": RECIPE,
            "dataset": DATASET,
            "base_model_version": BASE,
            "model": MODEL,
            "method": recipe_pb2.TuningRecipe.METHOD_SUPERVISED,
            "lora": recipe_pb2.LoraConfig(rank=4, dropout=0.1),
            "optimization": recipe_pb2.Optimization(
                epochs=10, batch_rows=4, learning_rate=0.02, max_steps=steps, validate_every_steps=3, patience=100
            ),
            **changes,
        }
        await self.call("UpdateTuningRecipe", tuning_recipe=recipe_pb2.TuningRecipe(**fields), allow_missing=True)

    async def run(self) -> Run:
        """The newest run."""
        runs = (await self.call("ListTrainingRuns", parent="projects/p", page_size=1)).training_runs
        assert runs
        return runs[0]

    async def reached(self, step: int) -> Run:
        async def there() -> Run | None:
            run = await self.run()
            return run if run.progress.done >= step else None

        found = await eventually(there, within_s=60, what=f"step {step}")
        assert found is not None
        return found

    async def base(self) -> None:
        folder = tiny_llama(self.folder / "tiny")
        files = {f"hf/{path.name}": await self.store.put_file("p", path) for path in folder.iterdir()}
        version = model_pb2.ModelVersion(name=BASE, kind=model_pb2.MODEL_KIND_FOUNDATION)
        for role, file in files.items():
            version.artifacts[role].CopyFrom(artifact_to_proto(file))
        self.others.models[BASE] = version

    async def dataset(self, version: int = 1, train: int = 24, *, pairs: bool = False) -> DatasetVersionPublished:
        splits = {
            "train": await self._shard(range(train), pairs=pairs),
            "validation": await self._shard(range(900, 908), pairs=pairs),
        }
        root = hashlib.sha256(json.dumps(splits).encode()).hexdigest()
        body = json.dumps({"schema": "mainspring.dataset.v1", "root_sha256": root, "splits": splits})
        manifest = artifact_to_proto(await self.store.put_bytes("p", body.encode()))
        name = f"{DATASET}/versions/{version}"
        self.others.datasets[name] = dataset_pb2.DatasetVersion(name=name, root_sha256=root, manifest=manifest)
        return DatasetVersionPublished(dataset_version=name, dataset=DATASET, root_sha256=root, manifest=manifest)

    async def _shard(self, numbers: range, *, pairs: bool) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for number in numbers:
            question, answer = f"sack {number}, mill {number % 4}", ["corn", "wheat", "rye", "oats"][number % 4]
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            worse = {"rejected": ["wheat", "rye", "oats", "corn"][number % 4]} if pairs else {}
            rows.append({"row_id": hashlib.sha256(question.encode()).hexdigest(), "messages": messages, **worse})
        path = self.folder / "shard.parquet"
        parquet.write_table(pa.Table.from_pylist(rows), path)
        file = await self.store.put_file("p", path)
        return [{"sha256": file.sha256, "size_bytes": file.size_bytes, "rows": len(rows)}]


@pytest.fixture
async def trainer(
    surroundings: Surroundings, postgres: PostgresServer, artifact_url: str, tmp_path: Path
) -> AsyncIterator[Trainer]:
    others = Others()  # pyright: ignore[reportAbstractUsage] - the RPCs that the trainer never calls.
    server = grpc.aio.server()
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(others, server)
    data_service_pb2_grpc.add_DataServiceServicer_to_server(others, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    database = await postgres.new_database("mainspring_trainer")
    made = Trainer(surroundings, database, others, f"127.0.0.1:{port}", ArtifactStore(artifact_url), tmp_path)
    await made.base()
    yield made
    await surroundings.stop()
    await server.stop(0)


async def test_a_published_version_becomes_an_adapter(trainer: Trainer, bus: Bus, event_tap: EventTap) -> None:
    await trainer.start(worker_python=real_worker())
    await trainer.recipe()
    published, cycle = await trainer.dataset(), new_id()
    for _ in range(3):  # The bus delivers at least once; the effect is single.
        await publish(bus, published, cycle=cycle, event_id="published")
    run = await eventually(trainer.run)
    seen = await trainer.watch(run.name)
    assert seen[-1].training_run.state == Run.STATE_SUCCEEDED, seen[-1].training_run.error.message
    steps = [metric.step for response in seen for metric in response.metrics]
    assert steps == list(range(13))
    result = seen[-1].training_run.result
    assert (result.steps, seen[-1].training_run.attempt) == (12, 1)
    assert result.best_validation_loss < result.initial_validation_loss
    (event,) = await event_tap.wait_for(TrainingRunSucceeded)
    assert (event.training_run, event.model, event.base_model_version) == (run.name, MODEL, BASE)
    assert (event.dataset_version, event.dataset_root_sha256) == (published.dataset_version, published.root_sha256)
    assert event.artifacts == result.artifacts
    assert [e.cycle for e in event_tap.events if e.subject == run.name] == [cycle]
    gguf = await trainer.store.read("p", artifact_from_proto(event.artifacts["adapter.gguf"]))
    assert gguf.startswith(b"GGUF")
    assert len((await trainer.call("ListTrainingRuns", parent="projects/p")).training_runs) == 1


async def test_preferences_become_an_adapter_and_other_rows_are_refused(
    trainer: Trainer, bus: Bus, event_tap: EventTap
) -> None:
    await trainer.start(1, worker_python=real_worker())
    await trainer.recipe(
        method=recipe_pb2.TuningRecipe.METHOD_DPO,
        lora=recipe_pb2.LoraConfig(rank=4),
        preference=recipe_pb2.PreferenceConfig(beta=0.2),
        optimization=recipe_pb2.Optimization(epochs=10, batch_rows=8, learning_rate=0.005, max_steps=20),
    )
    stored = (await trainer.call("GetTuningRecipe", name=RECIPE)).tuning_recipe
    assert (stored.method, stored.preference.beta) == (recipe_pb2.TuningRecipe.METHOD_DPO, 0.2)
    assert (stored.preference.desirable_weight, stored.preference.undesirable_weight) == (1, 1)
    await publish(bus, await trainer.dataset(1, pairs=True), cycle=new_id())
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=120)
    result = (await trainer.call("GetTrainingRun", name=event.training_run)).training_run.result
    assert result.best_validation_loss < 0.65 < 0.69 < result.initial_validation_loss
    await publish(bus, await trainer.dataset(2), cycle=new_id())
    (refused,) = await event_tap.wait_for(TrainingRunFailed, within_s=60)
    assert (refused.reason, "METHOD_DPO learns from" in refused.message) == ("DATASET_MISMATCH", True)


async def test_i6_a_trainer_killed_with_its_process_is_followed_by_another_that_ends_the_same(
    trainer: Trainer, bus: Bus, event_tap: EventTap
) -> None:
    """F2: the run is killed in the middle; its twin is not disturbed."""
    await trainer.start(1, worker_python=real_worker())
    await trainer.recipe(steps=40)
    await publish(bus, await trainer.dataset(), cycle=new_id())
    await trainer.reached(8)
    before = children_of(trainer.replicas[0])
    assert before
    await trainer.replicas.pop().kill()
    await eventually(lambda: gone(before), what="the training process to die with the trainer")
    await trainer.start(1, worker_python=real_worker())
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=120)
    assert (await trainer.run()).attempt == 2
    await publish(bus, await trainer.dataset(2), cycle=new_id())
    twin = (await event_tap.wait_for(TrainingRunSucceeded, count=2, within_s=120))[1]
    weights = "adapter/adapter_model.safetensors"
    assert twin.artifacts[weights].sha256 == event.artifacts[weights].sha256
    assert twin.artifacts["adapter.gguf"].sha256 == event.artifacts["adapter.gguf"].sha256


async def test_f2_a_process_killed_alone_is_followed_by_one_that_goes_on(
    trainer: Trainer, bus: Bus, event_tap: EventTap
) -> None:
    await trainer.start(1)
    await trainer.recipe(steps=12)
    (trainer.folder / "wait-at").write_text("7")
    await publish(bus, await trainer.dataset())
    await trainer.reached(7)
    (trainer.folder / "wait-at").unlink()
    os.kill(int((trainer.folder / "pid").read_text()), signal.SIGKILL)
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=60)
    assert (await trainer.run()).attempt == 2
    assert (trainer.folder / "resumed-from").read_text() == "5"
    seen = await trainer.watch(event.training_run)
    assert [metric.step for metric in seen[0].metrics] == list(range(13))


async def test_f20_a_trainer_that_stops_hands_its_run_over(trainer: Trainer, bus: Bus, event_tap: EventTap) -> None:
    await trainer.start(1)
    await trainer.recipe(steps=20)
    (trainer.folder / "wait-at").write_text("7")
    await publish(bus, await trainer.dataset())
    await trainer.reached(7)
    trainer.replica()
    stopping, starting = trainer.replicas
    await starting.start()
    pid = int((trainer.folder / "pid").read_text())
    assert await stopping.stop() == 0
    assert await gone([pid])
    trainer.replicas.remove(stopping)

    async def taken_over() -> bool:
        return (await trainer.run()).attempt == 2

    await eventually(taken_over)
    (trainer.folder / "wait-at").unlink()
    (event,) = await event_tap.wait_for(TrainingRunSucceeded)
    seen = await trainer.watch(event.training_run)
    assert [metric.step for metric in seen[0].metrics] == list(range(21))


async def test_a_cancelled_run_ends_its_process(trainer: Trainer, bus: Bus, event_tap: EventTap) -> None:
    await trainer.start()
    await trainer.recipe(steps=20)
    (trainer.folder / "wait-at").write_text("6")
    await publish(bus, await trainer.dataset())
    run = await trainer.reached(6)
    pid = int((trainer.folder / "pid").read_text())
    cancelled = (await trainer.call("CancelTrainingRun", name=run.name, request_id=new_id())).training_run
    assert cancelled.state == Run.STATE_CANCELLED
    await eventually(lambda: gone([pid]), what="the process to end")
    assert (await event_tap.wait_for(TrainingRunCancelled))[0].training_run == run.name
    with pytest.raises(PreconditionFailed) as caught:
        await trainer.call("CancelTrainingRun", name=run.name)
    assert caught.value.reason == "ILLEGAL_STATE_TRANSITION"

    async def tidy() -> bool:
        return not list((trainer.folder / "artifacts").rglob(checkpoint_digest(5, run.name)))

    await eventually(tidy, what="the checkpoint to be removed")
    (trainer.folder / "wait-at").unlink()
    asked = await trainer.call(
        "CreateTrainingRun", parent="projects/p", tuning_recipe=RECIPE, dataset_version=f"{DATASET}/versions/1"
    )
    assert (await trainer.watch(asked.training_run.name))[-1].training_run.state == Run.STATE_SUCCEEDED


async def test_a_run_is_paused_with_a_checkpoint_and_goes_on_from_it_at_another_trainer(
    trainer: Trainer, event_tap: EventTap
) -> None:
    await trainer.start(1)
    await trainer.recipe(steps=12)
    (trainer.folder / "wait-at").write_text("7")
    asked = {"parent": "projects/p", "tuning_recipe": RECIPE, "priority": 3}
    asked["dataset_version"] = (await trainer.dataset()).dataset_version
    name = (await trainer.call("CreateTrainingRun", **asked)).training_run.name
    await trainer.reached(7)
    pausing = (await trainer.call("PauseTrainingRun", name=name, request_id=new_id())).training_run
    assert (pausing.state, pausing.pausing, pausing.priority) == (Run.STATE_RUNNING, True, 3)

    async def paused() -> Run | None:
        run = await trainer.run()
        return run if run.state == Run.STATE_PAUSED else None

    run = await eventually(paused)
    assert run is not None
    assert [checkpoint.step for checkpoint in run.checkpoints][:1] == [7]
    assert run.usage.cpu_s > 0
    (trainer.folder / "wait-at").unlink()
    await trainer.replicas.pop().stop()
    await trainer.start(1)
    assert (await trainer.call("ResumeTrainingRun", name=name)).training_run.state == Run.STATE_PENDING
    assert (await event_tap.wait_for(TrainingRunSucceeded, within_s=60))[0].training_run == name
    assert (trainer.folder / "resumed-from").read_text() == "7"
    page = await trainer.call("GetTrainingRunPage", name=name, max_points=100)
    assert page.training_run.usage.peak_memory_bytes > 1 << 20
    assert (page.training_run.HasField("first_step_time"), page.tuning_recipe.lora.rank) == (True, 4)
    losses = {curve.series: [point.step for point in curve.points] for curve in page.curves}
    assert losses["train_loss"] == list(range(1, 13))
    assert losses["validation_loss"] == [0, 5, 10]
    with pytest.raises(PreconditionFailed):
        await trainer.call("PauseTrainingRun", name=name)


@pytest.mark.parametrize(
    "point",
    [
        "trainer-datasets:before-effect",
        "trainer-datasets:before-commit",
        "trainer-datasets:before-ack",
        "training-run:after-claim",
        "artifacts:after-put",
        "outbox:before-publish",
        "outbox:after-publish",
    ],
)
async def test_f1_killed_at_any_point_a_published_version_is_learned_once(
    trainer: Trainer, bus: Bus, event_tap: EventTap, point: str
) -> None:
    await trainer.start(1)
    await trainer.recipe(steps=6)
    (first,) = trainer.replicas
    await first.kill()
    await first.start(ready=False, MAINSPRING_CRASH_AT=point)
    await publish(bus, await trainer.dataset(), cycle=new_id())
    assert await first.wait() == 137
    trainer.replicas.clear()
    await trainer.start(1)
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=60)
    runs = (await trainer.call("ListTrainingRuns", parent="projects/p")).training_runs
    assert [run.name for run in runs] == [event.training_run]


async def test_a_run_that_cannot_be_says_why(trainer: Trainer, bus: Bus, event_tap: EventTap) -> None:
    trainer.python.write_text(f"#!{sys.executable}\nraise SystemExit('the cause')")
    await trainer.start(run_attempts=2)
    await trainer.recipe(base_model_version="projects/p/models/none/versions/1")
    await publish(bus, await trainer.dataset(), cycle=new_id())
    (event,) = await event_tap.wait_for(TrainingRunFailed)
    assert event.reason == "BASE_MODEL_UNKNOWN"
    run = (await trainer.call("GetTrainingRun", name=event.training_run)).training_run
    assert failure_from_proto(run.error) == (event.reason, event.message)
    await trainer.recipe()
    await publish(bus, await trainer.dataset(2, train=0), cycle=new_id())
    assert (await event_tap.wait_for(TrainingRunFailed, count=2))[1].reason == "NO_TRAINING_ROWS"
    await publish(bus, await trainer.dataset(3), cycle=new_id())
    crashed = (await event_tap.wait_for(TrainingRunFailed, count=3))[2]
    assert (crashed.reason, "the cause" in crashed.message) == ("WORKER_CRASHED", True)
    assert (await trainer.call("GetTrainingRun", name=crashed.training_run)).training_run.attempt == 2


async def test_requests_are_checked_and_repeats_are_one(trainer: Trainer) -> None:
    await trainer.start()
    with pytest.raises(InvalidInput) as caught:
        await trainer.recipe(dataset="d", method=0)
    assert {v.field for v in caught.value.violations} == {"tuning_recipe.dataset", "tuning_recipe.method"}
    await trainer.recipe()
    stored = (await trainer.call("GetTuningRecipe", name=RECIPE)).tuning_recipe
    assert (stored.lora.alpha, stored.optimization.max_sequence_tokens, stored.replay_ratio) == (8, 512, 1)
    await trainer.call("UpdateTuningRecipe", tuning_recipe=stored)
    with pytest.raises(ConcurrentChange) as stale:
        await trainer.call("UpdateTuningRecipe", tuning_recipe=stored)
    assert stale.value.reason == "ETAG_MISMATCH"
    (trainer.folder / "wait-at").write_text("0")
    wish = {
        "parent": "projects/p",
        "tuning_recipe": RECIPE,
        "dataset_version": (await trainer.dataset()).dataset_version,
        "request_id": new_id(),
    }
    both = [(await trainer.call("CreateTrainingRun", **wish)).training_run for _ in range(2)]
    assert both[0] == both[1]
    assert both[0].state == Run.STATE_PENDING
    with pytest.raises(NotFound):
        await trainer.call("ListTrainingMetrics", parent="projects/p/trainingRuns/none")
    (trainer.folder / "wait-at").unlink()
    await trainer.watch(both[0].name)
    pages, token = [], ""
    while not pages or token:
        page = await trainer.call("ListTrainingMetrics", parent=both[0].name, page_size=5, page_token=token)
        pages.append([metric.step for metric in page.training_metrics])
        token = page.next_page_token
    assert pages == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12]]
    assert len((await trainer.call("ListTuningRecipes", parent="projects/p")).tuning_recipes) == 1


async def refuse(context: Any, error: MainspringError) -> None:
    """Ends an RPC as every service does."""
    await context.abort_with_status(rpc_status.to_status(to_status(error)))


def real_worker() -> str:
    if not WORKER_PYTHON.exists():
        pytest.fail(f"{WORKER_PYTHON} is missing; 'make setup' makes the environment of the training worker")
    return str(WORKER_PYTHON)


def checkpoint_digest(step: int, run: str) -> str:
    return hashlib.sha256(f"{step} of {run}".encode()).hexdigest()


def children_of(replica: ServiceProcess) -> list[int]:
    return [child.pid for child in psutil.Process(replica.pid).children()]


async def gone(pids: list[int]) -> bool:
    return all(not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in pids)
