"""The fakes of this service's own ports; each passes the contract suite of its port."""

from collections.abc import Mapping, Set

from mainspring_answers.domain import RoutingTable
from mainspring_inference.application.ports import ServableVersion
from mainspring_inference.domain.deployments import Serving
from mainspring_svckit.errors import MainspringError, NotFound, PreconditionFailed
from mainspring_svckit.values import NO_UNIT, ArtifactRef, ServedUnit
from mainspring_testkit.answer_path import FakeRoutes

MODEL = "projects/p/models/m"


class FakeServer:
    def __init__(self) -> None:
        self.models: set[str] = set()
        self.refused: list[Mapping[str, ArtifactRef]] = []
        self.failure: MainspringError | None = None
        self.calls: list[str] = []

    async def load(self, triton_model: str, version: ServableVersion) -> None:
        self.calls.append(f"load {triton_model}")
        if self.failure is not None:
            raise self.failure
        if version.base in self.refused:
            raise PreconditionFailed("MODEL_LOAD_FAILED", "bad file")
        self.models.add(triton_model)

    async def unload(self, triton_model: str) -> None:
        self.calls.append(f"unload {triton_model}")
        self.models.discard(triton_model)

    async def loaded(self) -> Set[str]:
        return set(self.models)


class FakeCatalogue:
    """Knows versions 1 to 8 of every model, all foundation models but the `adapters`."""

    def __init__(self) -> None:
        self.adapters: set[str] = set()
        self.without_files: set[str] = set()
        self.unsigned: set[str] = set()
        self.units: dict[str, ServedUnit] = {}
        self.failures: dict[str, MainspringError] = {}

    async def servable(self, model_version: str) -> ServableVersion:
        if model_version.endswith("/9"):
            raise NotFound("ModelVersion", model_version)
        if model_version in self.without_files:
            raise PreconditionFailed("FILE_MISSING", "no file")
        adapter = {"adapter.gguf": ArtifactRef("b" * 64, 1)} if model_version in self.adapters else None
        if model_version in self.unsigned:
            raise PreconditionFailed("PROOF_UNTRUSTED", "changed")
        base = {"gguf": ArtifactRef("a" * 64, 1)}
        return ServableVersion(model_version, False, base, adapter, Serving(512, "t"))

    async def check_release(self, release: str, model_version: str) -> ServedUnit:
        if release.endswith("/9"):
            raise NotFound("Release", release)
        if release in self.unsigned:
            raise PreconditionFailed("PROOF_UNTRUSTED", "changed")
        del model_version
        if release in self.failures:
            raise self.failures[release]
        return self.units.get(release, NO_UNIT)


class FakeBoard(FakeRoutes):
    """A board on which a test reads one model's table."""

    @property
    def newest(self) -> RoutingTable:
        """The table; an empty one before the first."""
        return self.table(MODEL) or RoutingTable(MODEL, 0, ())

    def shares(self) -> dict[int, int]:
        """Percent of the traffic by the version's number."""
        return {int(route.model_version.rsplit("/", 1)[-1]): route.percent for route in self.newest.routes}
