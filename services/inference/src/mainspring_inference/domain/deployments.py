"""Model versions in memory, for as long as somebody holds them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mainspring_svckit.names import DeploymentName, ModelName, ModelVersionName
from mainspring_svckit.states import StateMachine


class DeploymentState(StrEnum):
    """Whether a deployment can answer."""

    LOADING = "LOADING"
    READY = "READY"
    FAILED = "FAILED"
    UNLOADING = "UNLOADING"


DEPLOYMENT_STATES = StateMachine(
    {
        DeploymentState.LOADING: {DeploymentState.READY, DeploymentState.FAILED, DeploymentState.UNLOADING},
        DeploymentState.READY: {DeploymentState.LOADING, DeploymentState.UNLOADING},
        DeploymentState.FAILED: {DeploymentState.LOADING, DeploymentState.UNLOADING},
        DeploymentState.UNLOADING: {DeploymentState.LOADING},
    }
)


class Engine(StrEnum):
    """What runs behind Triton and makes answers. Embedding models are always llama.cpp's."""

    LLAMA_CPP = "llama.cpp"
    VLLM = "vllm"


@dataclass(frozen=True)
class Serving:
    """What a door must know to answer with a version; from the catalogue, once it is loaded."""

    context_tokens: int = 0
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    dimensions: int = 0


@dataclass(frozen=True)
class Deployment:
    """One version in memory.

    Attributes:
        ready_time: When it last became READY; once set, doors keep its route while Triton loads it again.
    """

    name: str
    model: str
    model_version: str
    state: DeploymentState
    holders: tuple[str, ...]
    create_time: datetime
    serving: Serving = Serving()
    error_reason: str = ""
    error_message: str = ""
    ready_time: datetime | None = None

    @property
    def triton_model(self) -> str:
        """Its name in Triton; the same for the same version everywhere."""
        return triton_name(self.model_version)

    @property
    def routable(self) -> bool:
        """Whether doors may send questions to it."""
        return self.ready_time is not None and self.state in {DeploymentState.READY, DeploymentState.LOADING}

    def held_by(self, holder: str) -> Deployment:
        """The deployment with one holder more; asked for again, it is loaded again if it must be."""
        held = replace(self, holders=(*(h for h in self.holders if h != holder), holder))
        if self.state in {DeploymentState.FAILED, DeploymentState.UNLOADING}:
            return replace(held._to(DeploymentState.LOADING), error_reason="", error_message="")
        return held

    def let_go_by(self, holder: str) -> Deployment:
        """The deployment with one holder less; without any it leaves memory."""
        left = replace(self, holders=tuple(h for h in self.holders if h != holder))
        if left.holders or self.state is DeploymentState.UNLOADING:
            return left
        return left._to(DeploymentState.UNLOADING)

    def loaded(self, serving: Serving, now: datetime) -> Deployment:
        """The deployment after a real inference succeeded."""
        return replace(self._to(DeploymentState.READY), serving=serving, ready_time=now)

    def lost(self) -> Deployment:
        """The deployment after Triton turned out not to have it any more."""
        return self._to(DeploymentState.LOADING)

    def failed(self, reason: str, message: str) -> Deployment:
        """The deployment after Triton, or the files, refused."""
        return replace(self._to(DeploymentState.FAILED), error_reason=reason, error_message=message, ready_time=None)

    def _to(self, state: DeploymentState) -> Deployment:
        DEPLOYMENT_STATES.check(self.name, self.state, state)
        return replace(self, state=state)


def new_deployment(model_version: str, holder: str, now: datetime) -> Deployment:
    """A deployment that must be loaded."""
    version = ModelVersionName.parse(model_version)
    return Deployment(
        name=deployment_name(model_version),
        model=str(ModelName(version.project, version.model)),
        model_version=model_version,
        state=DeploymentState.LOADING,
        holders=(holder,),
        create_time=now,
    )


def deployment_name(model_version: str) -> str:
    """A version has one deployment, whose id says which, and stays below 63 characters by a digest of the rest."""
    version = ModelVersionName.parse(model_version)
    plain = f"{version.model}-v{version.version}"
    if len(plain) > 63:
        plain = f"{plain[:46]}-{hashlib.sha256(plain.encode()).hexdigest()[:16]}"
    return str(DeploymentName(version.project, plain))


def triton_name(model_version: str) -> str:
    """The version's model in Triton; project and model have no dots, so names never meet."""
    version = ModelVersionName.parse(model_version)
    return f"{version.project}.{version.model}.{version.version}"
