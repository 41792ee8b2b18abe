"""Inference's repositories on Postgres."""

from __future__ import annotations

from mainspring_inference.domain.deployments import Deployment
from mainspring_inference.domain.rollouts import Rollout, RolloutPolicy, Traffic
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import ProjectName, project_of


def _project(name: str) -> str:
    project = project_of(name)
    assert project is not None
    return str(ProjectName(project))


def deployments(database: Database) -> Documents[Deployment]:
    """Deployments, listed by name."""
    return Documents(database, "deployment", Deployment, parent=lambda d: _project(d.name), sort_key=lambda d: d.name)


def policies(database: Database) -> Documents[RolloutPolicy]:
    """Policies, listed by name."""
    return Documents(
        database, "rollout_policy", RolloutPolicy, parent=lambda p: _project(p.name), sort_key=lambda p: p.name
    )


def rollouts(database: Database) -> Documents[Rollout]:
    """Roll-outs, newest first."""
    return Documents(
        database,
        "rollout",
        Rollout,
        parent=lambda r: _project(r.name),
        sort_key=lambda r: f"{r.create_time.timestamp():020.6f} {r.name}",
        newest_first=True,
    )


def traffic(database: Database) -> Documents[Traffic]:
    """Who gets the traffic, by model."""
    return Documents(database, "traffic", Traffic, parent=lambda t: _project(t.name), sort_key=lambda t: t.name)
