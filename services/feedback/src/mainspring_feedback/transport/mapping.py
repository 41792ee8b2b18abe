"""Between feedback's domain and `mainspring.feedback.v1` and events; pure functions."""

from __future__ import annotations

from datetime import UTC, datetime

from mainspring.common.v1.chat_pb2 import ChatMessage
from mainspring.events.v1.inference_events_pb2 import ResponseCompleted
from mainspring.feedback.v1 import feedback_pb2, feedback_service_pb2
from mainspring_feedback.application.items import CreateFeedbackItem
from mainspring_feedback.application.judged import Filter, JudgedAnswer
from mainspring_feedback.application.triggers import PutTrigger
from mainspring_feedback.domain.answers import Answer, Turn
from mainspring_feedback.domain.judgements import FeedbackItem, Judgement, Kind
from mainspring_feedback.domain.triggers import RetrainingTrigger, Wishes
from mainspring_svckit.mapping import time_to_proto
from mainspring_svckit.names import ModelName, ModelVersionName
from mainspring_svckit.repository import Stored

_ROLES = {
    ChatMessage.ROLE_SYSTEM: "system",
    ChatMessage.ROLE_USER: "user",
    ChatMessage.ROLE_ASSISTANT: "assistant",
}
_PRINTED_ROLES = {role: value for value, role in _ROLES.items()}


def answer_from_event(data: ResponseCompleted, time: datetime) -> Answer:
    """Reads an answer. A conversation with roles that this release does not know is kept without content."""
    version = ModelVersionName.parse(data.model_version, "model_version")
    known = all(message.role in _ROLES for message in data.messages)
    return Answer(
        name=data.answer,
        model=str(ModelName(version.project, version.model)),
        model_version=data.model_version,
        release=data.release,
        messages=tuple(Turn(_ROLES[m.role], _storable(m.content)) for m in data.messages) if known else (),
        text=_storable(data.text),
        time=time,
    )


def item_from_proto(project: str, item_id: str, author: str, message: feedback_pb2.FeedbackItem) -> CreateFeedbackItem:
    """Reads a judgement; output-only fields are passed over."""
    return CreateFeedbackItem(
        project=project,
        item_id=item_id,
        answer=message.answer,
        judgement=_judgement_from_proto(message),
        comment=message.comment,
        author=author,
    )


def item_to_proto(item: FeedbackItem) -> feedback_pb2.FeedbackItem:
    """Prints an item."""
    message = feedback_pb2.FeedbackItem(
        name=item.name,
        answer=item.answer,
        comment=item.comment,
        author=item.author,
        model_version=item.model_version,
        create_time=time_to_proto(item.create_time),
    )
    match item.judgement.kind:
        case Kind.THUMB:
            message.thumb = bool(item.judgement.value)
        case Kind.SCORE:
            message.score = item.judgement.value
        case Kind.CORRECTION:
            message.correction = item.judgement.correction
        case Kind.PREFERENCE:
            message.preference.rejected_answer = item.judgement.rejected_answer
    return message


def judged_to_proto(judged: JudgedAnswer) -> feedback_pb2.JudgedAnswer:
    """Prints what can be learned from an answer."""
    answer, example = judged.answer, judged.example
    message = feedback_pb2.JudgedAnswer(
        answer=answer.name,
        model_version=answer.model_version,
        release=answer.release,
        messages=[ChatMessage(role=_PRINTED_ROLES[turn.role], content=turn.content) for turn in answer.messages],
        feedback_item=judged.item.name,
        answer_time=time_to_proto(answer.time),
        desirable=example.desirable,
    )
    message.messages.append(ChatMessage(role=ChatMessage.ROLE_ASSISTANT, content=example.text))
    if example.rejected:
        message.rejected = example.rejected
    return message


def filter_from_proto(request: feedback_service_pb2.ListJudgedAnswersRequest) -> Filter:
    """Reads which answers are wanted."""
    return Filter(
        request.model,
        request.model_version,
        request.release,
        request.start_time.ToDatetime(UTC) if request.HasField("start_time") else None,
        request.end_time.ToDatetime(UTC) if request.HasField("end_time") else None,
    )


def trigger_from_proto(request: feedback_service_pb2.UpdateRetrainingTriggerRequest) -> PutTrigger:
    """Reads a trigger; output-only fields are passed over."""
    message = request.retraining_trigger
    return PutTrigger(
        name=message.name,
        wishes=Wishes(message.model, message.ingestion_recipe, message.min_items, message.count_thumbs),
        etag=message.etag,
        allow_missing=request.allow_missing,
    )


def trigger_to_proto(stored: Stored[RetrainingTrigger]) -> feedback_pb2.RetrainingTrigger:
    """Prints a trigger."""
    trigger = stored.value
    return feedback_pb2.RetrainingTrigger(
        name=trigger.name,
        model=trigger.model,
        ingestion_recipe=trigger.ingestion_recipe,
        min_items=trigger.min_items,
        pending_items=trigger.pending_items,
        count_thumbs=trigger.count_thumbs,
        last_fire_time=time_to_proto(trigger.last_fire_time),
        update_time=time_to_proto(stored.update_time),
        etag=stored.etag,
    )


def _judgement_from_proto(message: feedback_pb2.FeedbackItem) -> Judgement:
    match message.WhichOneof("judgement"):
        case "thumb":
            return Judgement(Kind.THUMB, float(message.thumb))
        case "score":
            return Judgement(Kind.SCORE, message.score)
        case "correction":
            return Judgement(Kind.CORRECTION, 0.0, correction=message.correction)
        case _:
            return Judgement(Kind.PREFERENCE, 1.0, rejected_answer=message.preference.rejected_answer)


def _storable(text: str) -> str:
    """What a model said, without the NUL characters that Postgres cannot hold."""
    return text.replace("\0", "\ufffd")
