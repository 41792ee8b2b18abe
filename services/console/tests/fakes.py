"""The services behind the console, as far as its pages ask them; what is shown is as long and as hostile as people's
and models' texts can be.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from mainspring.common.v1 import chat_pb2, progress_pb2, statistics_pb2
from mainspring.data.v1 import annotation_pb2, data_service_pb2, dataset_pb2
from mainspring.data.v1 import annotation_service_pb2 as annotation_service
from mainspring.evaluation.v1 import evaluation_service_pb2
from mainspring.evaluation.v1 import run_pb2 as evaluation_run_pb2
from mainspring.feedback.v1 import feedback_pb2, feedback_service_pb2
from mainspring.inference.v1 import answer_pb2, deployment_service_pb2, inference_service_pb2, rollout_pb2
from mainspring.registry.v1 import model_pb2, registry_service_pb2, release_pb2
from mainspring.training.v1 import run_pb2, training_service_pb2
from mainspring_svckit.errors import InvalidInput, NotFound

SERVICES = (
    "data.v1.DataService",
    "data.v1.AnnotationService",
    "training.v1.TrainingService",
    "evaluation.v1.EvaluationService",
    "registry.v1.RegistryService",
    "inference.v1.InferenceService",
    "inference.v1.DeploymentService",
    "feedback.v1.FeedbackService",
)
QUEUE = "projects/p/annotationQueues/q"
Schema, Label = annotation_pb2.LabelSchema, annotation_pb2.Label
MARKUP = "<img src=x onerror=document.title='taken'><script>document.title='taken'</script> [link](javascript:1)"
RIGHT_TO_LEFT = "\u202eהאם זה טוב؟ هل هذا جيد"
LONG = "0123456789" * 1000
TEXT = f"{MARKUP} {RIGHT_TO_LEFT} {LONG}"
# One grey dot.
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
WHEN = Timestamp(seconds=1_767_323_045)


class Queue:
    """A queue of which items are handed out in order; what people say is kept."""

    def __init__(self, schema: Any, *prompts: str, guidelines: str = "Be *kind*, <b>not</b>.", **item: Any) -> None:
        self.schema, self.waiting, self.guidelines = schema, list(prompts), guidelines
        self.item, self.said = item, list[annotation_service.SubmitAnnotationRequest]()

    @property
    def queue(self) -> annotation_pb2.AnnotationQueue:
        return annotation_pb2.AnnotationQueue(
            name=QUEUE,
            label_schema=self.schema,
            guidelines=self.guidelines,
            items=7,
            labelled_items=len(self.said),
        )

    async def ListAnnotationQueues(self, request: Any, context: Any) -> Any:
        return annotation_service.ListAnnotationQueuesResponse(annotation_queues=[self.queue])

    async def GetAnnotationQueue(self, request: Any, context: Any) -> Any:
        if request.name != QUEUE:
            raise NotFound("AnnotationQueue", request.name)
        return annotation_service.GetAnnotationQueueResponse(annotation_queue=self.queue)

    async def ClaimAnnotationItem(self, request: Any, context: Any) -> Any:
        assert request.parent == QUEUE
        if not self.waiting:
            raise NotFound("AnnotationItem", QUEUE)
        role = chat_pb2.ChatMessage.ROLE_USER
        item = annotation_pb2.AnnotationItem(
            name=f"{QUEUE}/items/{len(self.waiting)}",
            messages=[chat_pb2.ChatMessage(role=role, content=self.waiting[0])],
            **self.item,
        )
        return annotation_service.ClaimAnnotationItemResponse(annotation_item=item, expire_time=WHEN)

    async def SubmitAnnotation(self, request: Any, context: Any) -> Any:
        if request.HasField("label") and not request.label.ByteSize():
            raise InvalidInput("label: this queue wants a choice, and nothing else", reason="LABEL_INVALID")
        self.said.append(request)
        self.waiting.pop(0)
        return annotation_service.SubmitAnnotationResponse()


class Loop(Queue):
    """A project with one of everything, in which all texts are hostile; what people say is kept."""

    def __init__(self) -> None:
        super().__init__(
            Schema(choice=Schema.Choice(choices=["good", "bad"])),
            guidelines=TEXT,
            suggestion=annotation_pb2.Suggestion(label=Label(choices=["bad"]), confidence=0.75, source=MARKUP),
        )
        self.judged: list[feedback_pb2.FeedbackItem] = []
        self.revoked: list[str] = []

    async def ListCycles(self, request: Any, context: Any) -> Any:
        step = release_pb2.CycleStep(
            event_type="mainspring.data.dataset_version.published.v1",
            subject="projects/p/datasets/d/versions/1",
            time=WHEN,
        )
        cycle = release_pb2.Cycle(name="projects/p/cycles/c", steps=[step] * 3, start_time=WHEN)
        return registry_service_pb2.ListCyclesResponse(cycles=[cycle, cycle])

    async def ListDatasets(self, request: Any, context: Any) -> Any:
        return data_service_pb2.ListDatasetsResponse(datasets=[dataset_pb2.Dataset(name="projects/p/datasets/d")])

    async def ListDatasetVersions(self, request: Any, context: Any) -> Any:
        version = dataset_pb2.DatasetVersion(
            name="projects/p/datasets/d/versions/1",
            create_time=WHEN,
            root_sha256="ab" * 32,
            input_rows=1000,
            splits=[dataset_pb2.SplitCount(split=dataset_pb2.SPLIT_TRAIN, rows=900)],
            refusals=[dataset_pb2.RefusalCount(reason=dataset_pb2.REFUSAL_REASON_EMPTY, rows=7)],
        )
        return data_service_pb2.ListDatasetVersionsResponse(dataset_versions=[version])

    async def ListRefusedRows(self, request: Any, context: Any) -> Any:
        row = dataset_pb2.RefusedRow(line=7, reason=dataset_pb2.REFUSAL_REASON_EMPTY, detail=MARKUP, excerpt=TEXT)
        return data_service_pb2.ListRefusedRowsResponse(refused_rows=[row])

    async def GetDatasetReport(self, request: Any, context: Any) -> Any:
        return data_service_pb2.GetDatasetReportResponse(plot_png=PICTURE)

    def run(self) -> run_pb2.TrainingRun:
        return run_pb2.TrainingRun(
            name="projects/p/trainingRuns/r-1",
            dataset_version="projects/p/datasets/d/versions/1",
            state=run_pb2.TrainingRun.STATE_FAILED,
            progress=progress_pb2.Progress(done=40, total=100, phase="training"),
            latest_metric=run_pb2.TrainingMetric(step=40, train_loss=1.25, tokens_per_second=1234),
            error=status_pb2.Status(message=MARKUP),
        )

    async def ListTrainingRuns(self, request: Any, context: Any) -> Any:
        return training_service_pb2.ListTrainingRunsResponse(training_runs=[self.run()])

    async def WatchTrainingRun(self, request: Any, context: Any) -> AsyncIterator[Any]:
        metrics = [
            run_pb2.TrainingMetric(
                step=step, train_loss=3 / (1 + step / 10), validation_loss=None if step % 10 else 3.2 / (1 + step / 10)
            )
            for step in range(1, 41)
        ]
        yield training_service_pb2.WatchTrainingRunResponse(training_run=self.run(), metrics=metrics)

    def evaluation(self) -> evaluation_run_pb2.EvaluationRun:
        estimate = statistics_pb2.Estimate
        result = statistics_pb2.ScorerResult(
            scorer="rouge_l",
            candidate=estimate(value=0.5),
            baseline=estimate(value=0.4),
            difference=estimate(value=0.1, low=0.05, high=0.15),
            p_value=0.001,
        )
        return evaluation_run_pb2.EvaluationRun(
            name="projects/p/evaluationRuns/e-1",
            candidate="projects/p/models/m/versions/2",
            baseline="projects/p/models/m/versions/1",
            state=evaluation_run_pb2.EvaluationRun.STATE_SUCCEEDED,
            items=1,
            results=[result],
            fidelity=statistics_pb2.Fidelity(mean_kl_nats=0.001, top1_agreement=0.99, positions=100),
            error=status_pb2.Status(message=MARKUP),
        )

    async def ListEvaluationRuns(self, request: Any, context: Any) -> Any:
        return evaluation_service_pb2.ListEvaluationRunsResponse(evaluation_runs=[self.evaluation()])

    async def GetEvaluationRun(self, request: Any, context: Any) -> Any:
        return evaluation_service_pb2.GetEvaluationRunResponse(evaluation_run=self.evaluation())

    async def ListEvaluationItems(self, request: Any, context: Any) -> Any:
        item = evaluation_run_pb2.EvaluationItem(
            messages=[chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_USER, content=TEXT)],
            references=[TEXT],
            candidate_text=TEXT,
            baseline_text=TEXT,
        )
        return evaluation_service_pb2.ListEvaluationItemsResponse(evaluation_items=[item])

    async def ListModels(self, request: Any, context: Any) -> Any:
        model = model_pb2.Model(
            name="projects/p/models/m",
            aliases={"champion": "1"},
            latest_version="projects/p/models/m/versions/2",
        )
        return registry_service_pb2.ListModelsResponse(models=[model])

    async def ListReleases(self, request: Any, context: Any) -> Any:
        release = release_pb2.Release(
            name="projects/p/models/m/releases/1",
            model_version="projects/p/models/m/versions/1",
            state=release_pb2.Release.STATE_ACTIVE,
            end_reason=MARKUP,
            unit=release_pb2.ServingUnit(prompt_version="projects/p/prompts/x/versions/1"),
        )
        return registry_service_pb2.ListReleasesResponse(releases=[release])

    async def RevokeRelease(self, request: Any, context: Any) -> Any:
        self.revoked.append(request.name)
        return registry_service_pb2.RevokeReleaseResponse()

    async def ListGateDecisions(self, request: Any, context: Any) -> Any:
        rules = [
            release_pb2.RuleResult(rule="gain of rouge_l", passed=True, explanation="+0.1 [0.05, 0.15] is above 0"),
            release_pb2.RuleResult(rule="guard of bleu", explanation=TEXT),
        ]
        decision = release_pb2.GateDecision(
            model_version="projects/p/models/m/versions/2",
            outcome=release_pb2.GateDecision.OUTCOME_REFUSED,
            rules=rules,
        )
        return registry_service_pb2.ListGateDecisionsResponse(gate_decisions=[decision])

    async def ListRollouts(self, request: Any, context: Any) -> Any:
        rollout = rollout_pb2.Rollout(
            release="projects/p/models/m/releases/1",
            state=rollout_pb2.Rollout.STATE_ROLLED_BACK,
            percent=25,
            reason=MARKUP,
        )
        return deployment_service_pb2.ListRolloutsResponse(rollouts=[rollout])

    async def ListServedModels(self, request: Any, context: Any) -> Any:
        served = inference_service_pb2.ServedModel(model="projects/p/models/m")
        return inference_service_pb2.ListServedModelsResponse(served_models=[served])

    async def StreamAnswer(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for piece in (MARKUP, " ", RIGHT_TO_LEFT, " ", LONG):
            yield inference_service_pb2.StreamAnswerResponse(delta=piece)
        answer = answer_pb2.Answer(name="projects/p/answers/a-1", text=TEXT)
        yield inference_service_pb2.StreamAnswerResponse(answer=answer)

    async def CreateFeedbackItem(self, request: Any, context: Any) -> Any:
        self.judged.append(request.feedback_item)
        return feedback_service_pb2.CreateFeedbackItemResponse(feedback_item=request.feedback_item)

    async def ListFeedbackItems(self, request: Any, context: Any) -> Any:
        item: dict[str, Any] = {
            "create_time": WHEN,
            "author": "tester",
            "model_version": "projects/p/models/m/versions/1",
        }
        items = [
            feedback_pb2.FeedbackItem(thumb=True, comment=MARKUP, **item),
            feedback_pb2.FeedbackItem(correction=TEXT, **item),
            feedback_pb2.FeedbackItem(
                preference=feedback_pb2.Preference(rejected_answer="projects/p/answers/a-1"), **item
            ),
        ]
        return feedback_service_pb2.ListFeedbackItemsResponse(feedback_items=items)
