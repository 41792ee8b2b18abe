"""Inference's own ports, each by one suite over the fake and over the real thing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mainspring.registry.v1 import model_pb2, registry_service_pb2
from mainspring_answers.triton import TritonClient
from mainspring_inference.adapters.catalogue import RegistryCatalogue
from mainspring_inference.adapters.triton_server import TritonServer as ServerOfModels
from mainspring_inference.application.ports import Catalogue, ModelServer, ServableVersion
from mainspring_inference.domain.deployments import Serving
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import NotFound, PreconditionFailed
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.contracts.answer_path import EngineContract
from mainspring_testkit.neighbours import ServeNeighbours
from mainspring_testkit.triton_server import TritonServer

from .fakes import MODEL, FakeCatalogue, FakeServer

if TYPE_CHECKING:
    from conftest import Reached, Serve, TinyFiles


class TestTritonEngine(EngineContract):
    """The fake runs the same suite in `libs/answers`."""

    @pytest.fixture
    def engine(self, client: TritonClient) -> TritonClient:
        return client

    @pytest.fixture
    async def model(self, serve: Serve) -> str:
        return await serve()

    @pytest.fixture
    def missing(self, triton: TritonServer) -> str:
        return f"never-loaded-{new_id()}"

    @pytest.fixture
    def too_long(self) -> str:
        return "word " * 50_000


class ModelServerContract:
    """What every model server does; fixtures `server`, `version` (can be served) and `broken` (cannot)."""

    async def test_a_model_is_in_memory_from_its_load_to_its_unload(
        self, server: ModelServer, version: ServableVersion
    ) -> None:
        name, other = (f"contract-{new_id()}" for _ in range(2))
        assert name not in await server.loaded()
        for _ in range(2):
            await server.load(name, version)
            assert name in await server.loaded()
        for _ in range(2):
            await server.unload(name)
            assert name not in await server.loaded()
        await server.unload(other)

    async def test_f16_a_model_that_is_refused_is_not_in_memory(
        self, server: ModelServer, broken: ServableVersion
    ) -> None:
        name = f"contract-{new_id()}"
        with pytest.raises(PreconditionFailed) as caught:
            await server.load(name, broken)
        assert caught.value.reason == "MODEL_LOAD_FAILED"
        assert name not in await server.loaded()
        await server.unload(name)


def servable(file: ArtifactRef) -> ServableVersion:
    return ServableVersion(f"{MODEL}/versions/1", False, file, None, Serving(256, "t"))


class TestFakeServer(ModelServerContract):
    @pytest.fixture
    def server(self, broken: ServableVersion) -> FakeServer:
        made = FakeServer()
        made.refused = {broken.base}
        return made

    @pytest.fixture
    def version(self) -> ServableVersion:
        return servable(ArtifactRef("a" * 64, 1))

    @pytest.fixture
    def broken(self) -> ServableVersion:
        return servable(ArtifactRef("b" * 64, 1))


class TestTritonServer(ModelServerContract):
    @pytest.fixture
    def store(self, artifact_url: str) -> ArtifactStore:
        return ArtifactStore(artifact_url)

    @pytest.fixture
    async def server(
        self, triton: TritonServer, client: TritonClient, reached: Reached, store: ArtifactStore, tmp_path: Path
    ) -> ServerOfModels:
        assert await reached()
        return ServerOfModels(
            client,
            store,
            repository=triton.repository,
            cache=tmp_path / "cache",
            slots=2,
            threads=1,
            load_timeout_s=60,
        )

    @pytest.fixture
    async def version(self, tiny: TinyFiles, store: ArtifactStore) -> ServableVersion:
        return servable(await store.put_file("p", tiny.llama))

    @pytest.fixture
    async def broken(self, store: ArtifactStore) -> ServableVersion:
        return servable(await store.put_bytes("p", b"GGUF, but no more than that"))


class CatalogueContract:
    """What every catalogue does; a fixture `catalogue` with version 1, a foundation model, version 2, an adapter
    on it, and version 3, which has no files.
    """

    async def test_a_version_comes_with_the_files_that_serve_it(self, catalogue: Catalogue) -> None:
        base, adapted = [await catalogue.servable(f"{MODEL}/versions/{number}") for number in (1, 2)]
        assert (base.model_version, base.embedding, base.adapter) == (f"{MODEL}/versions/1", False, None)
        assert base.serving == Serving(512, "t")
        assert (adapted.model_version, adapted.base) == (f"{MODEL}/versions/2", base.base)
        assert adapted.adapter is not None
        assert adapted.adapter != adapted.base

    async def test_what_cannot_be_served_is_told_apart_from_what_is_not_there(self, catalogue: Catalogue) -> None:
        with pytest.raises(PreconditionFailed) as caught:
            await catalogue.servable(f"{MODEL}/versions/3")
        assert caught.value.reason == "FILE_MISSING"
        with pytest.raises(NotFound):
            await catalogue.servable(f"{MODEL}/versions/9")


class TestFakeCatalogue(CatalogueContract):
    @pytest.fixture
    def catalogue(self) -> FakeCatalogue:
        made = FakeCatalogue()
        made.adapters, made.without_files = {f"{MODEL}/versions/2"}, {f"{MODEL}/versions/3"}
        return made


class Registry:
    """The registry as inference sees it."""

    async def GetModelVersion(self, request: Any, context: Any) -> Any:
        number = int(request.name.rsplit("/", 1)[-1])
        if number > 3:
            raise NotFound("ModelVersion", request.name)
        kind = model_pb2.MODEL_KIND_ADAPTER if number == 2 else model_pb2.MODEL_KIND_FOUNDATION
        base = f"{MODEL}/versions/1" if number == 2 else ""
        version = model_pb2.ModelVersion(name=request.name, kind=kind, base_model_version=base)
        version.serving.context_tokens, version.serving.chat_template = 512, "t"
        if number < 3:
            role = "adapter.gguf" if number == 2 else "gguf"
            version.artifacts[role].CopyFrom(artifact_to_proto(ArtifactRef(f"{number}" * 64, number)))
        return registry_service_pb2.GetModelVersionResponse(model_version=version)


class TestRegistryCatalogue(CatalogueContract):
    @pytest.fixture
    async def catalogue(self, neighbours: ServeNeighbours) -> RegistryCatalogue:
        registry = await neighbours(Registry(), "registry.v1.RegistryService")
        return RegistryCatalogue(registry.channel, registry.caller)
