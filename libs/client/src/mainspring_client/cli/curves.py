"""Curves for people: in a line of text, and drawn into a PNG."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

LOSSES = ("train_loss", "validation_loss")
_MACHINE = ("learning_rate", "tokens_per_second", "cpu_percent", "memory_bytes", "gpu_percent", "gpu_memory_bytes")
_HELD_OUT = "validation_"
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
_WITHIN_S = 120
# Drawn by a process of its own: matplotlib takes a second and much memory, and only who draws has to have it.
_DRAW = """
import json, sys
import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot
asked = json.load(sys.stdin)
figure, panels = pyplot.subplots(len(asked["panels"]), figsize=(9, 3.2 * len(asked["panels"])), squeeze=False)
for panel, (title, lines) in zip(panels[:, 0], asked["panels"].items()):
    for line in lines:
        marker = "." if len(line["steps"]) < 40 else None
        panel.plot(line["steps"], line["values"], label=line["label"], linewidth=1.4, marker=marker)
        if line["low"] != line["high"]:
            panel.fill_between(line["steps"], line["low"], line["high"], alpha=0.15)
    panel.set_title(title)
    panel.set_xlabel("step")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
figure.tight_layout()
figure.savefig(asked["path"], dpi=120, format="png")
"""


def curve_text(values: Sequence[float]) -> str:
    """A curve as a line of bars."""
    if not values:
        return ""
    width = -(-len(values) // _WIDTH)
    means = [sum(part) / len(part) for i in range(0, len(values), width) if (part := values[i : i + width])]
    low, span = min(means), max(means) - min(means)
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1)) if span else 0] for value in means)


def measures_of(curves: Iterable[Any]) -> list[str]:
    """Series that a method measures beside its loss, in the order of the curves, each once."""
    return list(dict.fromkeys(c.series for c in curves if c.series not in (*LOSSES, *_MACHINE)))


def draw(path: Path, curves: Sequence[Any], series: Sequence[str]) -> None:
    """Draws curves (`training.v1.Curve`) into a PNG, a panel for each series; losses share one, and so does what is
    measured of rows that are learned with the same of the validation rows.

    Raises:
        PreconditionFailed: NOTHING_TO_DRAW, no such curve has points; MATPLOTLIB_MISSING.
    """
    from mainspring_client.cli.output import short
    from mainspring_svckit.errors import PreconditionFailed

    several = len({curve.training_run for curve in curves}) > 1
    panels: dict[str, list[dict[str, Any]]] = {}
    for curve in curves:
        if curve.series not in series or not curve.points:
            continue
        label = f"{short(curve.training_run)[-8:]} {curve.series}" if several else curve.series
        panel = "loss" if curve.series in LOSSES else curve.series.removeprefix(_HELD_OUT)
        panels.setdefault(panel, []).append(
            {
                "label": label,
                "steps": [point.step for point in curve.points],
                "values": [point.value for point in curve.points],
                "low": [point.low for point in curve.points],
                "high": [point.high for point in curve.points],
            }
        )
    if not panels:
        raise PreconditionFailed("NOTHING_TO_DRAW", f"there are no points of {', '.join(series)} yet; try again later")
    asked = json.dumps({"path": str(path.absolute()), "panels": panels})
    done = subprocess.run(
        [sys.executable, "-c", _DRAW], input=asked, text=True, capture_output=True, timeout=_WITHIN_S, check=False
    )
    if done.returncode and "No module named" in done.stderr:
        message = "drawing needs matplotlib; install 'mainspring-client[plot]'"
        raise PreconditionFailed("MATPLOTLIB_MISSING", message)
    if done.returncode:
        raise PreconditionFailed("NOT_DRAWN", f"{path} could not be drawn: {done.stderr.strip().splitlines()[-1]}")
