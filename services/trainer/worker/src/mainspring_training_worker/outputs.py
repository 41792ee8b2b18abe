"""What a run leaves: the adapter in both formats, the probe of its distributions, the report."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from mainspring_modelfiles import adapters, probe, refusal
from mainspring_training_worker.spec import Refused

_POSITIONS = 48


def write_gguf(folder: Path, adapter: Path, base: Path) -> Path:
    """The PEFT adapter as llama.cpp reads it.

    Raises:
        Refused: It cannot be written for this base; the reason is that of mainspring-modelfiles.
    """
    target = folder / "adapter.gguf"
    try:
        adapters.convert(adapter, base, target)
    except refusal.Refused as err:
        raise Refused(err.reason, err.message) from err
    return target


def write_probe(folder: Path, model: Any, tokenizer: Any) -> Path:
    """Reference distributions of the next token after prefixes of a fixed text, in fp32.

    One pass over the whole text gives all of them, for those prefixes that are tokenised as the text begins.
    """
    ids: list[int] = tokenizer(probe.TEXT)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    positions: list[probe.Position] = []
    for prefix in probe.prefixes(_POSITIONS):
        tokens: list[int] = tokenizer(prefix)["input_ids"]
        if tokens == ids[: len(tokens)]:
            log_probabilities = torch.log_softmax(logits[len(tokens) - 1].float(), dim=-1)
            top = log_probabilities.topk(min(probe.TOP, len(log_probabilities)))
            pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            positions.append(probe.Position(prefix, tuple(pairs)))
    path = folder / "fidelity_probe.json"
    path.write_bytes(probe.dump(positions))
    return path


def write_report(folder: Path, files: Mapping[str, Path], **facts: Any) -> Path:
    """Curves, counts, versions and digests."""
    report = {
        "schema": "mainspring.training_report.v1",
        **facts,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
        "files": {role: hashlib.sha256(path.read_bytes()).hexdigest() for role, path in files.items()},
    }
    path = folder / "training_report.json"
    path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    return path
