"""Use cases over fakes, and what tests say to them."""

import asyncio
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mainspring_svckit.names import project_name_of
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.fakes import (
    FakeClock,
    FakeLease,
    FakeNotifier,
    FakeOutbox,
    FakeRepository,
    FakeTransactions,
    FakeWork,
)
from mainspring_testkit.waiting import eventually
from mainspring_trainer.adapters.announcements import OutboxAnnouncements
from mainspring_trainer.adapters.optuna_search import OptunaSearch
from mainspring_trainer.application.inputs import Compute
from mainspring_trainer.application.policy import Policy
from mainspring_trainer.application.ports import ModelVersion, Ports, Told
from mainspring_trainer.application.recipes import Recipes
from mainspring_trainer.application.runs import Runs
from mainspring_trainer.application.training import Training
from mainspring_trainer.domain.recipes import (
    TuningRecipe,
)
from mainspring_trainer.domain.results import ADAPTER, REPORT
from mainspring_trainer.domain.runs import Dataset, TrainingMetric, TrainingRun, metric_key
from mainspring_trainer.domain.studies import trial_key
from mainspring_trainer.domain.tracking import Rates

from .fakes import FakeChildren, FakeDatasets, FakeFiles, FakeModels, FakeWishes

ROLES = (*ADAPTER, "adapter.gguf", "fidelity_probe.json", REPORT)


VERSION = "projects/p/datasets/d/versions/1"
CHAMPION = "projects/p/models/m@champion"
RECIPE = TuningRecipe(
    name="projects/p/tuningRecipes/t",
    dataset="projects/p/datasets/d",
    base_model_version="projects/p/models/base/versions/1",
    model="projects/p/models/m",
)

METRIC = TrainingMetric("", "", 0, 0.1, 1.0, None, 1e-3, 9.0, datetime(2026, 1, 1, tzinfo=UTC))
POLICY = Policy(open_runs_per_project=3, rates=Rates(10, 0.05, 2.0, 0.4, "EUR"))


def project(value: Any) -> str:
    return project_name_of(value.name)


@dataclass
class World:
    ports: Ports
    files: FakeFiles
    models: FakeModels
    datasets: FakeDatasets
    children: FakeChildren
    work: FakeWork
    outbox: FakeOutbox
    runs: Runs
    training: Training
    lease: FakeLease
    wishes: FakeWishes

    async def recipe(self, **changes: Any) -> TuningRecipe:
        recipe = replace(RECIPE, **changes)
        return (await Recipes(self.ports).put(recipe, etag="", allow_missing=True)).value

    async def dataset(self, name: str = VERSION, train_rows: int = 5, root: str = "root") -> Dataset:
        shards = {
            split: [{"sha256": (await self.put(f"{split} {name}")).sha256, "size_bytes": 1, "rows": rows}]
            for split, rows in (("train", train_rows), ("validation", 2))
        }
        body = {"schema": "mainspring.dataset.v1", "root_sha256": root, "splits": shards}
        self.datasets.known[name] = Dataset(name, await self.put(json.dumps(body)), "root")
        return self.datasets.known[name]

    async def base(self) -> None:
        files = {f"hf/{name}": await self.put(name) for name in ("config.json", "model.safetensors")}
        version = ModelVersion(
            RECIPE.base_model_version, "FOUNDATION", "", "", {**files, "gguf": files["hf/config.json"]}
        )
        self.models.known[version.name] = version

    async def champion(self, rank: int = 16, base: str = RECIPE.base_model_version) -> ModelVersion:
        files = {
            "adapter/adapter_config.json": await self.put(json.dumps({"r": rank, "lora_alpha": 2 * rank})),
            "adapter/adapter_model.safetensors": await self.put("weights"),
        }
        old = "projects/p/datasets/d/versions/0"
        await self.dataset(old)
        self.models.known[CHAMPION] = ModelVersion("projects/p/models/m/versions/3", "ADAPTER", base, old, files)
        return self.models.known[CHAMPION]

    async def working(self, run: TrainingRun) -> asyncio.Future[None]:
        """A trainer in the middle of a run."""
        task = asyncio.ensure_future(self.training.run(run.name, self.lease))

        async def planned() -> bool:
            return (await self.run(run.name)).progress.total > 0

        await eventually(planned)
        return task

    async def put(self, text: str) -> ArtifactRef:
        return await self.files.put_bytes("p", text.encode())

    async def asked(self, **changes: Any) -> TrainingRun:
        """A run that can be done."""
        await self.base()
        await self.recipe(**changes)
        return (await self.runs.dataset_published(RECIPE.dataset, await self.dataset(), "cycle"))[0]

    async def run(self, name: str) -> TrainingRun:
        stored = await self.ports.runs.get(name)
        assert stored is not None
        return stored.value

    def told(self, kind: str, **values: Any) -> None:
        self.children.lines.append({"type": kind, **values})

    def metric(self, step: int) -> None:
        self.told(
            "metric",
            step=step,
            epoch=0.1,
            train_loss=1.0,
            validation_loss=None,
            learning_rate=1e-3,
            tokens_per_second=9.0,
        )

    def checkpoint(self, step: int) -> Told:
        (self.children.output / f"c{step}").write_bytes(f"checkpoint {step}".encode())
        return {"type": "checkpoint", "step": step, "file": f"c{step}"}

    def result(self, **files: str) -> None:
        made = dict.fromkeys(ROLES, "file")
        (self.children.output / "file").write_bytes(b"made")
        self.told(
            "result",
            files={**made, **files},
            best_step=2,
            best_validation_loss=1.0,
            initial_validation_loss=2.0,
            steps=3,
            tokens=400,
            stopped_early=True,
            rows_too_long=1,
        )

    def said(self, kind: Any) -> list[Any]:
        return [message for message in self.outbox.emitted if isinstance(message, kind)]


def made_world(tmp_path: Path) -> World:
    output, cache = tmp_path / "output", tmp_path / "cache"
    output.mkdir()
    cache.mkdir()
    files, models, datasets, children = FakeFiles(cache), FakeModels(), FakeDatasets(), FakeChildren(output)
    work, outbox, wishes, numbers = FakeWork(), FakeOutbox(), FakeWishes(), iter(range(1000))
    ports = Ports(
        transactions=FakeTransactions(),
        recipes=FakeRepository(parent=project, sort_key=lambda r: r.name),
        runs=FakeRepository(parent=project, sort_key=lambda r: r.name, newest_first=True),
        metrics=FakeRepository(parent=lambda m: m.run, sort_key=lambda m: metric_key(m.step)),
        studies=FakeRepository(parent=project, sort_key=lambda s: s.name, newest_first=True),
        trials=FakeRepository(parent=lambda t: t.study, sort_key=lambda t: trial_key(t.number)),
        mirrored=FakeRepository(parent=project, sort_key=lambda m: m.name),
        search=OptunaSearch(),
        announcements=OutboxAnnouncements(outbox),  # type: ignore[arg-type]  # The fake has what is called.
        models=models,
        datasets=datasets,
        files=files,
        children=children,
        wishes=wishes,
        work=work,
        notifier=FakeNotifier(),
        clock=FakeClock(),
        new_id=lambda: f"id-{next(numbers)}",
    )
    compute = Compute(threads=2, precision="auto", device="auto", micro_batch_tokens=64, max_validation_rows=10)
    training = Training(ports, compute, POLICY)
    return World(
        ports, files, models, datasets, children, work, outbox, Runs(ports, POLICY), training, FakeLease(), wishes
    )
