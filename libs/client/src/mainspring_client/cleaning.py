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


def steps_of(*, clean: bool, languages: Sequence[str], keep_out: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps as the contract's JSON, in the order in which they help each other.

    Text is repaired before it is judged, personal data is masked before rows are compared, and evaluation data goes
    before the search for near duplicates, so that a leak is named as one.

    Args:
        clean: Whether texts are repaired, judged, masked and compared with each other.
        languages: ISO 639-1 codes to keep; all when empty.
        keep_out: Evaluation sets as `decontamination` takes them.
    """
    language = [{"language_filter": {"languages": list(languages)}}] if languages else []
    leaks = [{"decontamination": held_out} for held_out in keep_out]
    if not clean:
        return [*language, *leaks]
    return [*CLEAN, *language, *CLEAN_AT_THE_END, *leaks, *NEAR]
