"""The services behind the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from mainspring.data.v1 import (
    annotation_pb2,
    annotation_service_pb2,
    annotation_service_pb2_grpc,
    data_service_pb2,
    data_service_pb2_grpc,
)
from mainspring.embedding.v1 import embedding_service_pb2_grpc
from mainspring.evaluation.v1 import evaluation_service_pb2, evaluation_service_pb2_grpc
from mainspring.feedback.v1 import feedback_pb2, feedback_service_pb2, feedback_service_pb2_grpc
from mainspring.inference.v1 import (
    deployment_service_pb2,
    deployment_service_pb2_grpc,
    inference_service_pb2,
    inference_service_pb2_grpc,
)
from mainspring.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from mainspring.training.v1 import training_service_pb2, training_service_pb2_grpc
from mainspring_svckit.errors import MainspringError
from mainspring_svckit.grpc_client import Caller, check_serving
from mainspring_svckit.ids import new_id

T = TypeVar("T", bound=Message)
PAGE = 100


class Services:
    """Channels to all services; made once."""

    def __init__(self, channels: Mapping[str, grpc.aio.Channel]) -> None:
        """Takes a channel for each service's name."""
        self.channels = channels
        self.data: Any = data_service_pb2_grpc.DataServiceStub(channels["data-ingest"])
        self.annotation: Any = annotation_service_pb2_grpc.AnnotationServiceStub(channels["data-ingest"])
        self.training: Any = training_service_pb2_grpc.TrainingServiceStub(channels["trainer"])
        self.evaluation: Any = evaluation_service_pb2_grpc.EvaluationServiceStub(channels["evaluator"])
        self.registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channels["registry"])
        self.embedding: Any = embedding_service_pb2_grpc.EmbeddingServiceStub(channels["embedder"])
        self.inference: Any = inference_service_pb2_grpc.InferenceServiceStub(channels["inference"])
        self.deployment: Any = deployment_service_pb2_grpc.DeploymentServiceStub(channels["inference"])
        self.feedback: Any = feedback_service_pb2_grpc.FeedbackServiceStub(channels["feedback"])

    async def health(self) -> dict[str, str]:
        """`ready`, or the reason why not, by service."""

        async def state(channel: grpc.aio.Channel) -> str:
            try:
                await check_serving(channel)
            except MainspringError as err:
                return err.message
            return "ready"

        states = await asyncio.gather(*map(state, self.channels.values()))
        return dict(zip(self.channels, states, strict=True))


class View:
    """What one person may see of one project."""

    def __init__(self, services: Services, token: str, project: str) -> None:
        self.services, self.project = services, project
        self._caller = Caller(token)
        self._parent = f"projects/{project}"

    async def datasets(self) -> Any:
        """The project's datasets."""
        request = data_service_pb2.ListDatasetsRequest(parent=self._parent, page_size=PAGE)
        return (
            await self._call(self.services.data.ListDatasets, request, data_service_pb2.ListDatasetsResponse)
        ).datasets

    async def dataset_versions(self, dataset: str) -> Any:
        """A dataset's newest versions."""
        request = data_service_pb2.ListDatasetVersionsRequest(parent=dataset, page_size=PAGE)
        kind = data_service_pb2.ListDatasetVersionsResponse
        return (await self._call(self.services.data.ListDatasetVersions, request, kind)).dataset_versions

    async def refused_rows(self, version: str) -> Any:
        """The first refused rows of a version."""
        request = data_service_pb2.ListRefusedRowsRequest(parent=version, page_size=PAGE)
        kind = data_service_pb2.ListRefusedRowsResponse
        return (await self._call(self.services.data.ListRefusedRows, request, kind)).refused_rows

    async def report_picture(self, version: str) -> bytes:
        """A dataset version's report as PNG: what became of its rows, lengths, diversity and labels."""
        request = data_service_pb2.GetDatasetReportRequest(name=version, plot=True)
        kind = data_service_pb2.GetDatasetReportResponse
        return (await self._call(self.services.data.GetDatasetReport, request, kind, timeout_s=60)).plot_png

    async def queues(self) -> Any:
        """The project's annotation queues."""
        request = annotation_service_pb2.ListAnnotationQueuesRequest(parent=self._parent, page_size=PAGE)
        kind = annotation_service_pb2.ListAnnotationQueuesResponse
        return (await self._call(self.services.annotation.ListAnnotationQueues, request, kind)).annotation_queues

    async def queue(self, queue: str) -> annotation_pb2.AnnotationQueue:
        """One annotation queue, by its id."""
        name = f"{self._parent}/annotationQueues/{queue}"
        request = annotation_service_pb2.GetAnnotationQueueRequest(name=name)
        kind = annotation_service_pb2.GetAnnotationQueueResponse
        return (await self._call(self.services.annotation.GetAnnotationQueue, request, kind)).annotation_queue

    async def claim(self, queue: str) -> annotation_service_pb2.ClaimAnnotationItemResponse:
        """The next item of a queue for whoever looks, reserved; the one that he has, if he has one."""
        request = annotation_service_pb2.ClaimAnnotationItemRequest(parent=queue, request_id=new_id())
        kind = annotation_service_pb2.ClaimAnnotationItemResponse
        return await self._call(self.services.annotation.ClaimAnnotationItem, request, kind)

    async def annotate(self, item: str, label: annotation_pb2.Label | None, comment: str) -> None:
        """Says something of an item; without a label it is skipped."""
        request = annotation_service_pb2.SubmitAnnotationRequest(
            name=item, label=label, comment=comment, request_id=new_id()
        )
        kind = annotation_service_pb2.SubmitAnnotationResponse
        await self._call(self.services.annotation.SubmitAnnotation, request, kind)

    async def runs(self) -> Any:
        """The newest training runs."""
        request = training_service_pb2.ListTrainingRunsRequest(parent=self._parent, page_size=PAGE)
        kind = training_service_pb2.ListTrainingRunsResponse
        return (await self._call(self.services.training.ListTrainingRuns, request, kind)).training_runs

    def watch_run(self, name: str) -> AsyncIterator[training_service_pb2.WatchTrainingRunResponse]:
        """A training run with its metrics, as they come."""
        request = training_service_pb2.WatchTrainingRunRequest(name=name)
        kind = training_service_pb2.WatchTrainingRunResponse
        return self._caller.stream(self.services.training.WatchTrainingRun, request, kind)

    async def evaluations(self) -> Any:
        """The newest evaluation runs."""
        request = evaluation_service_pb2.ListEvaluationRunsRequest(parent=self._parent, page_size=PAGE)
        kind = evaluation_service_pb2.ListEvaluationRunsResponse
        return (await self._call(self.services.evaluation.ListEvaluationRuns, request, kind)).evaluation_runs

    async def evaluation(self, name: str) -> Any:
        """One evaluation run."""
        request = evaluation_service_pb2.GetEvaluationRunRequest(name=name)
        kind = evaluation_service_pb2.GetEvaluationRunResponse
        return (await self._call(self.services.evaluation.GetEvaluationRun, request, kind)).evaluation_run

    async def items(self, run: str) -> Any:
        """The first items of an evaluation run."""
        request = evaluation_service_pb2.ListEvaluationItemsRequest(parent=run, page_size=PAGE)
        kind = evaluation_service_pb2.ListEvaluationItemsResponse
        return (await self._call(self.services.evaluation.ListEvaluationItems, request, kind)).evaluation_items

    async def models(self) -> Any:
        """The catalogue."""
        request = registry_service_pb2.ListModelsRequest(parent=self._parent, page_size=PAGE)
        kind = registry_service_pb2.ListModelsResponse
        return (await self._call(self.services.registry.ListModels, request, kind)).models

    async def releases(self, model: str) -> Any:
        """A model's releases, newest first."""
        request = registry_service_pb2.ListReleasesRequest(parent=model, page_size=PAGE)
        kind = registry_service_pb2.ListReleasesResponse
        return (await self._call(self.services.registry.ListReleases, request, kind)).releases

    async def decisions(self, model: str) -> Any:
        """What the gate said of a model's versions, newest first."""
        request = registry_service_pb2.ListGateDecisionsRequest(parent=model, page_size=PAGE)
        kind = registry_service_pb2.ListGateDecisionsResponse
        return (await self._call(self.services.registry.ListGateDecisions, request, kind)).gate_decisions

    async def revoke(self, release: str, reason: str) -> None:
        """Takes a release back."""
        request = registry_service_pb2.RevokeReleaseRequest(name=release, reason=reason, request_id=new_id())
        await self._call(self.services.registry.RevokeRelease, request, registry_service_pb2.RevokeReleaseResponse)

    async def cycles(self) -> Any:
        """The newest turns of the loop."""
        request = registry_service_pb2.ListCyclesRequest(parent=self._parent, page_size=10)
        kind = registry_service_pb2.ListCyclesResponse
        return (await self._call(self.services.registry.ListCycles, request, kind)).cycles

    async def rollouts(self) -> Any:
        """The newest roll-outs."""
        request = deployment_service_pb2.ListRolloutsRequest(parent=self._parent, page_size=PAGE)
        kind = deployment_service_pb2.ListRolloutsResponse
        return (await self._call(self.services.deployment.ListRollouts, request, kind)).rollouts

    async def served(self) -> Any:
        """What can be called now."""
        request = inference_service_pb2.ListServedModelsRequest(parent=self._parent)
        kind = inference_service_pb2.ListServedModelsResponse
        return (await self._call(self.services.inference.ListServedModels, request, kind)).served_models

    def stream_answer(self, model: str, text: str) -> AsyncIterator[inference_service_pb2.StreamAnswerResponse]:
        """An answer as it comes."""
        request = inference_service_pb2.StreamAnswerRequest(parent=self._parent, model=model)
        request.messages.add(role=2, content=text)
        return self._caller.stream(
            self.services.inference.StreamAnswer, request, inference_service_pb2.StreamAnswerResponse, timeout_s=120
        )

    async def judge(self, answer: str, *, thumb: bool | None = None, correction: str = "") -> None:
        """Sends a thumb, or the answer as it should have been."""
        item = feedback_pb2.FeedbackItem(answer=answer)
        if thumb is not None:
            item.thumb = thumb
        else:
            item.correction = correction
        request = feedback_service_pb2.CreateFeedbackItemRequest(
            parent=self._parent, feedback_item=item, request_id=new_id()
        )
        kind = feedback_service_pb2.CreateFeedbackItemResponse
        await self._call(self.services.feedback.CreateFeedbackItem, request, kind)

    async def feedback(self) -> Any:
        """The newest feedback."""
        request = feedback_service_pb2.ListFeedbackItemsRequest(parent=self._parent, page_size=PAGE)
        kind = feedback_service_pb2.ListFeedbackItemsResponse
        return (await self._call(self.services.feedback.ListFeedbackItems, request, kind)).feedback_items

    async def _call(self, method: Any, request: Message, response_type: type[T], *, timeout_s: float = 10) -> T:
        return await self._caller.unary(method, request, response_type, timeout_s=timeout_s)
