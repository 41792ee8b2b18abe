"""The reference's side of the fidelity probe: a model in memory tells its distributions; needs torch."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from mainspring_modelfiles import probe

POSITIONS = 48


def write_probe(path: Path, model: Any, tokenizer: Any) -> Path:
    """Writes a transformers model's distributions of the next token after prefixes of a fixed text; returns `path`.

    One pass over the whole text gives all of them, for those prefixes that are tokenised as the text begins.

    Args:
        path: File to write.
        model: A causal model in fp32, in evaluation mode.
        tokenizer: Its tokenizer.
    """
    torch: Any = importlib.import_module("torch")
    ids: list[int] = tokenizer(probe.TEXT)["input_ids"]
    with torch.no_grad():
        logits: Any = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    positions: list[probe.Position] = []
    for prefix in probe.prefixes(POSITIONS):
        tokens: list[int] = tokenizer(prefix)["input_ids"]
        if tokens == ids[: len(tokens)]:
            log_probabilities = torch.log_softmax(logits[len(tokens) - 1].float(), dim=-1)
            top = log_probabilities.topk(min(probe.TOP, len(log_probabilities)))
            pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            positions.append(probe.Position(prefix, tuple(pairs)))
    path.write_bytes(probe.dump(positions))
    return path
