"""Model cards, written from what the catalogue knows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mainspring_registry.domain.catalogue import Model, ModelKind, ModelVersion
from mainspring_registry.domain.gate import GateDecision
from mainspring_registry.domain.policies import ServingUnit
from mainspring_svckit.names import ModelVersionName


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        model: The version's model.
        version: The version.
        base: Its foundation model's version; None for one that stands alone.
        decisions: What the gate said of it, newest first.
        release: The release that lets it serve, or empty.
        unit: What goes live with it.
    """

    model: Model
    version: ModelVersion
    base: ModelVersion | None
    decisions: Sequence[GateDecision]
    release: str
    unit: ServingUnit = field(default_factory=ServingUnit)


def write_card(facts: CardFacts) -> str:
    """Markdown with the front matter that Hugging Face reads; strings are JSON strings, which YAML reads as such."""
    version, model = facts.version, facts.model
    name = ModelVersionName.parse(version.name)
    lines = ["---", f"license: {_quoted(version.licence.lower())}"]
    if library := _library(version):
        lines.append(f"library_name: {library}")
    if facts.base is not None:
        lines.append(f"base_model: {_quoted(facts.base.lineage.origin or facts.base.name)}")
    tags = ["mainspring", *(f"{key}:{value}" for key, value in sorted({**model.tags, **version.tags}.items()))]
    lines += ["tags:", *(f"- {_quoted(tag)}" for tag in tags), "---", "", f"# {name.model}, version {name.version}", ""]
    if model.description:
        lines += [_plain(model.description), ""]
    lines += ["## Where it comes from", "", *_table(("what", "which"), _origin(facts)), ""]
    if version.lineage.environment:
        pairs = sorted(version.lineage.environment.items())
        lines += ["Made with " + ", ".join(f"{_cell(key)} {_cell(value)}" for key, value in pairs) + ".", ""]
    lines += _opening(facts)
    if facts.decisions:
        lines += _evidence(facts.decisions[0])
    lines += ["## Files", "", *_table(("role", "bytes", "SHA-256"), _files(version)), ""]
    return "\n".join(lines)


def _origin(facts: CardFacts) -> Iterable[tuple[str, ...]]:
    version, lineage = facts.version, facts.version.lineage
    rows = (
        ("version", version.name),
        ("manifest", version.manifest.sha256),
        ("base", version.base_model_version),
        ("training run", lineage.training_run),
        ("data", lineage.dataset_version),
        ("digest of the data", lineage.dataset_root_sha256),
        ("digest of the recipe", lineage.recipe_sha256),
        ("begun with", lineage.parent_model_version),
        ("merged from", ", ".join(lineage.merged_from)),
        ("origin", lineage.origin),
        ("licence", version.licence),
        ("author", version.author),
        ("registered", version.create_time.isoformat()),
        ("released as", facts.release),
        ("prompt", facts.unit.prompt_version),
        ("context from", facts.unit.collection),
        ("guarded by", facts.unit.guard_policy),
        ("longest prompt and answer", f"{version.serving.context_tokens} tokens"),
    )
    return [row for row in rows if row[1]]


def _library(version: ModelVersion) -> str:
    """What opens its folder; empty when only an engine does."""
    if "adapter/adapter_config.json" in version.artifacts:
        return "peft"
    if "hf/config.json" not in version.artifacts:
        return ""
    return "sentence-transformers" if version.kind is ModelKind.EMBEDDING else "transformers"


def _opening(facts: CardFacts) -> list[str]:
    match _library(facts.version):
        case "peft" if facts.base is not None:
            base = ModelVersionName.parse(facts.base.name)
            code = [
                f"# BASE is the folder that 'mainspring models export {base.model}/{base.version} BASE' wrote.",
                'base = transformers.AutoModelForCausalLM.from_pretrained("BASE")',
                'model = peft.PeftModel.from_pretrained(base, "THIS_FOLDER")',
                'tokenizer = transformers.AutoTokenizer.from_pretrained("BASE")',
            ]
        case "transformers":
            code = [
                'model = transformers.AutoModelForCausalLM.from_pretrained("THIS_FOLDER")',
                'tokenizer = transformers.AutoTokenizer.from_pretrained("THIS_FOLDER")',
            ]
        case _:
            return []
    return ["## How it is opened", "", "```python", *code, "```", ""]


def _evidence(decision: GateDecision) -> list[str]:
    compared = decision.evidence.baseline or "nothing"
    lines = ["## What was measured", "", f"{decision.evidence.items} items, compared with {_cell(compared)}.", ""]
    rows = [
        (
            result.scorer,
            f"{result.baseline.value:.4f}" if result.baseline is not None else "",
            f"{result.candidate.value:.4f}",
            f"{result.difference.value:+.4f} [{result.difference.low:+.4f}, {result.difference.high:+.4f}]"
            if result.difference is not None
            else "",
        )
        for result in decision.evidence.results
    ]
    lines += [*_table(("scorer", "before", "this version", "difference"), rows), ""]
    lines += [f"The gate {decision.outcome.value.lower()} it ({_cell(decision.name)}):", ""]
    kept = ("broken", "kept")
    return [*lines, *(f"- {kept[r.passed]}: {_cell(r.rule)}: {_cell(r.explanation)}" for r in decision.rules), ""]


def _files(version: ModelVersion) -> Iterable[tuple[str, ...]]:
    return [(role, str(file.size_bytes), file.sha256) for role, file in sorted(version.artifacts.items())]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    """Text without markup of its own: what people wrote is shown, not run."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
