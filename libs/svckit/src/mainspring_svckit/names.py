"""Resource names: the one place where they are put together and taken apart.

A name is a typed value; `str()` prints it and `parse` reads it. Nobody else splits on `/`. An id is 1 to 63 lower-case
letters, digits and hyphens, beginning and ending with a letter or digit; UUIDs are ids.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from mainspring_svckit.errors import FieldViolation, InvalidInput

_ID = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ID_PATTERN = re.compile(_ID)
_SHA256 = r"[0-9a-f]{64}"


def is_id(text: str) -> bool:
    """Whether `text` may be one part of a resource name."""
    return _ID_PATTERN.fullmatch(text) is not None


@dataclass(frozen=True)
class ResourceName:
    """Base of all names; a subclass declares its template and a field for each placeholder in it."""

    template: ClassVar[str]
    _pattern: ClassVar[re.Pattern[str]]

    project: str

    def __init_subclass__(cls) -> None:
        template = cls.template.replace("{sha256}", rf"(?P<sha256>{_SHA256})")
        cls._pattern = re.compile(re.sub(r"\{([a-z_]+)\}", rf"(?P<\1>{_ID})", template))

    def __post_init__(self) -> None:
        for field in fields(self):
            part = _SHA256 if field.name == "sha256" else _ID
            if re.fullmatch(part, getattr(self, field.name)) is None:
                raise _bad_name(str(self), self.template)

    def __str__(self) -> str:
        return self.template.format(**{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def parse(cls, text: str, field: str = "name") -> Self:
        """Reads a name.

        Raises:
            InvalidInput: `text` is not a name of this kind; the violation names `field`.
        """
        match = cls._pattern.fullmatch(text)
        if match is None:
            raise _bad_name(text, cls.template, field)
        return cls(**match.groupdict())

    @classmethod
    def matches(cls, text: str) -> bool:
        """Whether `text` is a name of this kind."""
        return cls._pattern.fullmatch(text) is not None


def _bad_name(text: str, template: str, field: str = "name") -> InvalidInput:
    shown = text if len(text) <= 200 else text[:200] + "..."
    description = f"{shown!r} is not of the form {template}, with ids of lower-case letters, digits and hyphens"
    return InvalidInput(f"{field}: {description}", violations=[FieldViolation(field, description)])


def project_of(name: str) -> str | None:
    """The project that a resource name belongs to, or None when `name` is no resource name."""
    head, _, rest = name.partition("/")
    project = rest.split("/", 1)[0]
    return project if head == "projects" and is_id(project) else None


@dataclass(frozen=True)
class ProjectName(ResourceName):
    """A project: the boundary of tenancy."""

    template: ClassVar[str] = "projects/{project}"


def project_name_of(name: str) -> str:
    """The resource name of the project that a resource belongs to: `projects/p`.

    Raises:
        ValueError: `name` is no resource name.
    """
    project = project_of(name)
    if project is None:
        raise ValueError(f"{name!r} is no resource name")
    return str(ProjectName(project))


@dataclass(frozen=True)
class DatasetName(ResourceName):
    """A dataset."""

    template: ClassVar[str] = "projects/{project}/datasets/{dataset}"
    dataset: str


@dataclass(frozen=True)
class DatasetVersionName(ResourceName):
    """A dataset version."""

    template: ClassVar[str] = "projects/{project}/datasets/{dataset}/versions/{version}"
    dataset: str
    version: str


@dataclass(frozen=True)
class SourceName(ResourceName):
    """A file that dataset versions were read from, by its digest."""

    template: ClassVar[str] = "projects/{project}/sources/{sha256}"
    sha256: str


@dataclass(frozen=True)
class ErasureName(ResourceName):
    """An erasure."""

    template: ClassVar[str] = "projects/{project}/erasures/{erasure}"
    erasure: str


@dataclass(frozen=True)
class IngestionRecipeName(ResourceName):
    """An ingestion recipe."""

    template: ClassVar[str] = "projects/{project}/ingestionRecipes/{recipe}"
    recipe: str


@dataclass(frozen=True)
class IngestionRecipeVersionName(ResourceName):
    """An ingestion recipe's version."""

    template: ClassVar[str] = "projects/{project}/ingestionRecipes/{recipe}/versions/{version}"
    recipe: str
    version: str


@dataclass(frozen=True)
class IngestionName(ResourceName):
    """An ingestion."""

    template: ClassVar[str] = "projects/{project}/ingestions/{ingestion}"
    ingestion: str


@dataclass(frozen=True)
class AnnotationQueueName(ResourceName):
    """A queue of items that people label."""

    template: ClassVar[str] = "projects/{project}/annotationQueues/{queue}"
    queue: str


@dataclass(frozen=True)
class AnnotationItemName(ResourceName):
    """An item of an annotation queue."""

    template: ClassVar[str] = "projects/{project}/annotationQueues/{queue}/items/{item}"
    queue: str
    item: str


@dataclass(frozen=True)
class TuningRecipeName(ResourceName):
    """A tuning recipe."""

    template: ClassVar[str] = "projects/{project}/tuningRecipes/{recipe}"
    recipe: str


@dataclass(frozen=True)
class TrainingRunName(ResourceName):
    """A training run."""

    template: ClassVar[str] = "projects/{project}/trainingRuns/{run}"
    run: str


@dataclass(frozen=True)
class StudyName(ResourceName):
    """A study of tuning settings."""

    template: ClassVar[str] = "projects/{project}/studies/{study}"
    study: str


@dataclass(frozen=True)
class StudyTrialName(ResourceName):
    """A trial of a study."""

    template: ClassVar[str] = "projects/{project}/studies/{study}/trials/{trial}"
    study: str
    trial: str


@dataclass(frozen=True)
class EvaluationSuiteName(ResourceName):
    """An evaluation suite."""

    template: ClassVar[str] = "projects/{project}/evaluationSuites/{suite}"
    suite: str


@dataclass(frozen=True)
class EvaluationRunName(ResourceName):
    """An evaluation run."""

    template: ClassVar[str] = "projects/{project}/evaluationRuns/{run}"
    run: str


@dataclass(frozen=True)
class DriftMonitorName(ResourceName):
    """A drift monitor."""

    template: ClassVar[str] = "projects/{project}/driftMonitors/{monitor}"
    monitor: str


@dataclass(frozen=True)
class ModelName(ResourceName):
    """A model."""

    template: ClassVar[str] = "projects/{project}/models/{model}"
    model: str


@dataclass(frozen=True)
class ModelVersionName(ResourceName):
    """A model version."""

    template: ClassVar[str] = "projects/{project}/models/{model}/versions/{version}"
    model: str
    version: str


@dataclass(frozen=True)
class ModelAliasName(ResourceName):
    """An alias of a model; it points to a version."""

    template: ClassVar[str] = "projects/{project}/models/{model}@{alias}"
    model: str
    alias: str


@dataclass(frozen=True)
class ModelImportName(ResourceName):
    """A model import."""

    template: ClassVar[str] = "projects/{project}/modelImports/{model_import}"
    model_import: str


@dataclass(frozen=True)
class QuantizationName(ResourceName):
    """A quantization."""

    template: ClassVar[str] = "projects/{project}/quantizations/{quantization}"
    quantization: str


@dataclass(frozen=True)
class MergeName(ResourceName):
    """A merge of adapters."""

    template: ClassVar[str] = "projects/{project}/merges/{merge}"
    merge: str


@dataclass(frozen=True)
class ReleasePolicyName(ResourceName):
    """A release policy."""

    template: ClassVar[str] = "projects/{project}/releasePolicies/{policy}"
    policy: str


@dataclass(frozen=True)
class GateDecisionName(ResourceName):
    """A gate decision."""

    template: ClassVar[str] = "projects/{project}/models/{model}/gateDecisions/{decision}"
    model: str
    decision: str


@dataclass(frozen=True)
class ReleaseName(ResourceName):
    """A release."""

    template: ClassVar[str] = "projects/{project}/models/{model}/releases/{release}"
    model: str
    release: str


@dataclass(frozen=True)
class ApprovalName(ResourceName):
    """An approval of a model version."""

    template: ClassVar[str] = "projects/{project}/models/{model}/approvals/{approval}"
    model: str
    approval: str


@dataclass(frozen=True)
class HistoryEntryName(ResourceName):
    """One thing that happened to a model."""

    template: ClassVar[str] = "projects/{project}/models/{model}/history/{entry}"
    model: str
    entry: str


@dataclass(frozen=True)
class PromptName(ResourceName):
    """A prompt."""

    template: ClassVar[str] = "projects/{project}/prompts/{prompt}"
    prompt: str


@dataclass(frozen=True)
class PromptVersionName(ResourceName):
    """A prompt's version."""

    template: ClassVar[str] = "projects/{project}/prompts/{prompt}/versions/{version}"
    prompt: str
    version: str


@dataclass(frozen=True)
class PromptLabelName(ResourceName):
    """A label of a prompt; it points to a version."""

    template: ClassVar[str] = "projects/{project}/prompts/{prompt}@{label}"
    prompt: str
    label: str


@dataclass(frozen=True)
class GuardPolicyName(ResourceName):
    """A guard policy."""

    template: ClassVar[str] = "projects/{project}/guardPolicies/{guard_policy}"
    guard_policy: str


@dataclass(frozen=True)
class GuardPolicyVersionName(ResourceName):
    """A guard policy's version."""

    template: ClassVar[str] = "projects/{project}/guardPolicies/{guard_policy}/versions/{version}"
    guard_policy: str
    version: str


@dataclass(frozen=True)
class GuardPolicyLabelName(ResourceName):
    """A label of a guard policy; it points to a version."""

    template: ClassVar[str] = "projects/{project}/guardPolicies/{guard_policy}@{label}"
    guard_policy: str
    label: str


@dataclass(frozen=True)
class CycleName(ResourceName):
    """A turn of the loop."""

    template: ClassVar[str] = "projects/{project}/cycles/{cycle}"
    cycle: str


@dataclass(frozen=True)
class WebhookEndpointName(ResourceName):
    """A webhook endpoint."""

    template: ClassVar[str] = "projects/{project}/webhookEndpoints/{endpoint}"
    endpoint: str


@dataclass(frozen=True)
class WebhookDeliveryName(ResourceName):
    """A delivery of an event to a webhook endpoint."""

    template: ClassVar[str] = "projects/{project}/webhookEndpoints/{endpoint}/deliveries/{delivery}"
    endpoint: str
    delivery: str


@dataclass(frozen=True)
class CollectionName(ResourceName):
    """A collection of documents."""

    template: ClassVar[str] = "projects/{project}/collections/{collection}"
    collection: str


@dataclass(frozen=True)
class IndexBuildName(ResourceName):
    """An index build."""

    template: ClassVar[str] = "projects/{project}/collections/{collection}/indexBuilds/{build}"
    collection: str
    build: str


@dataclass(frozen=True)
class DeploymentName(ResourceName):
    """A deployment."""

    template: ClassVar[str] = "projects/{project}/deployments/{deployment}"
    deployment: str


@dataclass(frozen=True)
class RolloutPolicyName(ResourceName):
    """A roll-out policy."""

    template: ClassVar[str] = "projects/{project}/rolloutPolicies/{policy}"
    policy: str


@dataclass(frozen=True)
class RolloutName(ResourceName):
    """A roll-out."""

    template: ClassVar[str] = "projects/{project}/rollouts/{rollout}"
    rollout: str


@dataclass(frozen=True)
class AnswerName(ResourceName):
    """An answer."""

    template: ClassVar[str] = "projects/{project}/answers/{answer}"
    answer: str


@dataclass(frozen=True)
class FeedbackItemName(ResourceName):
    """A feedback item."""

    template: ClassVar[str] = "projects/{project}/feedbackItems/{item}"
    item: str


@dataclass(frozen=True)
class RetrainingTriggerName(ResourceName):
    """A retraining trigger."""

    template: ClassVar[str] = "projects/{project}/retrainingTriggers/{trigger}"
    trigger: str
