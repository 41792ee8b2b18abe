"""The registry, asked for what serves a version. What counts is what was signed, not what the registry says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from pydantic import TypeAdapter

from mainspring.common.v1 import artifact_pb2
from mainspring.registry.v1 import model_pb2, release_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_guards.guard import guard_of
from mainspring_inference.application.ports import ServableVersion
from mainspring_inference.domain.deployments import Engine, Serving
from mainspring_proof import bundles, statements
from mainspring_proof.keys import TrustedKeys
from mainspring_proof.statements import SignedVersion
from mainspring_svckit.errors import PreconditionFailed, Unavailable
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.names import project_of
from mainspring_svckit.ports import Artifacts
from mainspring_svckit.values import ArtifactRef, ServedUnit

GGUF, ADAPTER_GGUF = "gguf", "adapter.gguf"
HF, PEFT = "hf/", "adapter/"
_UNIT = TypeAdapter(ServedUnit)


class RegistryCatalogue:
    """`Catalogue` by gRPC and the artifact store."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        caller: Caller,
        files: Artifacts,
        trusted: TrustedKeys,
        engine: Engine = Engine.LLAMA_CPP,
    ) -> None:
        """Takes where to ask, where signed manifests lie, whose signatures are believed, and what makes answers."""
        self._engine = engine
        self._stub = pb_grpc.RegistryServiceStub(channel)
        self._caller, self._files, self._trusted = caller, files, trusted

    async def servable(self, model_version: str) -> ServableVersion:
        version = await self._version(model_version)
        signed = await self._signed(version)
        is_adapter, embedding = signed.manifest["kind"] == "ADAPTER", signed.manifest["kind"] == "EMBEDDING"
        engine = Engine.LLAMA_CPP if embedding else self._engine
        base = await self._base(version, signed) if is_adapter else signed
        serving: dict[str, Any] = signed.manifest["serving"]
        return ServableVersion(
            model_version=signed.name,
            embedding=embedding,
            base=_files(base, engine, GGUF, HF),
            adapter=_files(signed, engine, ADAPTER_GGUF, PEFT) if is_adapter else None,
            serving=Serving(**serving),
            engine=engine,
        )

    async def check_release(self, release: str, model_version: str) -> ServedUnit:
        request = pb.GetReleaseRequest(name=release)
        found = (await self._caller.unary(self._stub.GetRelease, request, pb.GetReleaseResponse)).release
        bundle = await self._proof(release, found)
        signed = statements.read_release(bundles.verify(bundle, self._trusted))
        version = await self._signed(await self._version(model_version))
        said = (signed.name, signed.model_version, signed.manifest_sha256)
        if said != (release, model_version, version.manifest_sha256):
            message = f"the signed manifest of {release} is about {signed.name} and {signed.model_version}"
            raise PreconditionFailed("PROOF_DIFFERS", message, {"release": release})
        return _unit(release, signed.details)

    async def _base(self, version: model_pb2.ModelVersion, signed: SignedVersion) -> SignedVersion:
        base = await self._signed(await self._version(version.base_model_version))
        if base.manifest_sha256 != signed.manifest["base_manifest_sha256"]:
            message = f"{signed.name} was signed for other base weights than those of {base.name}"
            raise PreconditionFailed("PROOF_DIFFERS", message, {"modelVersion": signed.name})
        return base

    async def _signed(self, version: model_pb2.ModelVersion) -> SignedVersion:
        signed = statements.read_version(bundles.verify(await self._proof(version.name, version), self._trusted))
        if signed.name != version.name:
            message = f"the signed manifest of {version.name} is that of {signed.name}"
            raise PreconditionFailed("PROOF_DIFFERS", message, {"modelVersion": version.name})
        return signed

    async def _proof(self, name: str, found: model_pb2.ModelVersion | release_pb2.Release) -> bytes:
        if not found.HasField("proof"):
            message = f"{name} has no signed manifest yet; the registry signs what is older than signatures"
            raise Unavailable("PROOF_MISSING", message, metadata={"name": name})
        proof: artifact_pb2.Artifact = found.proof
        return await self._files.read(str(project_of(name)), artifact_from_proto(proof))

    async def _version(self, name: str) -> model_pb2.ModelVersion:
        request = pb.GetModelVersionRequest(name=name)
        answer = await self._caller.unary(self._stub.GetModelVersion, request, pb.GetModelVersionResponse)
        return answer.model_version


def _unit(release: str, details: Mapping[str, Any]) -> ServedUnit:
    """What was signed to go with the version. Releases from before prompts were signed in full name them only."""
    if "served_unit" in details:
        unit = _UNIT.validate_python(details["served_unit"])
        if unit.guard is not None:
            guard_of(unit.guard)  # What no door could apply is not rolled out.
        return unit
    if any(value for key, value in details.get("unit", {}).items() if key != "temperature"):
        message = f"{release} names a prompt or limits that it was not signed with; release its version again"
        raise PreconditionFailed("UNIT_NOT_SERVABLE", message, {"release": release})
    return ServedUnit(temperature=details.get("unit", {}).get("temperature"))


def _files(version: SignedVersion, engine: Engine, gguf: str, folder: str) -> dict[str, ArtifactRef]:
    """The files of a version, or of its adapter, that an engine reads, by name.

    Args:
        version: What was signed.
        engine: Who reads.
        gguf: Role of the file that llama.cpp reads.
        folder: How the roles of the files begin that vLLM reads.

    Raises:
        PreconditionFailed: FILE_MISSING or NOT_SERVABLE_HERE.
    """
    artifacts: Mapping[str, Mapping[str, Any]] = version.manifest["artifacts"]
    found = {role: ArtifactRef(str(file["sha256"]), int(file["size_bytes"])) for role, file in artifacts.items()}
    files = {role.removeprefix(folder): file for role, file in found.items() if role.startswith(folder)}
    if gguf in found and version.manifest.get("lineage", {}).get("quantized_from"):
        files = {}  # What lies beside a compressed file is what is tuned on, not what was measured.
    whole = any(name.endswith(".safetensors") for name in files)
    if engine is Engine.LLAMA_CPP and gguf in found:
        return {gguf: found[gguf]}
    if engine is Engine.VLLM and whole:
        return files
    if whole or gguf in found:
        message = (
            f"{version.name} has files for {Engine.VLLM if whole else Engine.LLAMA_CPP}, and what answers here is"
            f" {engine}; serve it where that engine runs, or what it was made from here"
        )
        raise PreconditionFailed("NOT_SERVABLE_HERE", message, {"modelVersion": version.name, "engine": engine.value})
    message = f"{version.name} has no file {gguf!r}, so it cannot be served; import or train it again"
    raise PreconditionFailed("FILE_MISSING", message, {"modelVersion": version.name, "role": gguf})
