"""Between OpenAI's identifiers and resource names."""

from __future__ import annotations

from mainspring_svckit.errors import FieldViolation, InvalidInput
from mainspring_svckit.names import AnswerName, ModelName, ModelVersionName, is_id

_ANSWER_PREFIXES = ("chatcmpl-", "cmpl-")


def model_name(project: str, model: str) -> str:
    """The resource that a caller's `model` means.

    Args:
        project: The caller's project.
        model: `summarizer`, `summarizer/versions/3`, or a whole resource name.

    Raises:
        InvalidInput: It is none of these.
    """
    full = model if model.startswith("projects/") else f"projects/{project}/models/{model}"
    if ModelVersionName.matches(full) or ModelName.matches(full):
        return full
    description = "is not a model's id; GET /v1/models lists them"
    raise InvalidInput(
        f"{model[:100]!r} {description}",
        reason="MODEL_ID_INVALID",
        violations=[FieldViolation("model", description)],
    )


def model_id(name: str) -> str:
    """What callers call a model: its resource name without its project."""
    return name.split("/models/", 1)[1]


def completion_id(answer: str, *, chat: bool) -> str:
    """OpenAI's kind of id for an answer."""
    return ("chatcmpl-" if chat else "cmpl-") + AnswerName.parse(answer).answer


def answer_name(project: str, target: str) -> str:
    """The answer that a caller's id means: a completion's id, an answer's id, or a resource name.

    Raises:
        InvalidInput: It is none of these.
    """
    if AnswerName.matches(target):
        return target
    bare = target
    for prefix in _ANSWER_PREFIXES:
        bare = bare.removeprefix(prefix)
    if is_id(bare):
        return str(AnswerName(project, bare))
    description = "is not the id of an answer; send the `id` of a completion"
    raise InvalidInput(
        f"{target[:100]!r} {description}",
        reason="ANSWER_ID_INVALID",
        violations=[FieldViolation("target_id", description)],
    )
