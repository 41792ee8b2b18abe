"""What the demo tells at its end: a table for people, and `demo-report.json`."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from mainspring_client.flywheel import Outcome


@dataclass
class Report:
    """Everything that the demo measured; filled as it goes."""

    source: str = ""
    steps_s: dict[str, float] = field(default_factory=dict[str, float])
    datasets: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    turns: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    feedback: dict[str, Any] = field(default_factory=dict[str, Any])
    retrieval: dict[str, Any] = field(default_factory=dict[str, Any])
    releases: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    proof: dict[str, Any] = field(default_factory=dict[str, Any])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    addresses: dict[str, Any] = field(default_factory=dict[str, Any])
    peak_memory_bytes: int = 0
    machine: dict[str, Any] = field(default_factory=dict[str, Any])

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Measures a step."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.steps_s[step] = round(time.monotonic() - started, 1)

    def write(self, path: Path) -> None:
        """Writes the JSON form, whole or not at all."""
        self.machine = {"cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=2, default=str) + "\n")
        partial.rename(path)


def turn_of(outcome: Outcome) -> dict[str, Any]:
    """A turn's outcome as plain values."""
    turn: dict[str, Any] = {"result": str(outcome.result), "reason": outcome.reason}
    if outcome.run is not None:
        result = outcome.run.result
        turn["training"] = {
            "run": outcome.run.name,
            "steps": result.steps,
            "tokens": result.tokens,
            "initial_validation_loss": result.initial_validation_loss,
            "best_validation_loss": result.best_validation_loss,
            "stopped_early": result.stopped_early,
        }
    if outcome.evaluation is not None:
        evaluation = outcome.evaluation
        turn["evaluation"] = {
            "run": evaluation.name,
            "candidate": evaluation.candidate,
            "baseline": evaluation.baseline,
            "items": evaluation.items,
            "fidelity_mean_kl_nats": evaluation.fidelity.mean_kl_nats,
            "fidelity_top1_agreement": evaluation.fidelity.top1_agreement,
            "scorers": {
                result.scorer: {
                    "baseline": result.baseline.value,
                    "candidate": result.candidate.value,
                    "difference": result.difference.value,
                    "difference_low": result.difference.low,
                    "difference_high": result.difference.high,
                    "p_value": result.p_value,
                    "signature": result.signature,
                }
                for result in evaluation.results
            },
        }
    if outcome.decision is not None:
        turn["gate"] = {
            "decision": outcome.decision.name,
            "rules": [
                {"rule": rule.rule, "passed": rule.passed, "explanation": rule.explanation}
                for rule in outcome.decision.rules
            ],
        }
    return turn


def print_report(report: Report) -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=max(100, Console().width))
    table = Table(title="What the loop did", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("source", report.source)
    for dataset in report.datasets:
        refused = ", ".join(f"{count} {reason.lower()}" for reason, count in dataset["refused"].items()) or "none"
        kept = ", ".join(f"{count} {split}" for split, count in dataset["kept"].items())
        table.add_row(_short(dataset["version"]), f"{dataset['in']} rows in; kept: {kept}; refused: {refused}")
    for number, turn in enumerate(report.turns, start=1):
        _add_turn(table, number, turn)
    _add_rest(table, report)
    console.print(table)
    console.print(f"gateway: {report.addresses.get('gateway')}   console: {report.addresses.get('console')}")


def _add_turn(table: Any, number: int, turn: dict[str, Any]) -> None:
    table.add_section()
    table.add_row(f"turn {number}", f"{turn['result']}{': ' + turn['reason'] if turn['reason'] else ''}")
    training, evaluation = turn.get("training"), turn.get("evaluation")
    if training:
        loss = f"{training['initial_validation_loss']:.3f} -> {training['best_validation_loss']:.3f}"
        table.add_row("training", f"{training['steps']} steps, {training['tokens']} tokens, validation loss {loss}")
    if evaluation:
        names = " against ".join(_short(evaluation[key]) for key in ("candidate", "baseline"))
        table.add_row("evaluation", f"{names}, {evaluation['items']} held-out items")
        for scorer, values in evaluation["scorers"].items():
            table.add_row(
                f"  {scorer}",
                f"{values['baseline']:.4f} -> {values['candidate']:.4f}, difference {values['difference']:+.4f}"
                f" [{values['difference_low']:+.4f}, {values['difference_high']:+.4f}], p {values['p_value']:.4f}",
            )
    for rule in turn.get("gate", {}).get("rules", []):
        table.add_row(f"  gate {'✓' if rule['passed'] else '✗'} {rule['rule']}", rule["explanation"])


def _add_rest(table: Any, report: Report) -> None:
    table.add_section()
    for release in report.releases:
        table.add_row("release", f"{_short(release['model_version'])}, {release['state']}")
    if report.proof:
        proof = report.proof
        verdict = "verified" if proof["same_manifest"] else "the release is of another manifest"
        table.add_row("manifest", f"{_short(proof['model_version'])} {proof['manifest_sha256']}, {verdict}")
        table.add_row(
            "  signed",
            f"by key {proof['key'][:16]}: {proof['files']} files, data root {proof['dataset_root_sha256'][:16]}, base"
            f" {proof['base_manifest_sha256'][:16]}, recipe {proof['recipe_sha256'][:16]}, decision"
            f" {_short(proof['decision'])}, released by {proof['released_by']}",
        )
        intact = "intact" if proof["history"]["intact"] else "BROKEN"
        table.add_row("  history", f"{proof['history']['entries']} entries, {intact}")
    table.add_row("events", f"{len(report.events)} of releases, received by a subscriber")
    answers = report.answers
    table.add_row(
        "answers",
        f"{answers['count']} through the gateway with {answers['callers']} callers: median"
        f" {answers['latency_p50_s']:.2f} s, 95 % within {answers['latency_p95_s']:.2f} s; first piece of a stream"
        f" after {answers['first_piece_s']:.2f} s",
    )
    feedback = report.feedback
    table.add_row(
        "feedback", f"{feedback['corrections']} corrections ({feedback['note']}), {feedback['thumbs']} thumbs"
    )
    retrieval = report.retrieval
    table.add_row("retrieval", f"{retrieval['chunks']} chunks of {retrieval['documents']} documents")
    table.add_row("  question", retrieval["question"])
    table.add_row("  cites", ", ".join(retrieval["citations"]))
    table.add_section()
    table.add_row("time per step", ", ".join(f"{step} {seconds:.0f} s" for step, seconds in report.steps_s.items()))
    table.add_row("whole demo", f"{sum(report.steps_s.values()):.0f} s")
    table.add_row("peak memory of the stack", f"{report.peak_memory_bytes / 2**30:.2f} GiB")


def _short(name: str) -> str:
    """A resource name without its project."""
    return "/".join(name.split("/")[3::2])


class MemoryWatch:
    """Remembers the most memory that a stack's processes used together (proportional set size)."""

    def __init__(self, mark: str, value: str) -> None:
        """Takes the environment variable, and its value, that every process of the stack carries."""
        self._mark, self._value = mark, value
        self.peak_bytes = 0

    def look(self) -> None:
        """Measures once."""
        total = 0
        for process in psutil.process_iter():
            try:
                if process.environ().get(self._mark) == self._value:
                    total += process.memory_full_info().pss
            except (psutil.Error, OSError):
                continue
        self.peak_bytes = max(self.peak_bytes, total)
