"""The trainer in processes of its own, and what is around it."""

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from grpc_status import rpc_status

from mainspring.data.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2
from mainspring.events.v1.data_events_pb2 import DatasetVersionPublished
from mainspring.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from mainspring.training.v1 import recipe_pb2, run_pb2
from mainspring.training.v1 import study_service_pb2 as studies
from mainspring.training.v1 import study_service_pb2_grpc as studies_grpc
from mainspring.training.v1 import training_service_pb2 as pb
from mainspring.training.v1 import training_service_pb2_grpc as pb_grpc
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import MainspringError, NotFound
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_svckit.status import to_status
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
import json, math, os, pathlib, signal, sys, time
sys.stdin.read()  # Its end says that the specification is there.
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
    loss = 2.0 - step / 10 + abs(math.log10(spec["optimization"]["learning_rate"]) + 2)
    tell("metric", step=step, epoch=step / 10, train_loss=loss, validation_loss=loss if step % 5 == 0 else None,
         learning_rate=1e-3, tokens_per_second=100.0, measures={"reward_margin": step / 4} if step else {})
    if step and step % 5 == 0:
        checkpoint(step)
    while wait.exists() and int(wait.read_text()) == step:
        time.sleep(0.01)
roles = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter.gguf", "fidelity_probe.json",
         "training_report.json"]
(output / "file").write_text("made by " + spec["run"])
tell("result", files=dict.fromkeys(roles, "file"), best_step=steps, best_validation_loss=loss,
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
            "spare_worker": False,
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

    async def search(self, method: str, **fields: Any) -> Any:
        """Calls the service of studies."""
        self.turn += 1
        request = getattr(studies, f"{method}Request")(**fields)
        stub: Any = studies_grpc.StudyServiceStub(self.replicas[self.turn % len(self.replicas)].channel)
        return await self.caller.unary(getattr(stub, method), request, getattr(studies, f"{method}Response"))

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
