"""The client: one object with a client for each service, events, and configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Self

from mainspring_client.annotation import Annotation
from mainspring_client.compression import Compression
from mainspring_client.configuration import Change, Configuration, apply
from mainspring_client.connection import Connection, Endpoints
from mainspring_client.data import Data
from mainspring_client.dataset_versions import DatasetVersions
from mainspring_client.embedding import Embedding
from mainspring_client.erasures import Erasures
from mainspring_client.evaluation import Evaluation
from mainspring_client.feedback import Feedback
from mainspring_client.guards import Guards
from mainspring_client.inference import Inference
from mainspring_client.merging import Merging
from mainspring_client.prompts import Prompts
from mainspring_client.registry import Registry
from mainspring_client.studies import Studies
from mainspring_client.subscription import RELEASE_EVENTS, subscribe
from mainspring_client.training import Training
from mainspring_client.webhooks import Webhooks
from mainspring_eventkit.cloudevents import Event


class Mainspring:
    """An installation, as one caller sees it. Errors are those of `mainspring_svckit.errors`.

    The clients of the services are thin; each has the generated stub as `stub`, to be called with
    `connection.metadata`. Everything that changes something is sent with a request id, so it is repeated safely while
    a service restarts.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        """Takes where to call; `connect` finds that out."""
        self.endpoints = endpoints
        self.connection = Connection(endpoints)

    @classmethod
    def connect(
        cls,
        addresses: str | Mapping[str, str] | None = None,
        *,
        token: str | None = None,
        nats_url: str | None = None,
        data: Path | None = None,
    ) -> Self:
        """The installation at `addresses`, in the environment, or the local stack; channels open at their first use.

        Arguments and errors as for `Endpoints.find`.
        """
        return cls(Endpoints.find(addresses, token=token, nats_url=nats_url, data=data))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all channels."""
        await self.connection.close()

    @cached_property
    def data(self) -> Data:
        """Files, ingestions, datasets."""
        return Data(self.connection)

    @cached_property
    def dataset_versions(self) -> DatasetVersions:
        """Published dataset versions: rows, comparisons, exports."""
        return DatasetVersions(self.connection)

    @cached_property
    def erasures(self) -> Erasures:
        """Erasures from dataset versions."""
        return Erasures(self.connection)

    @cached_property
    def annotation(self) -> Annotation:
        """Queues of items that people label."""
        return Annotation(self.connection)

    @cached_property
    def training(self) -> Training:
        """Training runs."""
        return Training(self.connection)

    @cached_property
    def studies(self) -> Studies:
        """Searches for better tuning settings."""
        return Studies(self.connection)

    @cached_property
    def evaluation(self) -> Evaluation:
        """Evaluation runs."""
        return Evaluation(self.connection)

    @cached_property
    def compression(self) -> Compression:
        """Smaller versions of models."""
        return Compression(self.connection)

    @cached_property
    def merging(self) -> Merging:
        """Adapters made of several."""
        return Merging(self.connection)

    @cached_property
    def registry(self) -> Registry:
        """Models, releases, turns of the loop."""
        return Registry(self.connection)

    @cached_property
    def webhooks(self) -> Webhooks:
        """Events by HTTP."""
        return Webhooks(self.connection)

    @cached_property
    def prompts(self) -> Prompts:
        """Prompts and their versions."""
        return Prompts(self.connection)

    @cached_property
    def guards(self) -> Guards:
        """Guard policies and their versions."""
        return Guards(self.connection)

    @cached_property
    def inference(self) -> Inference:
        """Answers and roll-outs."""
        return Inference(self.connection)

    @cached_property
    def embedding(self) -> Embedding:
        """Vectors and collections."""
        return Embedding(self.connection)

    @cached_property
    def feedback(self) -> Feedback:
        """Judgements of answers."""
        return Feedback(self.connection)

    async def apply(self, configuration: Configuration) -> list[Change]:
        """Writes a project's configuration; repeating changes nothing."""
        return await apply(self.connection, configuration)

    def subscribe(
        self,
        project: str,
        types: Sequence[str] = RELEASE_EVENTS,
        *,
        durable: str | None = None,
        since: datetime | None = None,
        limit: int = 0,
    ) -> AsyncIterator[Event]:
        """Events of a project; see `mainspring_client.subscription.subscribe`."""
        return subscribe(self.endpoints.nats_url, project, types, durable=durable, since=since, limit=limit)
