"""What a model's folder in Triton's repository says about it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

PARAMETER = "mainspring"
"""Key in config.pbtxt's `parameters` whose value is the JSON object that `ModelSpec.parse` reads."""


class Kind(StrEnum):
    """What a model is for."""

    GENERATE = "generate"
    EMBED = "embed"


@dataclass(frozen=True)
class ModelSpec:
    """What to load, and how.

    Attributes:
        kind: What it is for.
        gguf: The model's file.
        adapter: A LoRA on it as a file, or empty.
        context_tokens: Longest prompt and answer together.
        slots: How many requests are computed together.
        threads: Threads that compute.
    """

    kind: Kind
    gguf: str
    adapter: str
    context_tokens: int
    slots: int
    threads: int

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Reads the JSON object.

        Raises:
            ValueError: It is none, or a field is missing or has no sense.
        """
        values = json.loads(text)
        made = cls(
            kind=Kind(values["kind"]),
            gguf=str(values["gguf"]),
            adapter=str(values.get("adapter", "")),
            context_tokens=int(values["context_tokens"]),
            slots=int(values["slots"]),
            threads=int(values["threads"]),
        )
        if min(made.context_tokens, made.slots, made.threads) < 1:
            raise ValueError("context_tokens, slots and threads must be at least 1")
        return made
