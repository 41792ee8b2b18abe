"""Draws a report: `{"title": ..., "report": ...}` as JSON on standard input, PNG on standard output."""

from __future__ import annotations

import json
import sys
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mainspring_data_ingest.domain.measurements import Measurement
from mainspring_data_ingest.domain.report import LengthReport, Report

_GREY, _BLUE, _GREEN, _RED = "#9aa5b1", "#3867d6", "#20a39e", "#d64545"
_MAX_BARS = 12


def draw(title: str, report: Report) -> Figure:
    """The report as six panels."""
    figure = Figure(figsize=(16, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    panels: Any = figure.subplots(2, 3)
    _fates(panels[0][0], report)
    _lengths(panels[0][1], "prompt", report.before.prompt, report.after.prompt)
    _lengths(panels[0][2], "answer", report.before.answer, report.after.answer)
    _distinct(panels[1][0], report)
    _diversity(panels[1][1], report)
    _labels(panels[1][2], report)
    return figure


def _fates(panel: Any, report: Report) -> None:
    bars = [("kept as they came", report.kept_unchanged, _GREEN), ("kept, changed", report.kept_changed, _BLUE)]
    bars += [(reason.value.lower().replace("_", " "), rows, _RED) for reason, rows in report.refused.items()]
    bars.reverse()
    panel.barh([name for name, _, _ in bars], [rows for _, rows, _ in bars], color=[colour for _, _, colour in bars])
    for place, (_, rows, _) in enumerate(bars):
        panel.text(rows, place, f" {rows:,}", va="center", fontsize=8)
    panel.set_title(f"what became of {report.input_rows:,} rows")
    panel.margins(x=0.15)


def _lengths(panel: Any, part: str, before: LengthReport, after: LengthReport) -> None:
    places = sorted({*before.words, *after.words})
    for offset, (name, lengths, colour) in enumerate((("before", before, _GREY), ("after", after, _BLUE))):
        rows = [lengths.words.get(place, 0) for place in places]
        panel.bar([place + 0.4 * offset for place in range(len(places))], rows, 0.4, label=name, color=colour)
    panel.set_xticks([place + 0.2 for place in range(len(places))], [f"{least}+" for least in places])
    panel.set_title(f"rows by words of the {part}")
    panel.legend()


def _distinct(panel: Any, report: Report) -> None:
    sizes = sorted(report.after.distinct)
    for offset, (name, texts, colour) in enumerate((("before", report.before, _GREY), ("after", report.after, _BLUE))):
        shares = [texts.distinct.get(size, 0.0) for size in sizes]
        panel.bar([place + 0.4 * offset for place in range(len(sizes))], shares, 0.4, label=name, color=colour)
    panel.set_xticks([place + 0.2 for place in range(len(sizes))], [f"distinct-{size}" for size in sizes])
    panel.set_ylim(0, 1)
    panel.set_title("diversity of answers (sample)")
    panel.legend()


def _diversity(panel: Any, report: Report) -> None:
    sides = [("before", report.before.diversity, _GREY), ("after", report.after.diversity, _BLUE)]
    measured = [(name, side, colour) for name, side, colour in sides if side is not None]
    if not measured:
        panel.axis("off")
        panel.text(0.5, 0.5, "diversity was not measured", ha="center", va="center")
        return
    for offset, (name, side, colour) in enumerate(measured):
        shares = _shares(side)
        places = [place + 0.4 * offset for place in range(len(shares))]
        panel.barh(places, [*shares.values()], 0.4, label=name, color=colour)
        panel.set_yticks([place + 0.2 for place in range(len(shares))], [*shares])
    panel.set_xlim(0, 1)
    panel.invert_yaxis()
    made = measured[-1][1].vectors
    made = "/".join(made.split("/")[3::2]) or made  # Of a model's name its id and its version.
    panel.set_title(f"diversity and alignment of answers (sample; vectors: {made})")
    panel.legend()


def _shares(found: Measurement) -> dict[str, float]:
    shares = {
        "self-BLEU / 100": found.self_bleu / 100,
        "Vendi score / rows": found.vendi_score / max(1, found.rows),
        "cluster evenness": found.cluster_evenness,
    }
    if (near := found.alignment) is not None:
        shares["evaluation set to nearest"] = near.reference_to_nearest
        shares["answer to nearest"] = near.row_to_nearest
        shares["its clusters covered"] = near.covered_clusters / max(1, near.reference_clusters)
    return shares


def _labels(panel: Any, report: Report) -> None:
    before, after = report.before.labels, report.after.labels
    if not after:
        panel.axis("off")
        panel.text(0.5, 0.5, "answers are free text", ha="center", va="center")
        return
    names = list(after)[:_MAX_BARS]
    for offset, (name, labels, colour) in enumerate((("before", before, _GREY), ("after", after, _BLUE))):
        rows = [(labels or {}).get(label, 0) for label in names]
        panel.barh([place + 0.4 * offset for place in range(len(names))], rows, 0.4, label=name, color=colour)
    # A dollar sign would begin a formula.
    panel.set_yticks([place + 0.2 for place in range(len(names))], [name.replace("$", r"\$") for name in names])
    panel.invert_yaxis()
    panel.set_title("rows by answer")
    panel.legend()


def main() -> None:
    """Runs in the child."""
    body = json.load(sys.stdin)
    # No metadata: the same report gives the same picture.
    draw(body["title"], Report.parse(body["report"].encode())).savefig(
        sys.stdout.buffer, format="png", dpi=80, metadata={"Software": None}
    )


if __name__ == "__main__":
    main()
