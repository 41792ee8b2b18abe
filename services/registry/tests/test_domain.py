from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_registry.domain.catalogue import Lineage, Model, ModelKind, ServingSpec, manifest_bytes
from mainspring_registry.domain.gate import Evidence, EvidenceRecord, Outcome, judge, outcome_of
from mainspring_registry.domain.making import MAKING_STATES
from mainspring_registry.domain.policies import GuardRule, ReleasePolicy
from mainspring_registry.domain.releases import RELEASE_STATES, Release, ReleaseState
from mainspring_svckit.errors import IllegalTransition
from mainspring_svckit.values import ArtifactRef, Estimate, Fidelity, ScorerResult
from mainspring_testkit.contracts.states import assert_as_declared

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SUITE = "projects/p/evaluationSuites/s"
POLICY = ReleasePolicy("projects/p/releasePolicies/r", "projects/p/models/m", SUITE, "rouge_l")


def result(scorer: str, low: float, high: float) -> ScorerResult:
    middle = (low + high) / 2
    estimate = Estimate(0.5, 0.4, 0.6, 0.95)
    return ScorerResult(scorer, "sig", estimate, estimate, Estimate(middle, low, high, 0.95), 0.01)


EVIDENCE = Evidence(
    evaluation_run="projects/p/evaluationRuns/e",
    candidate_manifest_sha256="aa",
    baseline="projects/p/models/base/versions/1",
    results=(result("rouge_l", 0.1, 0.2), result("bleu", 1.0, 3.0)),
    items=100,
    fidelity=Fidelity(0.01, 0.97, 64),
)


def record(evidence: Evidence, suite: str = SUITE, age_s: float = 0) -> EvidenceRecord:
    heard = NOW - timedelta(seconds=age_s)
    return EvidenceRecord(evidence.evaluation_run, "projects/p/models/m/versions/1", suite, evidence, "", heard)


def broken(policy: ReleasePolicy = POLICY, evidence: Evidence = EVIDENCE, **given: Any) -> set[str]:
    given = {"manifest_sha256": "aa", "wanted_baseline": EVIDENCE.baseline, **given}
    rules = judge(policy, {SUITE: record(evidence)}, now=NOW, **given)
    return {rule.rule for rule in rules if not rule.passed}


def test_state_machines_are_as_the_contracts_say() -> None:
    assert_as_declared(MAKING_STATES, "registry/v1/model.proto", "ModelImport")
    assert_as_declared(MAKING_STATES, "registry/v1/quantization.proto", "Quantization")
    assert_as_declared(MAKING_STATES, "registry/v1/merge.proto", "Merge")
    assert_as_declared(RELEASE_STATES, "registry/v1/release.proto", "Release")


def test_good_evidence_is_allowed() -> None:
    assert broken() == set()
    rules = judge(POLICY, {SUITE: record(EVIDENCE)}, manifest_sha256="aa", wanted_baseline=EVIDENCE.baseline, now=NOW)
    assert outcome_of(rules) is Outcome.ALLOWED
    assert all(rule.explanation for rule in rules)


def test_each_rule_can_refuse() -> None:
    assert broken(manifest_sha256="bb") == {"evidence"}
    assert broken(wanted_baseline="projects/p/models/m/versions/3") == {"baseline"}
    assert broken(evidence=replace(EVIDENCE, items=19)) == {"items"}
    assert broken(evidence=replace(EVIDENCE, fidelity=None)) == {"fidelity"}
    assert broken(evidence=replace(EVIDENCE, fidelity=Fidelity(0.11, 0.9, 64))) == {"fidelity"}
    assert broken(evidence=replace(EVIDENCE, results=(result("rouge_l", -0.01, 0.2),))) == {"primary:rouge_l"}
    assert broken(evidence=replace(EVIDENCE, results=())) == {"primary:rouge_l"}
    assert broken(replace(POLICY, guards=(GuardRule("chrf"),))) == {"guard:chrf"}


def test_all_broken_rules_are_told_at_once() -> None:
    bad = replace(EVIDENCE, items=0, fidelity=None, results=())
    assert broken(evidence=bad, manifest_sha256="bb") == {"evidence", "items", "fidelity", "primary:rouge_l"}


@pytest.mark.parametrize(
    ("low", "gain", "passes"), [(0.05, 0.05, False), (0.0501, 0.05, True), (-0.01, -0.02, True), (-0.02, -0.02, False)]
)
def test_the_lower_end_decides(low: float, gain: float, passes: bool) -> None:
    evidence = replace(EVIDENCE, results=(result("rouge_l", low, 0.4),))
    assert (broken(replace(POLICY, min_gain=gain), evidence) == set()) is passes


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True, allow_infinity=True))
def test_odd_numbers_pass_only_if_they_are_above_the_bound(low: float, high: float) -> None:
    evidence = replace(EVIDENCE, results=(result("rouge_l", low, high),))
    assert (broken(evidence=evidence) == set()) is (low > 0)


@given(st.floats(allow_nan=True))
def test_odd_fidelity_passes_only_if_it_is_small(kl: float) -> None:
    assert (broken(evidence=replace(EVIDENCE, fidelity=Fidelity(kl, 1, 64))) == set()) is (kl <= 0.1)


@pytest.mark.parametrize(("low", "high", "passes"), [(-0.3, -0.1, True), (-0.3, 0.1, False), (0.1, 0.3, False)])
def test_where_less_is_better_a_fall_is_a_gain(low: float, high: float, passes: bool) -> None:
    evidence = replace(EVIDENCE, results=(replace(result("ter", low, high), lower_is_better=True),))
    assert (broken(replace(POLICY, primary_scorer="ter"), evidence) == set()) is passes


def test_guards_have_their_margin() -> None:
    evidence = replace(EVIDENCE, results=(result("rouge_l", 0.1, 0.2), result("bleu", -1.0, 1.0)))
    assert broken(replace(POLICY, guards=(GuardRule("bleu", 1.0),)), evidence) == {"guard:bleu"}
    assert broken(replace(POLICY, guards=(GuardRule("bleu", 1.1),)), evidence) == set()


@pytest.mark.parametrize("state", list(ReleaseState))
def test_releases_move_only_along_the_table(state: ReleaseState) -> None:
    release = Release("projects/p/models/m/releases/1", "projects/p/models/m", "v", "d", "", "", NOW, state)
    moves = {
        ReleaseState.SUPERSEDED: release.superseded,
        ReleaseState.ACTIVE: release.restored,
        ReleaseState.REVOKED: lambda: release.revoked("r"),
        ReleaseState.ROLLED_BACK: lambda: release.rolled_back("r"),
    }
    for target, move in moves.items():
        if target in RELEASE_STATES.transitions[state]:
            assert move().state is target
        else:
            with pytest.raises(IllegalTransition):
                move()


def test_a_model_counts_what_belongs_to_it() -> None:
    model = Model("projects/p/models/m", ModelKind.ADAPTER, NOW)
    model, version = model.with_version()
    model, second = model.with_version()
    model, release = model.with_release()
    assert (version, second) == ("projects/p/models/m/versions/1", "projects/p/models/m/versions/2")
    assert model.active_release == release == "projects/p/models/m/releases/1"
    assert model.with_alias("champion", second).version_of("champion") == second
    assert model.version_of("champion") is None


def test_i5_a_manifest_depends_on_every_part_and_on_nothing_else() -> None:
    artifacts = {"b": ArtifactRef("22", 2, "x", "y"), "a": ArtifactRef("11", 1)}

    def manifest(**changes: object) -> bytes:
        parts: dict[str, object] = {
            "name": "n", "kind": ModelKind.ADAPTER, "base_manifest_sha256": "bb", "artifacts": artifacts,
            "serving": ServingSpec(2048), "lineage": Lineage(training_run="r"), "licence": "MIT",
        }  # fmt: skip
        return manifest_bytes(**{**parts, **changes})  # type: ignore[arg-type]

    assert manifest() == manifest(artifacts=dict(reversed(artifacts.items())))
    assert manifest() == manifest(artifacts={**artifacts, "a": ArtifactRef("11", 1, "other/type", "name")})
    different = [
        manifest(name="o"),
        manifest(base_manifest_sha256="cc"),
        manifest(artifacts={**artifacts, "a": ArtifactRef("12", 1)}),
        manifest(serving=ServingSpec(1024)),
        manifest(lineage=Lineage(training_run="q")),
        manifest(licence="Apache-2.0"),
    ]
    assert len({manifest(), *different}) == 7
