"""The table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import Figure, Result

_MET = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}


def show(results: Sequence[Result], machine: dict[str, Any], console: Console) -> None:
    """Prints the figures, what made them, and what to beware of."""
    table = Table(title="Benchmarks", title_justify="left")
    for title in ("", "measured", "bar", "met", "measured / bar", "repeats"):
        table.add_column(title, overflow="fold", justify="left" if title in {"", "repeats"} else "right")
    for result in results:
        table.add_section()
        table.add_row(f"[bold]{result.name}[/], {result.seconds:.0f} s")
        if result.error:
            table.add_row(f"[red]{result.error}[/]")
        if result.skipped:
            table.add_row("[yellow]skipped[/]")
        for figure in result.figures:
            table.add_row(*_cells(figure))
    console.print(table)
    flags = ", ".join(name for name, there in machine["cpu_flags"].items() if there) or "none of those that matter"
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {flags}; commit {machine['commit'][:12] or 'unknown'}")
    console.print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))
    for result in results:
        if result.skipped:
            console.print(f"[yellow]{result.name} is skipped: {result.skipped}[/]")
        for warning in result.warnings:
            console.print(f"[yellow]{result.name}: {warning}[/]")


def _cells(figure: Figure) -> tuple[str, ...]:
    ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else ""
    repeats = ", ".join(f"{value:.3g}" for value in figure.repeats)
    note = f" ({figure.note})" if figure.note else ""
    measured = f"{figure.value:.4g} {figure.unit}"
    return f"  {figure.name}{note}", measured, str(figure.bar or ""), _MET[figure.met], ratio, repeats
