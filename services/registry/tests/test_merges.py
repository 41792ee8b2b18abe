"""Merges of adapters: the use cases over fakes. What is computed is proved by the training worker's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from mainspring_registry.application.catalogue import Catalogue, TrainedAdapter
from mainspring_registry.application.merges import WORK_KIND, MergedFiles, Merges
from mainspring_registry.application.ports import LineageGraph
from mainspring_registry.domain.catalogue import Lineage, ModelKind, ModelVersion, ServingSpec
from mainspring_registry.domain.lineage import Direction
from mainspring_registry.domain.making import MakingState
from mainspring_registry.domain.merges import Merge, MergeMethod, MergeSource
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.names import project_name_of
from mainspring_testkit.fakes import FakeArtifacts, FakeLease, FakeOutbox, FakeRepository, FakeWork

from .world import fake_ports

BASE, MODEL = "projects/p/models/base", "projects/p/models/m"
FILES = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter.gguf")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakeMerger:
    folder: Path
    asked: list[tuple[Merge, Sequence[ModelVersion], ModelVersion]] = field(default_factory=list[Any])
    refuses: bool = False

    async def run(self, work: Merge, sources: Sequence[ModelVersion], base: ModelVersion) -> MergedFiles:
        self.asked.append((work, sources, base))
        if self.refuses:
            raise InvalidInput("they differ", reason="ADAPTERS_DIFFER")
        self.folder.mkdir()
        files: dict[str, Path] = {}
        for number, role in enumerate(FILES):
            files[role] = self.folder / str(number)
            files[role].write_text(f"{role} of {work.name}")
        return MergedFiles(self.folder, files)


@dataclass
class World:
    catalogue: Catalogue
    merges: Merges
    stored: FakeRepository[Merge]
    merger: FakeMerger
    files: FakeArtifacts
    lineage: LineageGraph
    work: FakeWork

    async def base(self, name: str = BASE) -> ModelVersion:
        model = await self.catalogue.ensure_model(name, ModelKind.FOUNDATION)
        return await self.catalogue.add_version(
            model, artifacts=await self.put("hf/config.json"), serving=ServingSpec(64), lineage=Lineage(), licence="MIT"
        )

    async def adapter(self, base: ModelVersion, number: int, *roles: str) -> ModelVersion:
        lineage = Lineage(f"projects/p/trainingRuns/r{number}", f"projects/p/datasets/d{number}/versions/1")
        return await self.catalogue.register_adapter(
            TrainedAdapter(MODEL, base.name, await self.put(*(roles or FILES)), lineage, f"cycle {number}")
        )

    async def put(self, *roles: str) -> Mapping[str, Any]:
        return {role: await self.files.put_bytes("p", role.encode()) for role in roles}

    async def asked(self, *sources: str, model: str = "", project: str = "p") -> Merge:
        weighted = tuple(MergeSource(source, 0.5) for source in sources)
        return await self.merges.create(
            Merge(f"projects/{project}/merges/x", weighted, model, MergeMethod.TIES, "x", NOW, density=0, author="ada")
        )


@pytest.fixture
def world(tmp_path: Path, fake_lineage: LineageGraph) -> World:
    ports = fake_ports(fake_lineage, FakeOutbox())
    stored = FakeRepository[Merge](parent=lambda m: project_name_of(m.name), sort_key=lambda m: m.name)
    catalogue, merger = Catalogue(ports), FakeMerger(tmp_path / "merged")
    merges = Merges(ports, stored, catalogue, merger)
    return World(
        catalogue, merges, stored, merger, cast("Any", ports.files), fake_lineage, cast("FakeWork", ports.work)
    )


async def test_adapters_become_a_version_that_names_its_parents_and_their_data(world: World) -> None:
    base = await world.base()
    first, second = await world.adapter(base, 1), await world.adapter(base, 2)
    work = await world.asked(first.name, second.name)
    assert (WORK_KIND, work.name) in world.work.queued
    assert (work.model, work.density) == (MODEL, 0.5)
    await world.merges.run(work.name, FakeLease())
    found = await world.stored.get(work.name)
    assert found is not None
    assert (found.value.state, found.value.model_version) == (MakingState.SUCCEEDED, f"{MODEL}/versions/3")
    version = await world.catalogue.version(found.value.model_version)
    assert (version.kind, version.base_model_version, version.author) == (ModelKind.ADAPTER, base.name, "ada")
    assert version.artifacts.keys() == set(FILES)
    assert version.lineage.merged_from == (first.name, second.name)
    walk = await world.lineage.walk([version.name], Direction.UPSTREAM, max_hops=9, max_nodes=99)
    names = {node.name for node in walk.nodes}
    assert {first.name, second.name, *(f"projects/p/datasets/d{n}/versions/1" for n in (1, 2))} <= names
    assert not world.merger.folder.exists()


async def test_b7_what_cannot_be_merged_is_refused_before_any_work(world: World) -> None:
    base, other = await world.base(), await world.base("projects/p/models/other")
    adapter, foreign = await world.adapter(base, 1), await world.adapter(other, 2)
    bare = await world.adapter(base, 3, "adapter.gguf")
    for second, why in ((base, "is FOUNDATION"), (foreign, "one base"), (bare, "lacks"), (adapter, "named twice")):
        with pytest.raises(PreconditionFailed, match=why) as caught:
            await world.asked(adapter.name, second.name)
        assert caught.value.reason == "NOT_MERGEABLE"
    good = await world.adapter(base, 4)
    with pytest.raises(PreconditionFailed) as kind:
        await world.asked(adapter.name, good.name, model=BASE)
    assert kind.value.reason == "MODEL_KIND_DIFFERS"
    with pytest.raises(InvalidInput) as project:
        await world.asked(adapter.name, good.name, project="other")
    assert project.value.reason == "PROJECT_DIFFERS"
    assert not world.work.queued


async def test_a_merge_that_cannot_be_says_why_and_registers_nothing(world: World) -> None:
    base = await world.base()
    work = await world.asked((await world.adapter(base, 1)).name, (await world.adapter(base, 2)).name)
    world.merger.refuses = True
    with pytest.raises(InvalidInput):
        await world.merges.run(work.name, FakeLease())
    await world.merges.give_up(work.name, "ADAPTERS_DIFFER", "they differ")
    found = await world.stored.get(work.name)
    assert found is not None
    assert (found.value.state, found.value.error_reason) == (MakingState.FAILED, "ADAPTERS_DIFFER")
    assert (await world.catalogue.version(f"{MODEL}/versions/2")).lineage.merged_from == ()
