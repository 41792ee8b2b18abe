"""Use cases of the catalogue: reading, registering what was trained, aliases."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mainspring_registry.application.files import Files
from mainspring_registry.application.ledger import Ledger
from mainspring_registry.application.ports import Ports
from mainspring_registry.application.proofs import RELEASE_PROOF, VERSION_PROOF, Proofs
from mainspring_registry.domain.approvals import Actor
from mainspring_registry.domain.catalogue import (
    CHAMPION,
    FOLLOW_ROLL_OUTS,
    Lineage,
    Model,
    ModelKind,
    ModelQuery,
    ModelVersion,
    ServingSpec,
    manifest_bytes,
)
from mainspring_registry.domain.history import HistoryKind
from mainspring_registry.domain.lineage import edges_of_version
from mainspring_svckit.errors import AlreadyExists, InvalidInput, NotFound, PreconditionFailed
from mainspring_svckit.names import ModelAliasName, ModelName, ModelVersionName, ReleaseName, project_of
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Listed, require
from mainspring_svckit.values import ArtifactRef

WHOLE_MODEL = "gguf"
"""Role of the file that an engine loads of a model that is no adapter."""


@dataclass(frozen=True)
class TrainedAdapter:
    """What a training run that succeeded made."""

    model: str
    base_model_version: str
    artifacts: Mapping[str, ArtifactRef]
    lineage: Lineage
    cycle: str
    tuning_recipe: str = ""
    author: str = ""


class Catalogue:
    """Use cases of models and versions."""

    def __init__(self, ports: Ports) -> None:
        self._ports, self._proofs, self._ledger, self._files = ports, Proofs(ports), Ledger(ports), Files(ports)

    async def version(self, name: str) -> ModelVersion:
        """A version by number or by alias.

        Raises:
            NotFound: There is no such version, model or alias.
        """
        async with self._ports.transactions.transaction():
            if ModelAliasName.matches(name):
                alias = ModelAliasName.parse(name)
                model = await require(self._ports.models, "Model", str(ModelName(alias.project, alias.model)))
                name = model.value.version_of(alias.alias) or name
            return (await require(self._ports.versions, "ModelVersion", name)).value

    async def register_adapter(self, trained: TrainedAdapter) -> ModelVersion:
        """Makes a version of a training run's result; the same run again gives the same version.

        A whole model is of its base's kind and served as that is; everything else is an adapter.

        Raises:
            PreconditionFailed: ARTIFACTS_MISSING, a file is not in the store, so no half version becomes visible.
            NotFound: The foundation model is not in the catalogue.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            base = (await require(ports.versions, "ModelVersion", trained.base_model_version)).value
            whole = WHOLE_MODEL in trained.artifacts
            model = await self.ensure_model(trained.model, base.kind if whole else ModelKind.ADAPTER)
            known = await ports.versions.find("training_run", trained.lineage.training_run)
            if known:
                return known[0]
            project = ModelName.parse(trained.model).project
            missing = await self._files.missing(project, trained.artifacts)
            if missing:
                message = f"the store lacks {', '.join(missing)} of {trained.lineage.training_run}"
                raise PreconditionFailed("ARTIFACTS_MISSING", message, {"roles": ",".join(missing)})
            return await self.add_version(
                model,
                artifacts=trained.artifacts,
                serving=base.serving,
                lineage=trained.lineage,
                licence=base.licence,
                base=base,
                cycle=trained.cycle,
                tuning_recipe=trained.tuning_recipe,
                author=trained.author,
            )

    async def ensure_model(self, name: str, kind: ModelKind) -> Model:
        """The model, locked; made when it is missing. Joins the ambient transaction.

        Raises:
            PreconditionFailed: It exists and is for something else.
        """
        found = await self._ports.models.get(name, lock=True)
        if found is None:
            ModelName.parse(name, "model")
            try:
                return (await self._ports.models.add(Model(name, kind, self._ports.clock.now()))).value
            except AlreadyExists:  # Somebody else made it meanwhile.
                found = await require(self._ports.models, "Model", name, lock=True)
        found.value.require_kind(kind)
        return found.value

    async def add_version(
        self,
        model: Model,
        *,
        artifacts: Mapping[str, ArtifactRef],
        serving: ServingSpec,
        lineage: Lineage,
        licence: str,
        base: ModelVersion | None = None,
        cycle: str = "",
        tuning_recipe: str = "",
        kind: ModelKind | None = None,
        author: str = "",
    ) -> ModelVersion:
        """Numbers, describes and announces a version of a locked model, of the model's kind unless another is given.

        Joins the ambient transaction.
        """
        ports = self._ports
        await ports.numbers.require_current()
        model, name = model.with_version()
        base_digest = base.manifest.sha256 if base is not None else ""
        kind = kind or model.kind
        manifest = manifest_bytes(name, kind, base_digest, artifacts, serving, lineage, licence)
        version = ModelVersion(
            name=name,
            model=model.name,
            kind=kind,
            base_model_version=base.name if base is not None else "",
            artifacts=artifacts,
            manifest=ArtifactRef(
                hashlib.sha256(manifest).hexdigest(), len(manifest), "application/json", "manifest.json"
            ),
            serving=serving,
            lineage=lineage,
            licence=licence,
            create_time=ports.clock.now(),
            cycle=cycle,
            training_run=lineage.training_run,
            author=author,
        )
        project = ModelName.parse(model.name).project
        await ports.files.put_bytes(project, manifest, media_type="application/json", filename="manifest.json")
        version = replace(version, proof=await self._proofs.of_version(version, manifest))
        await ports.models.put(model)
        await ports.versions.add(version)
        await ports.lineage.add(edges_of_version(version, tuning_recipe))
        await ports.announcements.version_registered(version)
        return version

    async def search(self, parent: str, query: ModelQuery, page: Page) -> Listed[Model]:
        """A project's models that a query matches, a page at a time."""
        async with self._ports.transactions.transaction():
            return await self._ports.models.search(parent, query, page)

    async def file(self, name: str, role: str) -> tuple[str, ArtifactRef]:
        """The project and the file of a version or a release by its role.

        Raises:
            NotFound: There is no such version, release or file.
        """
        async with self._ports.transactions.transaction():
            if ReleaseName.matches(name):
                release = (await require(self._ports.releases, "Release", name)).value
                known = {RELEASE_PROOF: release.proof}
            else:
                version = (await require(self._ports.versions, "ModelVersion", name)).value
                known = {**version.artifacts, VERSION_PROOF: version.proof, "manifest.json": version.manifest}
        found = known.get(role)
        if found is None:
            raise NotFound("ModelFile", f"{name} {role}")
        return str(project_of(name)), found

    async def describe(self, name: str, description: str, tags: Mapping[str, str]) -> Model:
        """Writes a model's description and tags.

        Raises:
            NotFound: There is no such model.
        """
        async with self._ports.transactions.transaction():
            model = (await require(self._ports.models, "Model", name, lock=True)).value
            return (await self._ports.models.put(replace(model, description=description, tags=tags))).value

    async def tag_version(self, name: str, tags: Mapping[str, str]) -> ModelVersion:
        """Writes a version's tags.

        Raises:
            NotFound: There is no such version.
        """
        async with self._ports.transactions.transaction():
            version = (await require(self._ports.versions, "ModelVersion", name, lock=True)).value
            return (await self._ports.versions.put(replace(version, tags=tags))).value

    async def set_alias(self, model: str, alias: str, version: str, actor: Actor) -> Model:
        """Points an alias of people's own at a version.

        Raises:
            InvalidInput: The alias is `champion` or `challenger`, which follow roll-outs, or the version is another
                model's.
            NotFound: The model or the version does not exist.
        """
        if alias in FOLLOW_ROLL_OUTS:
            message = f"the alias {alias} follows roll-outs; release a version, or revoke the release, to move it"
            raise InvalidInput(message, reason="ALIAS_RESERVED")
        return await self.move_alias(model, alias, version, actor)

    async def move_alias(self, model: str, alias: str, version: str, actor: Actor) -> Model:
        """Points any alias at a version.

        Raises:
            InvalidInput: The version is another model's.
            NotFound: The model or the version does not exist.
        """
        named = ModelVersionName.parse(version, "model_version")
        if str(ModelName(named.project, named.model)) != model:
            raise InvalidInput(f"{version} is not a version of {model}", reason="MODEL_DIFFERS")
        async with self._ports.transactions.transaction():
            found = await require(self._ports.models, "Model", model, lock=True)
            await require(self._ports.versions, "ModelVersion", version)
            before = found.value
            changed = before.with_champion(version) if alias == CHAMPION else before.with_alias(alias, version)
            if changed == before:
                return changed
            kind = HistoryKind.ALIAS_MOVED
            changed = await self._ledger.write(changed, kind, version, actor, alias=alias)
            return (await self._ports.models.put(changed)).value
