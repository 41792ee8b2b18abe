"""Inference's repositories on Postgres."""

from __future__ import annotations

from mainspring_inference.domain.deployments import Deployment
from mainspring_inference.domain.rollouts import Rollout, RolloutPolicy, Traffic
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import project_name_of


def deployments(database: Database) -> Documents[Deployment]:
    """Deployments, listed by name."""
    return Documents(
        database, "deployment", Deployment, parent=lambda d: project_name_of(d.name), sort_key=lambda d: d.name
    )


def policies(database: Database) -> Documents[RolloutPolicy]:
    """Policies, listed by name."""
    return Documents(
        database, "rollout_policy", RolloutPolicy, parent=lambda p: project_name_of(p.name), sort_key=lambda p: p.name
    )


def rollouts(database: Database) -> Documents[Rollout]:
    """Roll-outs, newest first."""
    return Documents(
        database,
        "rollout",
        Rollout,
        parent=lambda r: project_name_of(r.name),
        sort_key=lambda r: f"{r.create_time.timestamp():020.6f} {r.name}",
        newest_first=True,
    )


def traffic(database: Database) -> Documents[Traffic]:
    """Who gets the traffic, by model."""
    return Documents(database, "traffic", Traffic, parent=lambda t: project_name_of(t.name), sort_key=lambda t: t.name)
