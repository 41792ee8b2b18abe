"""Inference's own ports, each by one suite over the fake and over the real thing."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mainspring.registry.v1 import model_pb2, registry_service_pb2, release_pb2
from mainspring_answers.triton import TritonClient
from mainspring_inference.adapters.catalogue import RegistryCatalogue
from mainspring_inference.adapters.triton_server import TritonServer as ServerOfModels
from mainspring_inference.application.ports import Catalogue, ModelServer, ServableVersion
from mainspring_inference.domain.deployments import Engine, Serving
from mainspring_proof import bundles, statements
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_svckit.values import (
    NO_UNIT,
    ArtifactRef,
    GuardAction,
    GuardDirection,
    GuardRule,
    Message,
    PersonalDataKind,
    ServedGuard,
    ServedUnit,
    rules_sha256,
)
from mainspring_testkit.contracts.answer_path import EngineContract
from mainspring_testkit.fakes import FakeArtifacts
from mainspring_testkit.neighbours import ServeNeighbours
from mainspring_testkit.proof import SigningKey
from mainspring_testkit.triton_server import TritonServer

from .fakes import MODEL, FakeCatalogue, FakeServer

if TYPE_CHECKING:
    from conftest import Serve, Standing, TinyFiles
RULES = (
    GuardRule("secret", GuardDirection.BOTH, GuardAction.REFUSE, "No.", texts=("zephyr",)),
    GuardRule("own", GuardDirection.OUTPUT, GuardAction.MASK, personal_data=(PersonalDataKind.IBAN,)),
)
GUARD = ServedGuard("projects/p/guardPolicies/g/versions/1", rules_sha256(RULES), RULES)


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
    return ServableVersion(f"{MODEL}/versions/1", False, {"gguf": file}, None, Serving(256, "t"))


class TestFakeServer(ModelServerContract):
    @pytest.fixture
    def server(self, broken: ServableVersion) -> FakeServer:
        made = FakeServer()
        made.refused = [broken.base]
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
        self, triton: TritonServer, client: TritonClient, standing: Standing, store: ArtifactStore, tmp_path: Path
    ) -> ServerOfModels:
        await standing()
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
    """What every catalogue does; a fixture `catalogue` with version 1, a foundation model, version 2, an adapter on it,
    version 3, which has no files, version 4, whose manifest was changed after it was signed, release 1 of version 2,
    and release 2, whose manifest was changed.
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

    async def test_f10_a_changed_manifest_is_refused(self, catalogue: Catalogue) -> None:
        with pytest.raises(PreconditionFailed) as caught:
            await catalogue.servable(f"{MODEL}/versions/4")
        assert caught.value.reason == "PROOF_UNTRUSTED"

    async def test_a_release_is_believed_only_as_it_was_signed(self, catalogue: Catalogue) -> None:
        await catalogue.check_release(f"{MODEL}/releases/1", f"{MODEL}/versions/2")
        with pytest.raises(PreconditionFailed) as caught:
            await catalogue.check_release(f"{MODEL}/releases/2", f"{MODEL}/versions/2")
        assert caught.value.reason == "PROOF_UNTRUSTED"
        with pytest.raises(NotFound):
            await catalogue.check_release(f"{MODEL}/releases/9", f"{MODEL}/versions/2")


class TestFakeCatalogue(CatalogueContract):
    @pytest.fixture
    def catalogue(self) -> FakeCatalogue:
        made = FakeCatalogue()
        made.adapters, made.without_files = {f"{MODEL}/versions/2"}, {f"{MODEL}/versions/3"}
        made.unsigned = {f"{MODEL}/versions/4", f"{MODEL}/releases/2"}
        return made


class Registry:
    """The registry as inference sees it, whose words alone count for nothing: only what is signed does."""

    def __init__(self, files: FakeArtifacts, key: SigningKey) -> None:
        self.files, self.key = files, key
        self.proofs: dict[str, ArtifactRef | None] = {}
        self.digests: dict[int, str] = {}

    async def fill(self) -> None:
        base = await self.sign(1, "FOUNDATION", {"gguf": "1" * 64})
        await self.sign(2, "ADAPTER", {"adapter.gguf": "2" * 64}, base=base)
        await self.sign(3, "FOUNDATION", {})
        await self.sign(4, "FOUNDATION", {"gguf": "4" * 64}, broken=True)
        await self.sign_release(1, 2)
        await self.sign_release(2, 2, broken=True)

    async def sign(
        self,
        number: int,
        kind: str,
        files: dict[str, str],
        *,
        base: str = "",
        broken: bool = False,
        quantized_from: str = "",
    ) -> str:
        manifest = bundles.canonical(
            {
                "name": f"{MODEL}/versions/{number}",
                "kind": kind,
                "base_manifest_sha256": base,
                "artifacts": {role: {"sha256": digest, "size_bytes": 1} for role, digest in files.items()},
                "serving": {"context_tokens": 512, "chat_template": "t"},
                "lineage": {"quantized_from": quantized_from},
            }
        )
        await self.keep(f"{MODEL}/versions/{number}", self.key.version(manifest), broken=broken)
        self.digests[number] = hashlib.sha256(manifest).hexdigest()
        return self.digests[number]

    async def sign_release(self, number: int, version: int, *, broken: bool = False, **details: Any) -> None:
        statement = statements.release_statement(
            release=f"{MODEL}/releases/{number}",
            model_version=f"{MODEL}/versions/{version}",
            manifest_sha256=self.digests[version],
            policy="",
            policy_sha256="",
            evidence={},
            time=datetime(2026, 1, 1, tzinfo=UTC),
            details=details,
        )
        await self.keep(f"{MODEL}/releases/{number}", bundles.sign(statement, self.key.signer), broken=broken)

    async def keep(self, name: str, bundle: bytes, *, broken: bool) -> None:
        if broken:
            read = json.loads(bundle)
            payload = bytearray(base64.b64decode(read["dsseEnvelope"]["payload"]))
            payload[40] ^= 1
            read["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
            bundle = json.dumps(read).encode()
        self.proofs[name] = await self.files.put_bytes("p", bundle)

    async def GetModelVersion(self, request: Any, context: Any) -> Any:
        version = model_pb2.ModelVersion(name=request.name, kind=model_pb2.MODEL_KIND_FOUNDATION)
        version.base_model_version = f"{MODEL}/versions/1"
        version.serving.context_tokens = 4
        self._prove(request.name, version, "ModelVersion")
        return registry_service_pb2.GetModelVersionResponse(model_version=version)

    async def GetRelease(self, request: Any, context: Any) -> Any:
        release = release_pb2.Release(name=request.name, model_version=f"{MODEL}/versions/1")
        self._prove(request.name, release, "Release")
        return registry_service_pb2.GetReleaseResponse(release=release)

    def _prove(self, name: str, message: Any, kind: str) -> None:
        if name not in self.proofs:
            raise NotFound(kind, name)
        if (proof := self.proofs[name]) is not None:
            message.proof.CopyFrom(artifact_to_proto(proof))


class TestRegistryCatalogue(CatalogueContract):
    @pytest.fixture
    async def registry(self, tmp_path: Path) -> Registry:
        made = Registry(FakeArtifacts(), SigningKey(tmp_path / "key"))
        await made.fill()
        return made

    @pytest.fixture
    async def catalogue(self, registry: Registry, neighbours: ServeNeighbours) -> RegistryCatalogue:
        served = await neighbours(registry, "registry.v1.RegistryService")
        return RegistryCatalogue(served.channel, served.caller, registry.files, registry.key.trusted)

    async def test_each_engine_gets_its_own_files_and_is_told_of_those_for_others(
        self, catalogue: RegistryCatalogue, registry: Registry, neighbours: ServeNeighbours
    ) -> None:
        folder = {"hf/config.json": "5" * 64, "hf/model.safetensors": "6" * 64}
        whole = await registry.sign(1, "FOUNDATION", {"gguf": "1" * 64, **folder})
        peft = {"adapter/adapter_config.json": "7" * 64, "adapter/adapter_model.safetensors": "8" * 64}
        await registry.sign(2, "ADAPTER", {"adapter.gguf": "2" * 64, **peft}, base=whole)
        await registry.sign(5, "MERGED", folder)  # Compressed for GPUs.
        await registry.sign(6, "MERGED", {"gguf": "3" * 64})  # Compressed for llama.cpp,
        # as this one, which keeps beside its file what is tuned on.
        await registry.sign(7, "FOUNDATION", {"gguf": "3" * 64, **folder}, quantized_from=f"{MODEL}/versions/1")
        await registry.sign(8, "EMBEDDING", {"gguf": "4" * 64, **folder})
        served = await neighbours(registry, "registry.v1.RegistryService")
        gpu = RegistryCatalogue(served.channel, served.caller, registry.files, registry.key.trusted, Engine.VLLM)
        adapted, packed, embedder = [await gpu.servable(f"{MODEL}/versions/{number}") for number in (2, 5, 8)]
        assert adapted.base.keys() == packed.base.keys() == {"config.json", "model.safetensors"}
        assert adapted.adapter is not None
        assert adapted.adapter.keys() == {"adapter_config.json", "adapter_model.safetensors"}
        assert (packed.engine, embedder.engine, embedder.base.keys()) == (Engine.VLLM, Engine.LLAMA_CPP, {"gguf"})
        for asked, number in ((gpu, 6), (gpu, 7), (catalogue, 5)):
            with pytest.raises(PreconditionFailed) as caught:
                await asked.servable(f"{MODEL}/versions/{number}")
            assert caught.value.reason == "NOT_SERVABLE_HERE"
        assert (await catalogue.servable(f"{MODEL}/versions/7")).base == {"gguf": ArtifactRef("3" * 64, 1)}

    async def test_another_version_s_manifest_is_refused(
        self, catalogue: RegistryCatalogue, registry: Registry
    ) -> None:
        registry.proofs[f"{MODEL}/versions/1"] = registry.proofs[f"{MODEL}/versions/3"]
        with pytest.raises(PreconditionFailed) as caught:
            await catalogue.servable(f"{MODEL}/versions/1")
        assert caught.value.reason == "PROOF_DIFFERS"

    async def test_an_adapter_is_served_only_on_the_base_that_it_was_signed_for(
        self, catalogue: RegistryCatalogue, registry: Registry
    ) -> None:
        await registry.sign(1, "FOUNDATION", {"gguf": "9" * 64})
        with pytest.raises(PreconditionFailed) as caught:
            await catalogue.servable(f"{MODEL}/versions/2")
        assert caught.value.reason == "PROOF_DIFFERS"

    async def test_a_release_of_one_version_lets_no_other_serve(
        self, catalogue: RegistryCatalogue, registry: Registry
    ) -> None:
        with pytest.raises(PreconditionFailed) as caught:
            await catalogue.check_release(f"{MODEL}/releases/1", f"{MODEL}/versions/1")
        assert caught.value.reason == "PROOF_DIFFERS"

    async def test_what_goes_with_a_version_is_what_was_signed(
        self, catalogue: RegistryCatalogue, registry: Registry
    ) -> None:
        unit = ServedUnit("projects/p/prompts/q/versions/1", (Message("system", "é"),), "", 0.5, 9, GUARD)
        await registry.sign_release(3, 2, unit={"prompt_version": unit.prompt_version}, served_unit=asdict(unit))
        assert await catalogue.check_release(f"{MODEL}/releases/3", f"{MODEL}/versions/2") == unit
        assert await catalogue.check_release(f"{MODEL}/releases/1", f"{MODEL}/versions/2") == NO_UNIT
        older = {"prompt_version": "", "temperature": 0.5, "max_output_tokens": 0}
        await registry.sign_release(4, 2, unit=older)
        assert await catalogue.check_release(f"{MODEL}/releases/4", f"{MODEL}/versions/2") == ServedUnit(
            temperature=0.5
        )
        await registry.sign_release(5, 2, unit={**older, "prompt_version": unit.prompt_version})
        with pytest.raises(PreconditionFailed) as caught:
            await catalogue.check_release(f"{MODEL}/releases/5", f"{MODEL}/versions/2")
        assert caught.value.reason == "UNIT_NOT_SERVABLE"

    async def test_f10_a_release_whose_guard_no_door_could_apply_is_not_rolled_out(
        self, catalogue: RegistryCatalogue, registry: Registry
    ) -> None:
        for number, guard in enumerate((replace(GUARD, rules=()), replace(GUARD, sha256="0" * 64)), start=3):
            await registry.sign_release(number, 2, unit={}, served_unit=asdict(ServedUnit(guard=guard)))
            with pytest.raises(PreconditionFailed) as caught:
                await catalogue.check_release(f"{MODEL}/releases/{number}", f"{MODEL}/versions/2")
            assert caught.value.reason == "GUARD_POLICY_BROKEN"

    async def test_what_is_not_signed_yet_is_tried_again(
        self, catalogue: RegistryCatalogue, registry: Registry
    ) -> None:
        registry.proofs[f"{MODEL}/versions/1"] = None
        with pytest.raises(Unavailable) as caught:
            await catalogue.servable(f"{MODEL}/versions/1")
        assert caught.value.reason == "PROOF_MISSING"

    async def test_f10_a_proof_that_rotted_in_the_store_is_refused(
        self, catalogue: RegistryCatalogue, registry: Registry
    ) -> None:
        proof = registry.proofs[f"{MODEL}/versions/1"]
        assert proof is not None
        registry.files.files["p", proof.sha256] = b"{}"
        with pytest.raises(PreconditionFailed):
            await catalogue.servable(f"{MODEL}/versions/1")
