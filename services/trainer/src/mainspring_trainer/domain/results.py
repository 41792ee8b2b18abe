"""The files that runs make, by role."""

from __future__ import annotations

from collections.abc import Iterable

from mainspring_svckit.errors import PreconditionFailed

ADAPTER = frozenset({"adapter/adapter_model.safetensors", "adapter/adapter_config.json"})
"""What PEFT reads of an adapter."""
REPORT = "training_report.json"
_WHOLE = frozenset({"hf/config.json", "hf/model.safetensors", "gguf"})
_OTHERS = frozenset({"adapter.gguf", "fidelity_probe.json", REPORT})
_BESIDE_WEIGHTS = frozenset(
    {
        "hf/generation_config.json",
        "hf/tokenizer.json",
        "hf/tokenizer_config.json",
        "hf/special_tokens_map.json",
        "hf/chat_template.jinja",
        "hf/vocab.txt",
    }
)
_MEDIA_TYPES = {
    "safetensors": "application/vnd.safetensors",
    "json": "application/json",
    "gguf": "application/vnd.gguf",
    "jinja": "text/plain",
    "txt": "text/plain",
}


def media_types(roles: Iterable[str]) -> dict[str, str]:
    """Media types of a run's files by role.

    Raises:
        PreconditionFailed: WORKER_UNKNOWN, these are not the files of an adapter or of a whole model, with a report.
    """
    made = set(roles)
    known = ADAPTER | _WHOLE | _OTHERS | _BESIDE_WEIGHTS
    if not made <= known or REPORT not in made or not (made >= ADAPTER or made >= _WHOLE):
        message = f"the training process made {sorted(made)}; install the worker of the trainer's release"
        raise PreconditionFailed("WORKER_UNKNOWN", message)
    return {role: _MEDIA_TYPES[role.rpartition(".")[2]] for role in sorted(made)}
