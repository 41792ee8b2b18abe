"""The registry's repositories on Postgres."""

from __future__ import annotations

from mainspring_registry.domain.catalogue import Model, ModelVersion
from mainspring_registry.domain.cycles import Cycle
from mainspring_registry.domain.gate import GateDecision, ReleasePolicy
from mainspring_registry.domain.imports import ModelImport
from mainspring_registry.domain.quantizations import Quantization
from mainspring_registry.domain.releases import Release
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import CycleName, GateDecisionName, project_name_of


def _padded(number: int | str) -> str:
    return f"{int(number):012}"


def models(database: Database) -> Documents[Model]:
    """Models, listed by name."""
    return Documents(database, "model", Model, parent=lambda m: project_name_of(m.name), sort_key=lambda m: m.name)


def versions(database: Database) -> Documents[ModelVersion]:
    """Versions of a model, newest first."""
    return Documents(
        database,
        "model_version",
        ModelVersion,
        parent=lambda v: v.model,
        sort_key=lambda v: _padded(v.number),
        newest_first=True,
    )


def imports(database: Database) -> Documents[ModelImport]:
    """Imports, newest first; their ids go by time."""
    return Documents(
        database,
        "model_import",
        ModelImport,
        parent=lambda i: project_name_of(i.name),
        sort_key=lambda i: i.name,
        newest_first=True,
    )


def quantizations(database: Database) -> Documents[Quantization]:
    """Quantizations, newest first; their ids go by time."""
    return Documents(
        database,
        "quantization",
        Quantization,
        parent=lambda q: project_name_of(q.name),
        sort_key=lambda q: q.name,
        newest_first=True,
    )


def policies(database: Database) -> Documents[ReleasePolicy]:
    """Policies, listed by name."""
    return Documents(
        database, "release_policy", ReleasePolicy, parent=lambda p: project_name_of(p.name), sort_key=lambda p: p.name
    )


def decisions(database: Database) -> Documents[GateDecision]:
    """Decisions on a model, newest first."""
    return Documents(
        database,
        "gate_decision",
        GateDecision,
        parent=lambda d: d.model,
        sort_key=lambda d: _padded(GateDecisionName.parse(d.name).decision),
        newest_first=True,
    )


def releases(database: Database) -> Documents[Release]:
    """Releases of a model, newest first."""
    return Documents(
        database,
        "release",
        Release,
        parent=lambda r: r.model,
        sort_key=lambda r: _padded(r.number),
        newest_first=True,
    )


def cycles(database: Database) -> Documents[Cycle]:
    """Turns of the loop, newest first; their ids go by time."""
    return Documents(
        database,
        "cycle",
        Cycle,
        parent=lambda c: project_name_of(c.name),
        sort_key=lambda c: CycleName.parse(c.name).cycle,
        newest_first=True,
    )
