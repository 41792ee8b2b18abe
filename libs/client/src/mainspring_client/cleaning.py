"""The steps that most files need, for `mainspring datasets import --clean`; a recipe of one's own can have any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CLEAN = (
    {"text_repair": {}},
    {"markup_to_text": {}},
    {"quality_filter": {}},
)
CLEAN_AT_THE_END = ({"personal_data": {}},)
NEAR = ({"near_duplicates": {}},)


DEFAULT_SPLIT = {"train_percent": 80, "validation_percent": 10, "test_percent": 10}
"""What recipes have that say nothing of splits."""


def steps_of(
    *, clean: bool, languages: Sequence[str], keep_out: Sequence[dict[str, Any]], tokenizer_of: str = ""
) -> list[dict[str, Any]]:
    """Steps as the contract's JSON, in the order in which they help each other.

    Text is repaired before it is judged, personal data is masked before rows are compared, and evaluation data goes
    before the search for near duplicates, so that a leak is named as one.

    Args:
        clean: Whether texts are repaired, judged, masked and compared with each other.
        languages: ISO 639-1 codes to keep; all when empty.
        keep_out: Evaluation sets as `decontamination` takes them.
        tokenizer_of: Model version whose tokenizer counts what is left; none when empty.
    """
    language = [{"language_filter": {"languages": list(languages)}}] if languages else []
    leaks = [{"decontamination": held_out} for held_out in keep_out]
    tokens = [{"token_statistics": {"model_version": tokenizer_of}}] if tokenizer_of else []
    if not clean:
        return [*language, *leaks, *tokens]
    return [*CLEAN, *language, *CLEAN_AT_THE_END, *leaks, *NEAR, *tokens]
