"""Between inference's domain and `mainspring.inference.v1`; pure functions."""

from __future__ import annotations

from mainspring.common.v1 import chat_pb2
from mainspring.inference.v1 import answer_pb2, deployment_pb2, inference_service_pb2, rollout_pb2
from mainspring_answers.domain import (
    DEFAULT_TOP_K,
    Answer,
    ContextWish,
    Question,
    RoutingTable,
    SamplingWish,
    Scored,
)
from mainspring_inference.domain.deployments import Deployment
from mainspring_inference.domain.rollouts import DEFAULT_MAX_ERROR_RATE, Rollout, RolloutPolicy
from mainspring_svckit.auth import Principal
from mainspring_svckit.mapping import (
    duration_to_proto,
    failure_to_proto,
    messages_from_proto,
    time_to_proto,
    unit_from_proto,
)
from mainspring_svckit.names import ProjectName
from mainspring_svckit.repository import Stored
from mainspring_svckit.values import ServedUnit

_SAYS_UNITS = "releaser"
AnswerRequest = inference_service_pb2.GenerateAnswerRequest | inference_service_pb2.StreamAnswerRequest


def question_from_proto(request: AnswerRequest, caller: Principal) -> Question:
    """Reads what was asked, with defaults for what is not set.

    Raises:
        PermissionDenied: The caller may not say what goes with a version.
    """
    return Question(
        project=ProjectName.parse(request.parent, "parent").project,
        model=request.model,
        caller=caller.subject,
        messages=messages_from_proto(request.messages),
        raw_prompt=request.raw_prompt,
        sampling=_sampling_from_proto(request.sampling),
        context=_context_from_proto(request),
        session=request.session,
        top_logprobs=request.top_logprobs,
        unit=_unit_from_proto(request, caller),
    )


def scored_from_proto(request: inference_service_pb2.ScoreTextRequest, caller: Principal) -> Question:
    """Reads what stands before a text that is scored; raises as `question_from_proto`."""
    return Question(
        project=ProjectName.parse(request.parent, "parent").project,
        model=request.model,
        caller=caller.subject,
        messages=messages_from_proto(request.messages),
        raw_prompt=request.raw_prompt,
        context=_context_from_proto(request),
        unit=_unit_from_proto(request, caller),
    )


def _context_from_proto(request: AnswerRequest | inference_service_pb2.ScoreTextRequest) -> ContextWish | None:
    if not request.HasField("context"):
        return None
    return ContextWish(request.context.collection, request.context.top_k or DEFAULT_TOP_K)


def _unit_from_proto(
    request: AnswerRequest | inference_service_pb2.ScoreTextRequest, caller: Principal
) -> ServedUnit | None:
    if not request.HasField("unit"):
        return None
    caller.require(_SAYS_UNITS)  # A unit of one's own stands in the place of the release's guard.
    return unit_from_proto(request.unit)


def scored_to_proto(scored: Scored) -> inference_service_pb2.ScoreTextResponse:
    """Prints a text's probabilities."""
    return inference_service_pb2.ScoreTextResponse(
        tokens=[answer_pb2.TokenProbability(token_id=token, logprob=logprob) for token, logprob in scored.tokens],
        input_tokens=scored.input_tokens,
    )


def answer_to_proto(answer: Answer) -> answer_pb2.Answer:
    """Prints an answer."""
    message = answer_pb2.Answer(
        name=answer.name,
        text=answer.text,
        finish_reason=answer_pb2.FinishReason.Value(f"FINISH_REASON_{answer.finish_reason.value}"),
        model_version=answer.model_version,
        release=answer.release,
        usage=chat_pb2.TokenUsage(input_tokens=answer.input_tokens, output_tokens=answer.output_tokens),
        create_time=time_to_proto(answer.create_time),
        first_token_latency=duration_to_proto(answer.first_token_latency_s),
        latency=duration_to_proto(answer.latency_s),
        prompt_version=answer.prompt_version,
        guard_policy_version=answer.guard_policy_version,
        guard_rules=answer.guard_rules,
    )
    for citation in answer.citations:
        passage = citation.passage
        message.citations.add(
            number=citation.number,
            document_id=passage.document_id,
            title=passage.title,
            uri=passage.uri,
            text=passage.text,
            score=passage.score,
        )
    for token_id, logprob in answer.first_token_logprobs:
        message.first_token_probabilities.add(token_id=token_id, logprob=logprob)
    return message


def served_to_proto(table: RoutingTable) -> inference_service_pb2.ServedModel:
    """Prints a model that can be called now."""
    route = table.main_route
    assert route is not None, "a model without routes is not served"
    return inference_service_pb2.ServedModel(
        model=table.model, model_version=route.model_version, release=route.release
    )


def deployment_to_proto(deployment: Deployment) -> deployment_pb2.Deployment:
    """Prints a deployment."""
    return deployment_pb2.Deployment(
        name=deployment.name,
        model_version=deployment.model_version,
        state=deployment_pb2.Deployment.State.Value(f"STATE_{deployment.state.value}"),
        holders=deployment.holders,
        triton_model=deployment.triton_model,
        error=failure_to_proto(deployment.error_reason, deployment.error_message),
        create_time=time_to_proto(deployment.create_time),
        ready_time=time_to_proto(deployment.ready_time),
    )


def policy_from_proto(message: rollout_pb2.RolloutPolicy) -> RolloutPolicy:
    """Reads a policy, with defaults for what is not set."""
    return RolloutPolicy(
        name=message.name,
        model=message.model,
        step_percents=tuple(message.step_percents) or (100,),
        min_answers=message.min_answers,
        max_step_wait_s=message.max_step_wait.ToNanoseconds() / 1e9,
        max_error_rate=message.max_error_rate or DEFAULT_MAX_ERROR_RATE,
    )


def policy_to_proto(stored: Stored[RolloutPolicy]) -> rollout_pb2.RolloutPolicy:
    """Prints a policy."""
    policy = stored.value
    return rollout_pb2.RolloutPolicy(
        name=policy.name,
        model=policy.model,
        step_percents=policy.step_percents,
        min_answers=policy.min_answers,
        max_step_wait=duration_to_proto(policy.max_step_wait_s) if policy.max_step_wait_s else None,
        max_error_rate=policy.max_error_rate,
        update_time=time_to_proto(stored.update_time),
        etag=stored.etag,
    )


def rollout_to_proto(rollout: Rollout) -> rollout_pb2.Rollout:
    """Prints a roll-out."""
    return rollout_pb2.Rollout(
        name=rollout.name,
        release=rollout.release,
        model_version=rollout.model_version,
        state=rollout_pb2.Rollout.State.Value(f"STATE_{rollout.state.value}"),
        percent=rollout.percent,
        step_answers=rollout.step_answers,
        step_errors=rollout.step_errors,
        reason=rollout.reason,
        cycle=rollout.cycle,
        create_time=time_to_proto(rollout.create_time),
        end_time=time_to_proto(rollout.end_time),
    )


def _sampling_from_proto(message: answer_pb2.SamplingParameters) -> SamplingWish:
    return SamplingWish(
        max_output_tokens=message.max_output_tokens or None,
        temperature=message.temperature if message.HasField("temperature") else None,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
    )
