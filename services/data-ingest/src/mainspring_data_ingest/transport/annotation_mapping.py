"""Between annotation's domain and `mainspring.data.v1`; pure functions."""

from __future__ import annotations

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import annotation_pb2 as pb
from mainspring_data_ingest.application.annotations import Counts
from mainspring_data_ingest.domain.annotation import (
    DEFAULT_LEASE_S,
    DEFAULT_MAX_CHARACTERS,
    Annotation,
    AnnotationItem,
    AnnotationQueue,
    AnnotationReport,
    ItemState,
    Label,
    LabelKind,
    LabelSchema,
    Preferred,
    Selection,
    Suggestion,
)
from mainspring_svckit.mapping import time_to_proto
from mainspring_svckit.repository import Stored

_Role = chat_pb2.ChatMessage.Role


def queue_from_proto(message: pb.AnnotationQueue) -> AnnotationQueue:
    """Reads a queue; defaults are filled in."""
    selection = pb.AnnotationQueue.Selection.Name(message.selection).removeprefix("SELECTION_")
    return AnnotationQueue(
        name=message.name,
        schema=_schema_from_proto(message.label_schema),
        guidelines=message.guidelines,
        overlap=message.overlap or 1,
        lease_s=message.lease_s or DEFAULT_LEASE_S,
        gold_every=message.gold_every,
        selection=Selection.ORDER if selection == "UNSPECIFIED" else Selection(selection),
    )


def queue_to_proto(stored: Stored[AnnotationQueue], counts: Counts) -> pb.AnnotationQueue:
    """Prints a queue with its progress."""
    queue = stored.value
    return pb.AnnotationQueue(
        name=queue.name,
        label_schema=_schema_to_proto(queue.schema),
        guidelines=queue.guidelines,
        overlap=queue.overlap,
        lease_s=queue.lease_s,
        gold_every=queue.gold_every,
        selection=pb.AnnotationQueue.Selection.Value(f"SELECTION_{queue.selection.value}"),
        items=counts.items,
        labelled_items=counts.labelled,
        disputed_items=counts.disputed,
        update_time=time_to_proto(stored.update_time),
        etag=stored.etag,
    )


def label_from_proto(message: pb.Label) -> Label:
    """Reads a label."""
    preferred = pb.Label.Preferred.Name(message.preferred).removeprefix("PREFERRED_")
    return Label(
        choices=tuple(message.choices),
        rating=message.rating if message.HasField("rating") else None,
        text=message.text,
        preferred=None if preferred == "UNSPECIFIED" else Preferred(preferred),
    )


def label_to_proto(label: Label | None) -> pb.Label | None:
    """Prints a label; None stays None."""
    if label is None:
        return None
    message = pb.Label(choices=label.choices, text=label.text)
    if label.rating is not None:
        message.rating = label.rating
    if label.preferred is not None:
        message.preferred = pb.Label.Preferred.Value(f"PREFERRED_{label.preferred.value}")
    return message


def suggestion_from_proto(message: pb.Suggestion) -> Suggestion:
    """Reads what a model would answer."""
    return Suggestion(label_from_proto(message.label), message.confidence, message.source)


def item_from_proto(message: pb.AnnotationItem) -> AnnotationItem:
    """Reads an item that is to be added; its name and what is output only are passed over."""
    return AnnotationItem(
        name="",
        queue="",
        messages=tuple((_Role.Name(m.role).removeprefix("ROLE_").lower(), m.content) for m in message.messages),
        candidates=tuple(message.candidates),
        suggestion=suggestion_from_proto(message.suggestion) if message.HasField("suggestion") else None,
        gold=label_from_proto(message.gold) if message.HasField("gold") else None,
        origin=message.origin,
        synthetic=message.synthetic,
    )


def item_to_proto(item: AnnotationItem) -> pb.AnnotationItem:
    """Prints an item with all that is known of it."""
    message = _question_to_proto(item)
    message.state = pb.AnnotationItem.State.Value(f"STATE_{item.state.value}")
    message.adjudicator = item.adjudicator
    message.synthetic = item.synthetic
    message.annotations.extend(annotation_to_proto(one) for one in item.annotations)
    for field, label in (("gold", item.gold), ("label", item.label)):
        printed = label_to_proto(label)
        if printed is not None:
            getattr(message, field).CopyFrom(printed)
    return message


def question_to_proto(item: AnnotationItem) -> pb.AnnotationItem:
    """Prints an item as its annotator sees it: nothing that others said, and nothing of what would be right."""
    message = _question_to_proto(item)
    message.state = pb.AnnotationItem.STATE_OPEN
    return message


def annotation_to_proto(annotation: Annotation) -> pb.Annotation:
    """Prints somebody's word."""
    return pb.Annotation(
        annotator=annotation.annotator,
        label=label_to_proto(annotation.label),
        comment=annotation.comment,
        create_time=time_to_proto(annotation.create_time),
    )


def report_to_proto(report: AnnotationReport) -> pb.AnnotationReport:
    """Prints a report."""
    return pb.AnnotationReport(
        annotation_queue=report.queue,
        alpha=report.alpha,
        alpha_items=report.alpha_items,
        labels=report.labels,
        annotators=[
            pb.AnnotationReport.Annotator(
                annotator=one.annotator,
                labelled=one.labelled,
                skipped=one.skipped,
                gold_answered=one.gold_answered,
                gold_right=one.gold_right,
            )
            for one in report.annotators
        ],
    )


def state_from_proto(state: pb.AnnotationItem.State.ValueType) -> ItemState | None:
    """Reads a state; unspecified is None."""
    name = pb.AnnotationItem.State.Name(state).removeprefix("STATE_")
    return None if name == "UNSPECIFIED" else ItemState(name)


def _question_to_proto(item: AnnotationItem) -> pb.AnnotationItem:
    message = pb.AnnotationItem(
        name=item.name,
        messages=[
            chat_pb2.ChatMessage(role=_Role.Value(f"ROLE_{role.upper()}"), content=content)
            for role, content in item.messages
        ],
        candidates=item.candidates,
        origin=item.origin,
    )
    if item.suggestion is not None:
        message.suggestion.confidence = item.suggestion.confidence
        message.suggestion.source = item.suggestion.source
        printed = label_to_proto(item.suggestion.label)
        assert printed is not None
        message.suggestion.label.CopyFrom(printed)
    return message


def _schema_from_proto(message: pb.LabelSchema) -> LabelSchema:
    match message.WhichOneof("kind"):
        case "choice":
            return LabelSchema(LabelKind.CHOICE, choices=tuple(message.choice.choices), several=message.choice.several)
        case "rating":
            return LabelSchema(LabelKind.RATING, worst=message.rating.worst, best=message.rating.best)
        case "text":
            limit = message.text.max_characters or DEFAULT_MAX_CHARACTERS
            return LabelSchema(LabelKind.TEXT, max_characters=limit)
        case _:
            return LabelSchema(LabelKind.PREFERENCE)


def _schema_to_proto(schema: LabelSchema) -> pb.LabelSchema:
    match schema.kind:
        case LabelKind.CHOICE:
            return pb.LabelSchema(choice=pb.LabelSchema.Choice(choices=schema.choices, several=schema.several))
        case LabelKind.RATING:
            return pb.LabelSchema(rating=pb.LabelSchema.Rating(worst=schema.worst, best=schema.best))
        case LabelKind.TEXT:
            return pb.LabelSchema(text=pb.LabelSchema.Text(max_characters=schema.max_characters))
        case LabelKind.PREFERENCE:
            return pb.LabelSchema(preference=pb.LabelSchema.Preference())
