"""Feedback's repositories on Postgres."""

from __future__ import annotations

from mainspring_feedback.application.triggers import lesson_key
from mainspring_feedback.domain.answers import Answer
from mainspring_feedback.domain.judgements import FeedbackItem, JudgedModel, Lesson
from mainspring_feedback.domain.triggers import RetrainingTrigger
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import project_name_of


def answers(database: Database) -> Documents[Answer]:
    """Answers, newest first; their ids go by time."""
    return Documents(
        database,
        "answer",
        Answer,
        parent=lambda a: project_name_of(a.name),
        sort_key=lambda a: a.name,
        newest_first=True,
    )


def items(database: Database) -> Documents[FeedbackItem]:
    """Feedback items, newest first; their ids go by time."""
    return Documents(
        database,
        "feedback_item",
        FeedbackItem,
        parent=lambda i: project_name_of(i.name),
        sort_key=lambda i: i.name,
        newest_first=True,
    )


def lessons(database: Database) -> Documents[Lesson]:
    """Lessons of a model, by number."""
    return Documents(database, "lesson", Lesson, parent=lambda i: i.model, sort_key=lambda i: lesson_key(i.number))


def judged_models(database: Database) -> Documents[JudgedModel]:
    """Counts of lessons, by model."""
    return Documents(
        database, "judged_model", JudgedModel, parent=lambda m: project_name_of(m.name), sort_key=lambda m: m.name
    )


def triggers(database: Database) -> Documents[RetrainingTrigger]:
    """Triggers, listed by name."""
    return Documents(
        database,
        "retraining_trigger",
        RetrainingTrigger,
        parent=lambda t: project_name_of(t.name),
        sort_key=lambda t: t.name,
    )
