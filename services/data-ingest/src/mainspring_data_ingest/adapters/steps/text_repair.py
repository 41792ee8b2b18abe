"""Encodings that went wrong, by ftfy."""

from __future__ import annotations

import ftfy

from mainspring_data_ingest.adapters.steps.base import BaseStep
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import TextRepair

# Entities belong to the step for markup. Quotes, ligatures and wide characters may be meant as they are.
_CONFIG = ftfy.TextFixerConfig(
    unescape_html=False, uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False, normalization="NFC"
)
_LOST_QUOTE, _QUOTE = "â€\ufffd", "â€\x9d"


class TextRepairStep(BaseStep):
    """Repairs texts."""

    name = "text_repair"

    def __init__(self, step: TextRepair) -> None:
        super().__init__()
        self._part = step.part

    def apply(self, draft: Draft) -> Draft:
        """See `Step`."""
        return draft.changed(self._part, _repaired)


def _repaired(text: str) -> str:
    # What is printable ASCII has nothing to repair; most text is, and this is a hundred times quicker.
    if text.isascii() and (text.isprintable() or text.replace("\n", "").replace("\t", "").isprintable()):
        return text
    # The last byte of a closing quote is none in Windows-1252, so programs that decode UTF-8 as that lose it. Of the
    # five characters that end so, four are invisible or very rare.
    return ftfy.fix_text(text.replace(_LOST_QUOTE, _QUOTE), _CONFIG)
