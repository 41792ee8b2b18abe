"""The services around this one, as it sees them."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from mainspring.common.v1 import unit_pb2
from mainspring.data.v1 import data_service_pb2, dataset_pb2
from mainspring.embedding.v1 import embedding_service_pb2
from mainspring.inference.v1 import (
    answer_pb2,
    deployment_pb2,
    deployment_service_pb2,
    inference_service_pb2,
)
from mainspring.registry.v1 import model_pb2, registry_service_pb2, release_pb2
from mainspring_svckit.errors import NotFound, Unavailable
from mainspring_svckit.mapping import duration_to_proto, failure_to_proto

MODEL, BASE = "projects/p/models/m", "projects/p/models/base/versions/1"


SUITE, DATA = "projects/p/evaluationSuites/s", "projects/p/datasets/d/versions/1"


QUESTIONS = [f"question {number}" for number in range(24)]


def version(number: int) -> str:
    return f"{MODEL}/versions/{number}"


def reference(question: str) -> str:
    return f"this is the one right answer to {question} and to nothing else"


SERVICES = (
    "registry.v1.RegistryService",
    "data.v1.DataService",
    "inference.v1.DeploymentService",
    "inference.v1.InferenceService",
    "embedding.v1.EmbeddingService",
)


class Plane:
    """Registry, data-ingest and inference as the evaluator sees them, over real gRPC."""

    def __init__(self) -> None:
        self.versions: dict[str, model_pb2.ModelVersion] = {}
        self.dataset = dataset_pb2.DatasetVersion(name=DATA)
        self.released = ""
        self.next_unit, self.active_unit = unit_pb2.ServedUnit(), unit_pb2.ServedUnit()
        self.deployments: dict[str, deployment_pb2.Deployment] = {}
        self.refused: set[str] = set()
        self.asked: Counter[tuple[str, str]] = Counter()
        self.asking: Counter[str] = Counter()
        self.most_at_a_time = 0
        self.by_replica: dict[str, set[tuple[str, str]]] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.stop_after = math.inf
        self.away_for = 0
        self.dull = {BASE}
        self.requests: list[Any] = []
        self.latency_s: Callable[[str], float] = lambda question: 0.25

    @property
    def holders(self) -> set[str]:
        return {holder for deployment in self.deployments.values() for holder in deployment.holders}

    async def GetModelVersion(self, request: Any, context: Any) -> Any:
        if request.name not in self.versions:
            raise NotFound("ModelVersion", request.name)
        return registry_service_pb2.GetModelVersionResponse(model_version=self.versions[request.name])

    async def GetModel(self, request: Any, context: Any) -> Any:
        if not any(name.startswith(f"{request.name}/versions/") for name in self.versions):
            raise NotFound("Model", request.name)
        release = f"{MODEL}/releases/1" if self.released else ""
        return registry_service_pb2.GetModelResponse(model=model_pb2.Model(name=request.name, active_release=release))

    async def GetRelease(self, request: Any, context: Any) -> Any:
        release = release_pb2.Release(name=request.name, model_version=self.released)
        return registry_service_pb2.GetReleaseResponse(release=release)

    async def GetServedUnits(self, request: Any, context: Any) -> Any:
        if not any(name.startswith(f"{request.name}/versions/") for name in self.versions):
            raise NotFound("Model", request.name)
        return registry_service_pb2.GetServedUnitsResponse(
            next=self.next_unit, active=self.active_unit, active_model_version=self.released
        )

    async def GetDatasetVersion(self, request: Any, context: Any) -> Any:
        if request.name != DATA:
            raise NotFound("DatasetVersion", request.name)
        return data_service_pb2.GetDatasetVersionResponse(dataset_version=self.dataset)

    async def AcquireDeployment(self, request: Any, context: Any) -> Any:
        _, model, number = request.model_version.rsplit("/", 2)
        name = f"projects/p/deployments/{model}-{number}-{request.model_version.split('/')[3]}"
        blank = deployment_pb2.Deployment(name=name, model_version=request.model_version)
        deployment = self.deployments.setdefault(name, blank)
        if request.holder not in deployment.holders:
            deployment.holders.append(request.holder)
        return deployment_service_pb2.AcquireDeploymentResponse(deployment=deployment)

    async def ReleaseDeployment(self, request: Any, context: Any) -> Any:
        deployment = self.deployments[request.name]
        deployment.holders.remove(request.holder)
        if not deployment.holders:
            del self.deployments[request.name]
        return deployment_service_pb2.ReleaseDeploymentResponse(deployment=deployment)

    async def ListDeployments(self, request: Any, context: Any) -> Any:
        return deployment_service_pb2.ListDeploymentsResponse(deployments=self.deployments.values())

    async def WatchDeployment(self, request: Any, context: Any) -> AsyncIterator[Any]:
        deployment = deployment_pb2.Deployment()
        deployment.CopyFrom(self.deployments[request.name])
        deployment.state = deployment_pb2.Deployment.STATE_LOADING
        yield deployment_service_pb2.WatchDeploymentResponse(deployment=deployment)
        deployment.state = deployment_pb2.Deployment.STATE_READY
        if deployment.model_version in self.refused:
            deployment.state = deployment_pb2.Deployment.STATE_FAILED
            deployment.error.CopyFrom(failure_to_proto("TRITON_REFUSED", "bad weights"))  # type: ignore[arg-type]
        yield deployment_service_pb2.WatchDeploymentResponse(deployment=deployment)
        await asyncio.Event().wait()  # Until the caller leaves, as the contract says.

    async def GenerateAnswer(self, request: Any, context: Any) -> Any:
        if not any(d.model_version == request.model for d in self.deployments.values()):
            raise NotFound("ServedModel", request.model)
        if self.away_for:
            self.away_for -= 1
            raise Unavailable("TRITON_UNAVAILABLE", "away", retry_after_s=0.01)
        self.requests.append(request)
        question, peer = request.messages[-1].content if request.messages else "", context.peer()
        answer = answer_pb2.Answer(latency=duration_to_proto(self.latency_s(question)), model_version=request.model)
        answer.usage.input_tokens, answer.usage.output_tokens = 20, 10
        if request.HasField("context"):
            answer.citations.add(number=1, text="a passage")
        if request.top_logprobs:
            assert request.sampling.max_output_tokens == 1
            answer.first_token_probabilities.add(token_id=5, logprob=math.log(0.8))
            answer.first_token_probabilities.add(token_id=6, logprob=math.log(0.1))
            return inference_service_pb2.GenerateAnswerResponse(answer=answer)
        self.asking[peer] += 1
        self.most_at_a_time = max(self.most_at_a_time, self.asking[peer])
        try:
            if sum(self.asked.values()) >= self.stop_after:
                await self.may_answer.wait()
        finally:
            self.asking[peer] -= 1
        self.asked[request.model, question] += 1
        self.by_replica.setdefault(peer, set()).add((request.model, question))
        answer.text = reference(question) if request.model not in self.dull else "this is \x00 no answer at all"
        return inference_service_pb2.GenerateAnswerResponse(answer=answer)

    async def ScoreText(self, request: Any, context: Any) -> Any:
        if not any(d.model_version == request.model for d in self.deployments.values()):
            raise NotFound("ServedModel", request.model)
        self.requests.append(request)
        scored = inference_service_pb2.ScoreTextResponse(input_tokens=1)
        for number, _ in enumerate(request.text.split()):
            scored.tokens.add(token_id=number, logprob=math.log(0.5))
        return scored

    async def StreamAnswer(self, request: Any, context: Any) -> AsyncIterator[Any]:
        wanted = inference_service_pb2.GenerateAnswerRequest.FromString(request.SerializeToString())
        answer = (await self.GenerateAnswer(wanted, context)).answer
        answer.first_token_latency.CopyFrom(duration_to_proto(0.05))
        yield inference_service_pb2.StreamAnswerResponse(delta=answer.text)
        yield inference_service_pb2.StreamAnswerResponse(answer=answer)

    async def EmbedTexts(self, request: Any, context: Any) -> Any:
        vectors = [embedding_service_pb2.Vector(values=[1.0, 0.0]) for _ in request.texts]
        return embedding_service_pb2.EmbedTextsResponse(vectors=vectors)
