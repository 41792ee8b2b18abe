"""What was made from what: the edges of a graph from data and bases down to answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mainspring_registry.domain.approvals import Approval
from mainspring_registry.domain.catalogue import Lineage, ModelVersion
from mainspring_registry.domain.data import DatasetFacts
from mainspring_registry.domain.gate import GateDecision
from mainspring_registry.domain.releases import Release
from mainspring_svckit.names import DatasetVersionName

DEFAULT_HOPS = 32
MAX_HOPS = 64
MAX_NODES = 5000


class Relation(StrEnum):
    """What part a source had in its target."""

    TRAINED_ON = "TRAINED_ON"
    CONFIGURED_BY = "CONFIGURED_BY"
    BASED_ON = "BASED_ON"
    CONTINUED_FROM = "CONTINUED_FROM"
    PRODUCED_BY = "PRODUCED_BY"
    IMPORTED_BY = "IMPORTED_BY"
    MEASURED = "MEASURED"
    COMPARED_WITH = "COMPARED_WITH"
    ASKED_FROM = "ASKED_FROM"
    DECIDED_ON = "DECIDED_ON"
    ALLOWED_BY = "ALLOWED_BY"
    RELEASES = "RELEASES"
    SERVED_BY = "SERVED_BY"
    ANSWERED_BY = "ANSWERED_BY"
    QUANTIZED_FROM = "QUANTIZED_FROM"
    APPROVED_BY = "APPROVED_BY"
    PROMPTED_BY = "PROMPTED_BY"
    CONTEXT_FROM = "CONTEXT_FROM"
    MERGED_FROM = "MERGED_FROM"
    READ_FROM = "READ_FROM"
    INGESTED_BY = "INGESTED_BY"
    REFINED_BY = "REFINED_BY"
    SUPERSEDES = "SUPERSEDES"
    GUARDED_BY = "GUARDED_BY"
    APPROVES = "APPROVES"
    JUDGED_BY = "JUDGED_BY"


SHOWN_ONLY = (Relation.COMPARED_WITH, Relation.ASKED_FROM, Relation.JUDGED_BY, Relation.SUPERSEDES)
"""A walk shows what they lead to and goes no further: a champion that somebody was compared with, or a model that
judged, is not what they were made from, a model that was asked a dataset's questions did not learn from it, and what
learned from what an erasure left did not learn from what it removed."""
_ORIGINS = (Relation.READ_FROM, Relation.INGESTED_BY, Relation.REFINED_BY)
NEVER_DOWNSTREAM = (Relation.SERVED_BY, Relation.ANSWERED_BY)
"""Answers are without number; from them one walks upstream."""


class Direction(StrEnum):
    """Where a walk goes."""

    UPSTREAM = "UPSTREAM"
    DOWNSTREAM = "DOWNSTREAM"


@dataclass(frozen=True)
class Edge:
    """`source` had a part in `target`."""

    source: str
    target: str
    relation: Relation


@dataclass(frozen=True)
class Node:
    """Something that a walk found, and how far away."""

    name: str
    hops: int


@dataclass(frozen=True)
class Walk:
    """What a walk found: nodes nearest first, the edges between them, and whether there is more."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    truncated: bool

    def learned_from(self) -> tuple[str, ...]:
        """Dataset versions with which it begins or from which something on it was made; nearest first."""
        made_from = {edge.source for edge in self.edges if edge.relation is Relation.TRAINED_ON}
        return tuple(
            node.name
            for node in self.nodes
            if DatasetVersionName.matches(node.name) and (not node.hops or node.name in made_from)
        )

    def of_unknown_origin(self, max_hops: int) -> tuple[str, ...]:
        """Those of `learned_from` whose making the graph does not know, though the walk looked for it."""
        known = {edge.target for edge in self.edges if edge.relation in _ORIGINS}
        near = {node.name for node in self.nodes if node.hops < max_hops}
        return tuple(name for name in self.learned_from() if name in near and name not in known)


def edges_of_dataset(facts: DatasetFacts) -> tuple[Edge, ...]:
    """What a dataset version was made of; rows are no nodes, for there are millions."""
    return _known(
        *(Edge(source.name, facts.version, Relation.READ_FROM) for source in facts.sources),
        Edge(facts.ingestion, facts.version, Relation.INGESTED_BY),
        Edge(facts.recipe, facts.version, Relation.REFINED_BY),
        Edge(facts.recipe_version, facts.version, Relation.REFINED_BY),
        Edge(facts.supersedes, facts.version, Relation.SUPERSEDES),
    )


def edges_of_version(version: ModelVersion, tuning_recipe: str = "") -> tuple[Edge, ...]:
    """How a version came to be, its run included."""
    made: Lineage = version.lineage
    run, name = made.training_run, version.name
    if made.quantized_from:
        # What its source learned from, the source says.
        return _known(
            Edge(made.quantized_from, name, Relation.QUANTIZED_FROM),
            Edge(version.base_model_version, name, Relation.BASED_ON),
        )
    if made.merged_from:
        return _known(
            *(Edge(source, name, Relation.MERGED_FROM) for source in made.merged_from),
            Edge(version.base_model_version, name, Relation.BASED_ON),
        )
    return _known(
        Edge(made.dataset_version, run or name, Relation.TRAINED_ON),
        Edge(tuning_recipe, run or name, Relation.CONFIGURED_BY),
        Edge(made.parent_model_version, run or name, Relation.CONTINUED_FROM),
        Edge(run, name, Relation.PRODUCED_BY),
        Edge(made.model_import, name, Relation.IMPORTED_BY),
        Edge(version.base_model_version, name, Relation.BASED_ON),
    )


def edges_of_evaluation(
    run: str, candidate: str, baseline: str, dataset_version: str, judges: Sequence[str] = ()
) -> tuple[Edge, ...]:
    """What an evaluation run looked at, and who judged."""
    return _known(
        Edge(candidate, run, Relation.MEASURED),
        Edge(baseline, run, Relation.COMPARED_WITH),
        Edge(dataset_version, run, Relation.ASKED_FROM),
        *(Edge(judge, run, Relation.JUDGED_BY) for judge in judges),
    )


def edges_of_approval(approval: Approval) -> tuple[Edge, ...]:
    """What a person approved; the release that rests on it says so itself."""
    return (Edge(approval.model_version, approval.name, Relation.APPROVES),)


def edges_of_decision(decision: GateDecision) -> tuple[Edge, ...]:
    """What a decision rests on."""
    return tuple(Edge(run, decision.name, Relation.DECIDED_ON) for run in decision.evaluation_runs)


def edges_of_release(release: Release) -> tuple[Edge, ...]:
    """What a release rests on."""
    return _known(
        Edge(release.gate_decision, release.name, Relation.ALLOWED_BY),
        Edge(release.model_version, release.name, Relation.RELEASES),
        Edge(release.unit.prompt_version, release.name, Relation.PROMPTED_BY),
        Edge(release.unit.collection, release.name, Relation.CONTEXT_FROM),
        Edge(release.unit.guard_policy, release.name, Relation.GUARDED_BY),
        *(Edge(approval, release.name, Relation.APPROVED_BY) for approval in release.approvals),
    )


def edges_of_answer(answer: str, model_version: str, release: str) -> tuple[Edge, ...]:
    """Who gave an answer."""
    return _known(
        Edge(release, answer, Relation.SERVED_BY),
        Edge(model_version, answer, Relation.ANSWERED_BY),
    )


def _known(*edges: Edge) -> tuple[Edge, ...]:
    """Those whose ends are both known."""
    return tuple(edge for edge in edges if edge.source and edge.target)
