"""The data card of a version: what it holds and how it came to be, in Markdown; facts only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any

from mainspring_data_ingest.domain.datasets import DatasetVersion
from mainspring_data_ingest.domain.exports import ExportedFile
from mainspring_data_ingest.domain.manifests import Manifest
from mainspring_data_ingest.domain.report import Report
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.names import DatasetVersionName

_MAX_LABELS = 20
_EXTRAS = {
    "rejected": "`rejected` is a worse answer to the same prompt, where there is one.",
    "desirable": "`desirable` is the thumb on the answer, where there is one.",
    "synthetic": "`synthetic` is true where a model made the row.",
    "repeats": "`repeats` says how often one pass of training sees the row.",
}


def card(
    version: DatasetVersion,
    manifest: Manifest,
    report: Report | None,
    files: Sequence[ExportedFile],
    columns: Sequence[str],
) -> str:
    """The card, with the YAML head that the Hugging Face hub and `datasets.load_dataset` read."""
    name = DatasetVersionName.parse(version.name)
    parts = [
        *_head(files),
        f"# {name.dataset}, version {name.version}",
        "",
        f"`{version.name}`, published {version.create_time.astimezone(UTC):%Y-%m-%d %H:%M} UTC.",
        *([f"It takes the place of `{version.supersedes}`: rows were erased."] if version.supersedes else []),
        "",
        *_rows(version),
        *_origin(version, manifest, columns),
        *(_texts(report, "erasure" if version.supersedes else "cleaning") if report is not None else ()),
        "## Columns",
        "",
        "`messages` is the conversation, whose last message is the answer to learn; `row_id` is the SHA-256 of its",
        "canonical form; `group` keeps rows in one split; `source_index` and `line` say where the record began.",
        *(text for column, text in _EXTRAS.items() if column in columns),
        "",
        "## Not known",
        "",
        "The licence, and whether the people whose words these are have agreed: the sources do not say.",
        "",
    ]
    return "\n".join(parts)


def _head(files: Sequence[ExportedFile]) -> Iterator[str]:
    present = [split for split in Split if any(file.split is split for file in files)]
    yield from ("---", "configs:", "- config_name: default", "  data_files:")
    for split in present:
        ending = next(file.path.rpartition(".")[2] for file in files if file.split is split)
        yield from (f"  - split: {split.value.lower()}", f"    path: data/{split.value.lower()}-*.{ending}")
    yield from ("---", "")


def _rows(version: DatasetVersion) -> Iterator[str]:
    tally = version.tally
    yield from ("## Rows", "", "| what became of them | rows |", "|---|---|", f"| read | {tally.input_rows} |")
    for split in Split:
        yield f"| kept, {split.value.lower()} | {tally.splits.get(split, 0)} |"
    for reason, rows in tally.refusals.items():
        yield f"| refused, {reason.value.lower().replace('_', ' ')} | {rows} |"
    yield ""


def _origin(version: DatasetVersion, manifest: Manifest, columns: Sequence[str]) -> Iterator[str]:
    yield from ("## Origin", "", f"Root digest `{version.root_sha256}`; the same sources and recipe give it again.", "")
    yield from ("| source | bytes | SHA-256 |", "|---|---|---|")
    for source in version.sources:
        artifact = source.artifact
        title = _cell(artifact.filename) or "(without a name)"
        title += " (synthetic: made by a model)" if source.synthetic else ""
        yield f"| {title} | {artifact.size_bytes} | `{artifact.sha256}` |"
    if "synthetic" in columns:
        yield from ("", "Rows that a model made are in the train split only; `synthetic` tells which they are.")
    elif any(source.synthetic for source in version.sources):
        yield from ("", "Rows of synthetic sources are in the train split only; `source_index` tells which they are.")
    recipe: dict[str, Any] = dict(manifest.body["recipe"])
    applied = version.ingestion_recipe_version or recipe["name"]
    yield from ("", f"Recipe `{applied}`, as it was applied (digest `{version.recipe_sha256}`):", "")
    steps = recipe.pop("steps", [])
    yield from ("```json", json.dumps(recipe, sort_keys=True, ensure_ascii=False).replace("`", "\\u0060"))
    for step in steps:
        yield json.dumps(step, sort_keys=True, ensure_ascii=False).replace("`", "\\u0060")
    yield from ("```", "")


def _texts(report: Report, change: str) -> Iterator[str]:
    yield from ("## Texts", "", f"| | before {change} | after |", "|---|---|---|")
    sides = (report.before, report.after)
    yield _line("rows", sides, lambda s: str(s.rows))
    yield _line("words of a prompt, mean", sides, lambda s: f"{s.prompt.mean_words:.1f}")
    yield _line("words of an answer, mean", sides, lambda s: f"{s.answer.mean_words:.1f}")
    for size in sorted(report.after.distinct):
        yield _line(f"distinct-{size} of answers", sides, lambda s, size=size: f"{s.distinct.get(size, 0):.3f}")
    if report.before.diversity is not None and report.after.diversity is not None:
        measured = (report.before.diversity, report.after.diversity)
        yield _line("self-BLEU of answers", measured, lambda m: f"{m.self_bleu:.1f}")
        yield _line("Vendi score of answers", measured, lambda m: f"{m.vendi_score:.1f} of {m.rows} ({m.vectors})")
        yield _line("cluster evenness of answers", measured, lambda m: f"{m.cluster_evenness:.2f}")
    for label in list(report.after.labels or ())[:_MAX_LABELS]:
        yield _line(f"answer “{_cell(label)}”", sides, lambda s, label=label: str((s.labels or {}).get(label, "")))
    yield ""


def _line(title: str, sides: Sequence[Any], show: Any) -> str:
    return f"| {title} | {' | '.join(show(side) for side in sides)} |"


def _cell(text: str) -> str:
    """Text that cannot leave its cell, nor become markup."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    for mark in "\\|`<>[]*_":
        shown = shown.replace(mark, f"\\{mark}")
    return shown
