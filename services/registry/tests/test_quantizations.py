"""Compression: the use cases over fakes, and the quantizer by one suite over the fake and the real child process."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from mainspring.events.v1.registry_events_pb2 import ModelVersionRegistered
from mainspring_modelfiles import adapters, llama
from mainspring_modelfiles.safetensors_file import Weights, weight_files
from mainspring_modelfiles.sources import read_json
from mainspring_registry.adapters.quantizer import ChildQuantizer
from mainspring_registry.application.catalogue import Catalogue, TrainedAdapter
from mainspring_registry.application.ports import LineageGraph
from mainspring_registry.application.quantizations import WORK_KIND, ModelQuantizer, Quantizations
from mainspring_registry.domain.catalogue import Lineage, ModelKind, ModelVersion, ServingSpec
from mainspring_registry.domain.lineage import Direction
from mainspring_registry.domain.making import MakingState
from mainspring_registry.domain.quantizations import Format, Quantization, Sample
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import InvalidInput, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.names import project_name_of
from mainspring_svckit.values import ArtifactRef, Message
from mainspring_testkit.fakes import (
    FakeArtifacts,
    FakeLease,
    FakeOutbox,
    FakeRepository,
    FakeWork,
)
from mainspring_testkit.tiny import tiny_adapter, tiny_llama

from .fakes import FakeQuantizer
from .world import fake_ports

BASE, MODEL = "projects/p/models/base", "projects/p/models/m"
DATA = "projects/p/datasets/d/versions/1"
ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter.gguf", "fidelity_probe.json")


@dataclass
class World:
    catalogue: Catalogue
    quantizations: Quantizations
    stored: FakeRepository[Quantization]
    quantizer: FakeQuantizer
    files: FakeArtifacts
    lineage: LineageGraph
    outbox: FakeOutbox
    work: FakeWork

    async def base(self) -> ModelVersion:
        model = await self.catalogue.ensure_model(BASE, ModelKind.FOUNDATION)
        files = await self.put("hf/config.json", "hf/model.safetensors", "gguf")
        return await self.catalogue.add_version(
            model, artifacts=files, serving=ServingSpec(2048, "t"), lineage=Lineage(), licence="MIT"
        )

    async def adapter(self, *roles: str) -> ModelVersion:
        base = await self.base()
        lineage = Lineage(training_run="projects/p/trainingRuns/r", dataset_version=DATA)
        trained = TrainedAdapter(MODEL, base.name, await self.put(*roles), lineage, "cycle")
        return await self.catalogue.register_adapter(trained)

    async def put(self, *roles: str) -> Mapping[str, ArtifactRef]:
        return {role: await self.files.put_bytes("p", role.encode()) for role in roles}

    async def compress(self, source: str, format_: Format = Format.Q4_K_M) -> Quantization:
        created = await self.quantizations.create("p", "q1", source, format_)
        assert (WORK_KIND, created.name) in self.work.queued
        await self.quantizations.run(created.name, FakeLease())
        found = await self.stored.get(created.name)
        assert found is not None
        return found.value


@pytest.fixture
def world(tmp_path: Path, fake_lineage: LineageGraph) -> World:
    outbox = FakeOutbox()
    ports = fake_ports(fake_lineage, outbox)
    files, work = cast("Any", ports.files), cast("Any", ports.work)
    stored = FakeRepository[Quantization](parent=lambda q: project_name_of(q.name), sort_key=lambda q: q.name)
    catalogue, quantizer = Catalogue(ports), FakeQuantizer(tmp_path / "quantize")
    quantizations = Quantizations(ports, stored, catalogue, quantizer)
    return World(catalogue, quantizations, stored, quantizer, files, fake_lineage, outbox, work)


async def test_an_adapter_becomes_a_merged_version_that_is_measured_and_traced(world: World) -> None:
    source = await world.adapter(*ADAPTER)
    done = await world.compress(source.name)
    assert (done.state, done.model_version) == (MakingState.SUCCEEDED, f"{MODEL}/versions/2")
    assert done.before is not None
    assert done.after is not None
    assert done.after.file_bytes < done.before.file_bytes
    version = await world.catalogue.version(done.model_version)
    assert (version.kind, version.base_model_version) == (ModelKind.MERGED, f"{BASE}/versions/1")
    assert version.artifacts.keys() == {"gguf", "fidelity_probe.json"}
    assert version.artifacts["fidelity_probe.json"] == source.artifacts["fidelity_probe.json"]
    assert (version.lineage.quantized_from, version.lineage.dataset_version) == (source.name, DATA)
    assert (version.serving, version.licence) == (source.serving, source.licence)
    registered = [event for event in world.outbox.emitted if isinstance(event, ModelVersionRegistered)]
    assert (registered[-1].model_version, registered[-1].kind) == (version.name, "MERGED")
    assert world.outbox.cycles[-1] == done.cycle == "q1"
    walk = await world.lineage.walk([version.name], Direction.UPSTREAM, max_hops=9, max_nodes=99)
    assert {source.name, "projects/p/trainingRuns/r", DATA} <= {node.name for node in walk.nodes}
    assert not world.quantizer.folder.exists()


async def test_a_foundation_model_stays_one_that_can_be_tuned(world: World) -> None:
    source = await world.base()
    done = await world.compress(source.name, Format.Q6_K)
    version = await world.catalogue.version(done.model_version)
    assert (version.kind, version.base_model_version) == (ModelKind.FOUNDATION, "")
    assert version.artifacts["hf/model.safetensors"] == source.artifacts["hf/model.safetensors"]
    assert version.artifacts["gguf"] != source.artifacts["gguf"]
    with pytest.raises(PreconditionFailed, match="compressed already"):
        await world.quantizations.create("p", "q2", version.name, Format.Q4_K_M)


@pytest.mark.parametrize("adapted", [True, False])
async def test_what_is_made_for_gpus_has_its_own_weights_says_what_was_lost_and_is_tuned_no_further(
    world: World, adapted: bool
) -> None:
    # Files that only llama.cpp needs may be missing.
    source = (
        await world.adapter(*(role for role in ADAPTER if role != "adapter.gguf")) if adapted else await world.base()
    )
    created = await world.quantizations.create(
        "p", "q1", source.name, Format.INT4, [Sample((Message("user", "who"),), "miller")]
    )
    await world.quantizations.run(created.name, FakeLease())
    found = await world.stored.get(created.name)
    assert found is not None
    done = found.value
    assert done.lost is not None
    assert (done.lost.top1_agreement, done.lost.tokens) == (0.98, 1)
    assert done.after is not None
    assert (done.after.tokens_per_second, done.after.device) == (0.0, "")
    assert done.samples == ()  # What people wrote is not kept.
    version = await world.catalogue.version(done.model_version)
    assert (version.kind, version.base_model_version) == (ModelKind.MERGED, f"{BASE}/versions/1")
    assert version.artifacts.keys() - {"fidelity_probe.json"} == {"hf/config.json", "hf/model.safetensors"}
    assert (
        version.artifacts["hf/model.safetensors"]
        != (await world.catalogue.version(f"{BASE}/versions/1")).artifacts["hf/model.safetensors"]
    )
    assert version.lineage.quantized_from == source.name
    with pytest.raises(PreconditionFailed, match="MERGED"):
        await world.quantizations.create("p", "q2", version.name, Format.INT8)


async def test_b7_what_cannot_be_compressed_is_refused_before_any_work(world: World) -> None:
    source = await world.adapter("adapter.gguf")
    with pytest.raises(PreconditionFailed, match=r"lacks adapter/adapter_config\.json") as caught:
        await world.quantizations.create("p", "q1", source.name, Format.Q8_0)
    assert caught.value.reason == "NOT_QUANTIZABLE"
    with pytest.raises(NotFound):
        await world.quantizations.create("p", "q1", f"{MODEL}/versions/9", Format.Q8_0)
    with pytest.raises(InvalidInput) as mixed:
        await world.quantizations.create("other", "q1", f"{BASE}/versions/1", Format.Q8_0)
    assert mixed.value.reason == "PROJECT_DIFFERS"
    assert not world.work.queued


async def test_f1_work_that_another_worker_left_in_the_middle_is_done_once_by_the_next(world: World) -> None:
    source = await world.adapter(*ADAPTER)
    samples = [Sample((Message("user", "who"),), "miller")]
    created = await world.quantizations.create("p", "q1", source.name, Format.INT8, samples)
    world.quantizer.lost.add(source.name)
    with pytest.raises(Unavailable):
        await world.quantizations.run(created.name, FakeLease())
    found = await world.stored.get(created.name)
    assert found is not None
    assert (found.value.state, found.value.samples) == (MakingState.RUNNING, tuple(samples))
    world.quantizer.lost.clear()
    await world.quantizations.run(created.name, FakeLease())
    found = await world.stored.get(created.name)
    assert found is not None
    assert (found.value.state, found.value.model_version) == (MakingState.SUCCEEDED, f"{MODEL}/versions/2")
    with pytest.raises(NotFound):
        await world.catalogue.version(f"{MODEL}/versions/3")


async def test_work_that_cannot_be_done_says_why_and_registers_nothing(world: World) -> None:
    source = await world.adapter(*ADAPTER)
    world.quantizer.refused = {source.name}
    created = await world.quantizations.create("p", "q1", source.name, Format.Q8_0)
    with pytest.raises(InvalidInput):
        await world.quantizations.run(created.name, FakeLease())
    await world.quantizations.give_up(created.name, "NO_MODEL", "no model")
    found = await world.stored.get(created.name)
    assert found is not None
    assert (found.value.state, found.value.error_reason) == (MakingState.FAILED, "NO_MODEL")
    with pytest.raises(NotFound):
        await world.catalogue.version(f"{MODEL}/versions/2")


class ModelQuantizerContract:
    """What every quantizer does; fixtures `quantizer`, `source`, `base`, `refused` (a version) and `left`."""

    async def test_the_file_stands_in_a_folder_of_its_own_and_both_are_measured(
        self, quantizer: ModelQuantizer, source: ModelVersion, base: ModelVersion
    ) -> None:
        made = await quantizer.run(source, base, Format.Q8_0)
        assert made.files["gguf"].is_relative_to(made.folder)
        assert made.files["gguf"].stat().st_size > 0
        assert made.tensor_types["Q8_0"] > 0
        for measured in (made.before, made.after):
            assert measured.file_bytes > 0
            assert measured.tokens_per_second > 0

    async def test_b7_what_is_no_model_is_refused_and_leaves_nothing(
        self, quantizer: ModelQuantizer, refused: ModelVersion, left: Callable[[], list[Path]]
    ) -> None:
        with pytest.raises(InvalidInput) as caught:
            await quantizer.run(refused, refused, Format.Q8_0)
        assert caught.value.reason
        assert left() == []


def version(name: str, kind: ModelKind, artifacts: Mapping[str, ArtifactRef], base: str = "") -> ModelVersion:
    return ModelVersion(
        name=name,
        model=name.rpartition("/versions/")[0],
        kind=kind,
        base_model_version=base,
        artifacts=artifacts,
        manifest=ArtifactRef("0" * 64, 1, "", ""),
        serving=ServingSpec(512),
        lineage=Lineage(),
        licence="MIT",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
    )


class TestFakeQuantizer(ModelQuantizerContract):
    @pytest.fixture
    def base(self) -> ModelVersion:
        return version(f"{BASE}/versions/1", ModelKind.FOUNDATION, {})

    @pytest.fixture
    def source(self) -> ModelVersion:
        return version(f"{MODEL}/versions/1", ModelKind.ADAPTER, {}, f"{BASE}/versions/1")

    @pytest.fixture
    def refused(self) -> ModelVersion:
        return version(f"{BASE}/versions/2", ModelKind.FOUNDATION, {})

    @pytest.fixture
    def quantizer(self, tmp_path: Path, refused: ModelVersion) -> FakeQuantizer:
        made = FakeQuantizer(tmp_path / "quantize")
        made.refused = {refused.name}
        return made

    @pytest.fixture
    def left(self, tmp_path: Path) -> Callable[[], list[Path]]:
        return lambda: list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="the engine's package is not installed here")
class TestChildQuantizer(ModelQuantizerContract):
    @pytest.fixture
    def store(self, artifact_url: str) -> ArtifactStore:
        return ArtifactStore(artifact_url)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tiny_llama(tmp_path / "tiny", endless=True)

    @pytest.fixture
    async def base(self, tmp_path: Path, folder: Path, store: ArtifactStore) -> ModelVersion:
        raw = read_json(folder, "config.json")
        assert raw is not None
        gguf = tmp_path / "base.gguf"
        config = llama.parse_config(raw)
        llama.write_gguf(folder, Weights(weight_files(folder)), config, gguf, name="t", licence="")
        paths = {f"hf/{path.name}": path for path in folder.iterdir()} | {"gguf": gguf}
        artifacts = {role: await store.put_file("p", path) for role, path in paths.items()}
        return version(f"{BASE}/versions/1", ModelKind.FOUNDATION, artifacts)

    @pytest.fixture
    async def source(self, tmp_path: Path, folder: Path, base: ModelVersion, store: ArtifactStore) -> ModelVersion:
        adapter, gguf = tiny_adapter(tmp_path / "adapter"), tmp_path / "adapter.gguf"
        adapters.convert(adapter, folder, gguf)
        paths = {f"adapter/{path.name}": path for path in adapter.iterdir()} | {"adapter.gguf": gguf}
        artifacts = {role: await store.put_file("p", path) for role, path in paths.items()}
        return version(f"{MODEL}/versions/1", ModelKind.ADAPTER, artifacts, base.name)

    @pytest.fixture
    async def refused(self, base: ModelVersion, store: ArtifactStore) -> ModelVersion:
        broken = {**base.artifacts, "hf/config.json": await store.put_bytes("p", b"{}")}
        return replace(base, artifacts=broken)

    @pytest.fixture
    def scratch(self, tmp_path: Path) -> Path:
        folder = tmp_path / "scratch"
        folder.mkdir()
        return folder

    @pytest.fixture
    def quantizer(self, store: ArtifactStore, scratch: Path) -> ChildQuantizer:
        return ChildQuantizer(store, sys.executable, scratch, 120)

    @pytest.fixture
    def left(self, scratch: Path) -> Callable[[], list[Path]]:
        return lambda: list(scratch.iterdir())
