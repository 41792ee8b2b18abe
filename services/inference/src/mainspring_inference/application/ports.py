"""What inference's use cases need from outside."""

from __future__ import annotations

from collections.abc import Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from mainspring_answers.domain import RoutingTable
from mainspring_inference.domain.deployments import Deployment, Engine, Serving
from mainspring_inference.domain.rollouts import Rollout, RolloutPolicy, Traffic
from mainspring_svckit.clock import Clock
from mainspring_svckit.ports import Notifier, Transactions, Work
from mainspring_svckit.repository import Repository
from mainspring_svckit.values import ArtifactRef, ServedUnit


@dataclass(frozen=True)
class ServableVersion:
    """What the catalogue says of a version.

    Attributes:
        model_version: Its name.
        embedding: Whether it makes vectors instead of text.
        base: Files of the foundation or embedding model, by name: one GGUF file, or a Hugging Face folder's.
        adapter: Files of the adapter in the same form; None for a version without one.
        serving: What a door must know.
        engine: What these files are for.
    """

    model_version: str
    embedding: bool
    base: Mapping[str, ArtifactRef]
    adapter: Mapping[str, ArtifactRef] | None
    serving: Serving
    engine: Engine = Engine.LLAMA_CPP


class Catalogue(Protocol):
    """The registry."""

    async def servable(self, model_version: str) -> ServableVersion:
        """A version with the files that serve it.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: FILE_MISSING, it lacks a file that serving needs; NOT_SERVABLE_HERE, its files are for
                another engine than this plane's; or nobody trusted has signed it as it is.
            Unavailable: The registry cannot be asked now.
        """
        ...

    async def check_release(self, release: str, model_version: str) -> ServedUnit:
        """Checks that a release of exactly this version was signed, and gives what it signed to go with the version.

        Raises:
            NotFound: There is no such release.
            PreconditionFailed: Nobody trusted has signed it, or UNIT_NOT_SERVABLE, it names what no door can apply.
            Unavailable: The registry cannot be asked now.
        """
        ...


class ModelServer(Protocol):
    """Triton: holds models in memory."""

    async def load(self, triton_model: str, version: ServableVersion) -> None:
        """Fetches the files, writes the model's folder, loads it and waits until a real inference succeeds.

        Raises:
            PreconditionFailed: The server refused the model; the message says why.
            Unavailable: The server, or the store of the files, is away.
        """
        ...

    async def unload(self, triton_model: str) -> None:
        """Takes a model out of memory and removes its folder; one that is not there is fine.

        Raises:
            Unavailable: The server is away.
        """
        ...

    async def loaded(self) -> Set[str]:
        """Names of the models in memory that answer a real inference.

        Raises:
            Unavailable: The server is away.
        """
        ...


class RoutingBoard(Protocol):
    """Where doors read who answers."""

    async def publish(self, table: RoutingTable) -> None:
        """Puts a table up unless a newer one is there.

        Raises:
            Unavailable: The bus is away.
        """
        ...


class Announcements(Protocol):
    """Tells other services what happened; joins the ambient transaction."""

    async def started(self, rollout: Rollout) -> None:
        """A release is being loaded."""
        ...

    async def advanced(self, rollout: Rollout) -> None:
        """A release gets a larger share."""
        ...

    async def promoted(self, rollout: Rollout) -> None:
        """A release gets all traffic."""
        ...

    async def rolled_back(self, rollout: Rollout) -> None:
        """A release gets no traffic any more."""
        ...


class Waiter(Protocol):
    """Waits for changes of one resource."""

    async def wait(self, timeout_s: float) -> bool:
        """Waits for a change; False when none came in time."""
        ...


class Changes(Protocol):
    """Hears of changes that others commit."""

    def watch(self, name: str) -> AbstractContextManager[Waiter]:
        """Changes of a resource from now on."""
        ...


@dataclass(frozen=True)
class Ports:
    """Everything the use cases need; made once, in `main.py`."""

    transactions: Transactions
    deployments: Repository[Deployment]
    policies: Repository[RolloutPolicy]
    rollouts: Repository[Rollout]
    traffic: Repository[Traffic]
    announcements: Announcements
    catalogue: Catalogue
    server: ModelServer
    board: RoutingBoard
    work: Work
    notifier: Notifier
    changes: Changes
    clock: Clock
