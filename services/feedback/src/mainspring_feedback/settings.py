"""Feedback's own settings."""

from __future__ import annotations

from pydantic import Field

from mainspring_svckit.settings import ServiceSettings


class FeedbackSettings(ServiceSettings):
    """What feedback needs beyond what every service needs."""

    work_lease_s: float = Field(
        30.0,
        ge=1,
        le=600,
        description="Silence after which a replica's work on a file goes to another one.",
    )
