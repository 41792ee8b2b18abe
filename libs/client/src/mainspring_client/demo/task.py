"""What the demo teaches: which entries are learned from, which are held back, and the flywheel's configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mainspring_client.configuration import Configuration
from mainspring_pysource import Entry, installed_roots, read_entries
from mainspring_svckit.errors import InvalidInput

NAME, PREFERENCES = "summaries", "preferences"
PROMPT = "Write the one-line summary of this Python code.\n\n"
MAX_OUTPUT_TOKENS = 48
LEARNED, HELD_BACK = 640, 64
CORRECTIONS = 40
_FEWEST = 200
_RANK = 16
_TEST_PERCENT, _VALIDATION_PERCENT = 14, 4
# The share of modules, in 256ths, whose entries the first dataset never sees; people ask about them later.
_HELD_BACK_SHARE = 64


_SUITE = {
    "id": NAME,
    "model": NAME,
    "scorers": ["rouge_l", "bleu", "chrf"],
    "max_items": 80,
    "sampling": {"max_output_tokens": MAX_OUTPUT_TOKENS},
}


@dataclass(frozen=True)
class Material:
    """Entries by their use.

    Attributes:
        learned: Rows of the first dataset; it is split into train, validation and test.
        held_back: Entries of other modules, asked about through the gateway.
    """

    learned: Sequence[Entry]
    held_back: Sequence[Entry]


def collect(source: Path | None) -> Material:
    """Reads code until there is enough; a module's entries are either all learned from or all held back.

    Args:
        source: Folder with Python code; None for the code that is installed here.

    Raises:
        InvalidInput: SOURCE_TOO_SMALL, there are too few documented functions and classes.
    """
    learned: list[Entry] = []
    held_back: list[Entry] = []
    if source is None:
        entries = read_entries(installed_roots(), most_per_file=8, most_per_package=40)
    else:
        # A folder of one's own may well be a single package.
        entries = read_entries([source], most_per_file=40, most_per_package=2 * LEARNED)
    seen: set[str] = set()
    for entry in entries:
        if entry.text in seen:
            continue  # Code that stands in two packages must not be learned from in one and asked about in the other.
        seen.add(entry.text)
        is_held_back = hashlib.sha256(entry.module.encode()).digest()[0] < _HELD_BACK_SHARE
        into, enough = (held_back, HELD_BACK) if is_held_back else (learned, LEARNED)
        if len(into) < enough:
            into.append(entry)
        elif len(learned) >= LEARNED and len(held_back) >= HELD_BACK:
            break
    if len(learned) < _FEWEST or len(held_back) < CORRECTIONS:
        raise InvalidInput(
            f"{source} has {len(learned) + len(held_back)} documented functions and classes that can be used; the demo"
            f" needs {_FEWEST} to learn from and {CORRECTIONS} in other modules to ask about, so name a larger folder",
            reason="SOURCE_TOO_SMALL",
        )
    return Material(learned, held_back)


def write_rows(entries: Sequence[Entry], path: Path) -> Path:
    """Writes entries as JSON Lines `{module, name, code, summary}`."""
    rows = (
        json.dumps({"module": e.module, "name": e.name, "code": e.text, "summary": e.summary}, ensure_ascii=False)
        for e in entries
    )
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def configuration(project: str, base_model_version: str) -> Configuration:
    """The demo's flywheel in its first turn: what `flywheel.yaml` would say."""
    return Configuration.parse(
        {
            "project": project,
            "ingestion_recipe": {
                "id": NAME,
                "dataset": NAME,
                "columns": {"input_column": "code", "target_column": "summary", "group_column": "module"},
                "prompt_template": PROMPT + "{input}",
                "split": {
                    "train_percent": 100 - _VALIDATION_PERCENT - _TEST_PERCENT,
                    "validation_percent": _VALIDATION_PERCENT,
                    "test_percent": _TEST_PERCENT,
                },
            },
            "tuning_recipe": {
                "id": NAME,
                "dataset": NAME,
                "base_model_version": base_model_version,
                "model": NAME,
                "method": "METHOD_SUPERVISED",
                "lora": {"rank": _RANK},
                "optimization": {
                    "epochs": 1,
                    "max_steps": 32,
                    "learning_rate": 1e-3,
                    "batch_rows": 8,
                    "max_sequence_tokens": 512,
                    "validate_every_steps": 16,
                },
            },
            "evaluation_suite": _SUITE,
            "release_policy": {"id": NAME, "model": NAME, "evaluation_suite": NAME, "primary_scorer": "rouge_l"},
            "rollout_policy": {"id": NAME, "model": NAME},
        }
    )


def preference_configuration(project: str, base_model_version: str, dataset_version: str) -> Configuration:
    """What turns the loop a second time: corrections become pairs of a better and a worse answer, learned by DPO.

    Args:
        project: Project id.
        base_model_version: Foundation model of the first turn.
        dataset_version: The first turn's data; from now on its test split is what every version is measured on.
    """
    return Configuration.parse(
        {
            "project": project,
            "ingestion_recipe": {
                "id": PREFERENCES,
                "dataset": PREFERENCES,
                "columns": {
                    "messages_column": "messages",
                    "rejected_column": "rejected",
                    "desirable_column": "desirable",
                },
                "split": {"train_percent": 80, "validation_percent": 20},
            },
            "tuning_recipe": {
                "id": PREFERENCES,
                "dataset": PREFERENCES,
                "base_model_version": base_model_version,
                "model": NAME,
                "method": "METHOD_DPO",
                # It goes on from the released adapter, which is the reference as well.
                "start_from": "START_FROM_CHAMPION",
                "lora": {"rank": _RANK},
                "optimization": {
                    "epochs": 2,
                    "learning_rate": 2e-5,
                    "batch_rows": 8,
                    "max_sequence_tokens": 512,
                    "validate_every_steps": 4,
                },
            },
            "evaluation_suite": {**_SUITE, "dataset_version": dataset_version},
            "retraining_trigger": {
                "id": NAME,
                "model": NAME,
                "ingestion_recipe": PREFERENCES,
                "min_items": CORRECTIONS,
            },
        }
    )
