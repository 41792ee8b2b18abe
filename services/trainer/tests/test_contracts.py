"""The trainer's own ports, each by one suite over the fake and over the real thing. Where the real thing is another
service, an object of the test stands for it behind real gRPC; where it is the worker, a script does in a real process.
"""

import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mainspring.data.v1 import data_service_pb2, dataset_pb2
from mainspring.registry.v1 import model_pb2, registry_service_pb2
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.contracts.artifacts import ArtifactsContract, Damage, FileArtifactsContract
from mainspring_testkit.neighbours import ServeNeighbours
from mainspring_trainer.adapters.catalogues import IngestedDatasets, RegistryModels
from mainspring_trainer.adapters.child import ChildProcesses, Limits
from mainspring_trainer.adapters.files import CachedFiles
from mainspring_trainer.application.ports import Children, Datasets, Files, Models, ModelVersion, Told
from mainspring_trainer.domain.runs import Dataset

from .fakes import FakeChildren, FakeDatasets, FakeFiles, FakeModels

FILE = ArtifactRef("a" * 64, 3)
MODEL = ModelVersion("projects/p/models/m/versions/3", "ADAPTER", "projects/p/models/b/versions/1", "", {"f": FILE})
CHAMPION = "projects/p/models/m@champion"
DATASET = Dataset("projects/p/datasets/d/versions/1", FILE, "root")


class FilesContract(ArtifactsContract, FileArtifactsContract):
    """What every cache of files does beside what a store does; fixtures `artifacts` and `damage`."""

    async def test_a_fetched_file_holds_the_bytes(self, artifacts: Files) -> None:
        artifact = await artifacts.put_bytes("p", b"hello")
        for _ in range(2):
            assert (await artifacts.fetch("p", artifact)).read_bytes() == b"hello"
        with pytest.raises(NotFound):
            await artifacts.fetch("q", artifact)

    async def test_f10_a_damaged_file_is_not_fetched(self, artifacts: Files, damage: Damage) -> None:
        artifact = await artifacts.put_bytes("p", b"hello")
        await damage(artifact)
        with pytest.raises(PreconditionFailed) as caught:
            await artifacts.fetch("p", artifact)
        assert caught.value.reason == "ARTIFACT_CORRUPT"

    async def test_a_folder_holds_just_the_files_that_it_was_asked_for(self, artifacts: Files) -> None:
        one, two = [await artifacts.put_bytes("p", text) for text in (b"one", b"two")]
        first = await artifacts.fetch_folder("p", {"config.json": one, "deep/weights": two})
        second = await artifacts.fetch_folder("p", {"config.json": two})
        for folder, files in (
            (first, {"config.json": b"one", "deep/weights": b"two"}),
            (second, {"config.json": b"two"}),
        ):
            found = [path for path in folder.rglob("*") if path.is_file()]
            assert {str(path.relative_to(folder)): path.read_bytes() for path in found} == files

    async def test_b6_a_file_cannot_be_named_out_of_its_folder(self, artifacts: Files) -> None:
        with pytest.raises(ValueError, match="no name of a file"):
            await artifacts.fetch_folder("p", {"../../files/x": await artifacts.put_bytes("p", b"x")})


class TestFakeFiles(FilesContract):
    @pytest.fixture
    def artifacts(self, tmp_path: Path) -> FakeFiles:
        return FakeFiles(tmp_path)

    @pytest.fixture
    def damage(self, artifacts: FakeFiles) -> Damage:
        async def flip(artifact: ArtifactRef) -> None:
            artifacts.damage(artifact)

        return flip


class TestCachedFiles(FilesContract):
    @pytest.fixture
    def artifacts(self, artifact_url: str, tmp_path: Path) -> CachedFiles:
        return CachedFiles(ArtifactStore(artifact_url), tmp_path / "cache", 1 << 30)

    @pytest.fixture
    def damage(self, artifact_url: str) -> Damage:
        async def flip(artifact: ArtifactRef) -> None:
            (path,) = Path(artifact_url.removeprefix("file://")).glob(f"projects/p/**/{artifact.sha256}")
            path.write_bytes(bytes(len(path.read_bytes())))

        return flip


class ModelsContract:
    """What every catalogue of models does; a fixture `models` with `MODEL`, also as `CHAMPION`."""

    async def test_a_version_is_found_by_number_and_by_alias(self, models: Models) -> None:
        assert await models.version(MODEL.name) == await models.version(CHAMPION) == MODEL
        assert await models.version("projects/p/models/m/versions/9") is None


class DatasetsContract:
    """What every catalogue of datasets does; a fixture `datasets` with `DATASET`."""

    async def test_a_version_is_found_or_there_is_none(self, datasets: Datasets) -> None:
        assert await datasets.version(DATASET.name) == DATASET
        assert await datasets.version("projects/p/datasets/d/versions/9") is None


class TestFakeModels(ModelsContract):
    @pytest.fixture
    def models(self) -> Models:
        return FakeModels({MODEL.name: MODEL, CHAMPION: MODEL})


class TestFakeDatasets(DatasetsContract):
    @pytest.fixture
    def datasets(self) -> Datasets:
        return FakeDatasets({DATASET.name: DATASET})


class Others:
    """The registry and data-ingest as the trainer sees them."""

    async def GetModelVersion(self, request: Any, context: Any) -> Any:
        if request.name not in {MODEL.name, CHAMPION}:
            raise NotFound("ModelVersion", request.name)
        version = model_pb2.ModelVersion(
            name=MODEL.name, kind=model_pb2.MODEL_KIND_ADAPTER, base_model_version=MODEL.base_model_version
        )
        version.artifacts["f"].CopyFrom(artifact_to_proto(FILE))
        return registry_service_pb2.GetModelVersionResponse(model_version=version)

    async def GetDatasetVersion(self, request: Any, context: Any) -> Any:
        if request.name != DATASET.name:
            raise NotFound("DatasetVersion", request.name)
        version = dataset_pb2.DatasetVersion(
            name=DATASET.name, root_sha256=DATASET.root_sha256, manifest=artifact_to_proto(FILE)
        )
        return data_service_pb2.GetDatasetVersionResponse(dataset_version=version)


class TestRegistryModels(ModelsContract):
    @pytest.fixture
    async def models(self, neighbours: ServeNeighbours) -> Models:
        registry = await neighbours(Others(), "registry.v1.RegistryService")
        return RegistryModels(registry.channel, registry.caller)


class TestIngestedDatasets(DatasetsContract):
    @pytest.fixture
    async def datasets(self, neighbours: ServeNeighbours) -> Datasets:
        ingest = await neighbours(Others(), "data.v1.DataService")
        return IngestedDatasets(ingest.channel, ingest.caller)


WAIT: Told = {"type": "wait"}
PLAN: Told = {"type": "plan", "steps": 3}
CHECKPOINT: Told = {"type": "checkpoint", "step": 2, "file": "c2"}
Scripted = Callable[[Sequence[Told], bool], Awaitable[Children]]


class ChildrenContract:
    """What everything that starts processes does.

    A fixture `scripted` gives processes that tell these lines and then die (if so told) or end well; at `WAIT` they
    wait until they are stopped, and tell `CHECKPOINT` last.
    """

    async def test_what_a_process_tells_comes_in_order_until_it_ends(self, scripted: Scripted) -> None:
        children = await scripted([PLAN, {"type": "result", "text": "é"}], False)
        for _ in range(2):
            async with children.start("run", {"n": 1}) as child:
                assert [told async for told in child.told()] == [PLAN, {"type": "result", "text": "é"}]
                assert child.output.is_dir()

    async def test_a_process_that_is_stopped_tells_its_last_and_ends_without_an_error(self, scripted: Scripted) -> None:
        heard: list[Told] = []
        async with (await scripted([PLAN, WAIT], False)).start("run", {}) as child:
            async for told in child.told():
                heard.append(told)
                if told == PLAN:
                    await child.stop()
        assert heard == [PLAN, CHECKPOINT]

    async def test_f2_a_process_that_dies_may_be_tried_again(self, scripted: Scripted) -> None:
        heard: list[Told] = []
        async with (await scripted([PLAN], True)).start("run", {}) as child:
            with pytest.raises(Unavailable) as caught:
                async for told in child.told():
                    heard.append(told)
        assert heard == [PLAN]
        assert caught.value.reason == "WORKER_CRASHED"


class TestFakeChildren(ChildrenContract):
    @pytest.fixture
    def scripted(self, tmp_path: Path) -> Scripted:
        async def make(lines: Sequence[Told], dies: bool) -> Children:
            death = [Unavailable("WORKER_CRASHED", "died")] if dies else []
            return FakeChildren(tmp_path, [*lines, *death], [CHECKPOINT])

        return make


WORKER = """
import json, os, pathlib, signal, sys
sys.stdin.read()  # Its end says that the specification is there.
spec = json.loads(pathlib.Path(sys.argv[-1]).read_text())
def tell(line):
    os.write(spec["progress_fd"], (json.dumps(line) + "\\n").encode())
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
for line in LINES:
    if line["type"] == "wait":
        signal.sigwait([signal.SIGTERM])
        tell(CHECKPOINT)
        sys.exit(75)
    tell(line)
sys.exit(STATUS)
"""


class TestChildProcesses(ChildrenContract):
    @pytest.fixture
    def scripted(self, tmp_path: Path) -> Scripted:
        async def make(lines: Sequence[Told], dies: bool) -> Children:
            head = f"LINES, CHECKPOINT, STATUS = {list(lines)!r}, {CHECKPOINT!r}, {7 if dies else 0}"
            python, scratch = tmp_path / "python", tmp_path / "scratch"
            python.write_text(f"#!{sys.executable}\n{head}\n{WORKER}")
            python.chmod(0o755)
            scratch.mkdir()
            limits = Limits(silence_s=30, output_bytes=1 << 20, file_bytes=1 << 20, memory_bytes=0, stop_s=10)
            return ChildProcesses(str(python), scratch, limits)

        return make
