"""The registry's repositories on Postgres."""

from __future__ import annotations

from mainspring_registry.domain.approvals import Approval
from mainspring_registry.domain.catalogue import Model, ModelQuery, ModelVersion
from mainspring_registry.domain.cycles import Cycle
from mainspring_registry.domain.gate import EvidenceRecord, GateDecision
from mainspring_registry.domain.guards import GuardPolicy, GuardPolicyVersion
from mainspring_registry.domain.history import HistoryEntry
from mainspring_registry.domain.imports import ModelImport
from mainspring_registry.domain.merges import Merge
from mainspring_registry.domain.policies import ReleasePolicy
from mainspring_registry.domain.prompts import Prompt, PromptVersion
from mainspring_registry.domain.quantizations import Quantization
from mainspring_registry.domain.releases import Release
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import CycleName, GateDecisionName, project_name_of
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Listed


def _padded(number: int | str) -> str:
    return f"{int(number):012}"


_SAID = "split_part(name, '/', 4) || ' ' || coalesce(body ->> 'description', '')"


class PostgresModels(Documents[Model]):
    """`Models`, listed by name."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "model", Model, parent=lambda m: project_name_of(m.name), sort_key=lambda m: m.name)

    async def search(self, parent: str, query: ModelQuery, page: Page) -> Listed[Model]:
        key, sign, value = query.tag.partition("=")
        conditions = {
            "kind": ("body ->> 'kind' = :kind", query.kind.value if query.kind is not None else None),
            "tag": ("body -> 'tags' ->> :tag IS NOT NULL", key or None),
            "value": ("body -> 'tags' ->> :tag = :value", value if sign else None),
            "text": (f"strpos(lower({_SAID}), :text) > 0", query.text.lower() or None),
        }
        given = {name: (condition, bound) for name, (condition, bound) in conditions.items() if bound is not None}
        where = "".join(f" AND {condition}" for condition, _ in given.values())
        return await self.page(parent, page, where, **{name: bound for name, (_, bound) in given.items()})


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


def merges(database: Database) -> Documents[Merge]:
    """Merges, newest first; their ids go by time."""
    return Documents(
        database,
        "merge",
        Merge,
        parent=lambda m: project_name_of(m.name),
        sort_key=lambda m: m.name,
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


def evidence(database: Database) -> Documents[EvidenceRecord]:
    """Evidence for a version."""
    return Documents(database, "evidence", EvidenceRecord, parent=lambda e: e.model_version, sort_key=lambda e: e.name)


def approvals(database: Database) -> Documents[Approval]:
    """Approvals of a model's versions, newest first; their ids go by time."""
    return Documents(
        database, "approval", Approval, parent=lambda a: a.model, sort_key=lambda a: a.name, newest_first=True
    )


def history(database: Database) -> Documents[HistoryEntry]:
    """What happened to a model, oldest first."""
    return Documents(database, "history", HistoryEntry, parent=lambda h: h.model, sort_key=lambda h: _padded(h.number))


def prompts(database: Database) -> Documents[Prompt]:
    """Prompts, listed by name."""
    return Documents(database, "prompt", Prompt, parent=lambda p: project_name_of(p.name), sort_key=lambda p: p.name)


def prompt_versions(database: Database) -> Documents[PromptVersion]:
    """Versions of a prompt, newest first."""
    return Documents(
        database,
        "prompt_version",
        PromptVersion,
        parent=lambda v: v.prompt,
        sort_key=lambda v: _padded(v.number),
        newest_first=True,
    )


def guards(database: Database) -> Documents[GuardPolicy]:
    """Guard policies, listed by name."""
    return Documents(
        database, "guard_policy", GuardPolicy, parent=lambda g: project_name_of(g.name), sort_key=lambda g: g.name
    )


def guard_versions(database: Database) -> Documents[GuardPolicyVersion]:
    """Versions of a guard policy, newest first."""
    return Documents(
        database,
        "guard_policy_version",
        GuardPolicyVersion,
        parent=lambda v: v.guard_policy,
        sort_key=lambda v: _padded(v.number),
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
