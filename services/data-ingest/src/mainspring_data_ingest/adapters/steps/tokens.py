"""Lengths in the tokens of the model that shall learn."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from mainspring_data_ingest.adapters.steps.base import BaseStep
from mainspring_data_ingest.domain.records import RefusalReason, RowRefused
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import TokenStatistics
from mainspring_svckit.errors import InvalidInput

_BUCKETS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)


class TokensStep(BaseStep):
    """Counts tokens, and refuses what has too many."""

    name = "token_statistics"

    def __init__(self, step: TokenStatistics, tokenizer: Path) -> None:
        super().__init__()
        self._step = step
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer.read_text("utf-8"))
        except Exception as err:  # the library raises Exception itself.
            message = "the tokenizer of token_statistics cannot be read; give a model's tokenizer.json"
            raise InvalidInput(message, reason="TOKENIZER_UNREADABLE") from err
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def apply(self, draft: Draft) -> Draft:
        """See `Step`."""
        step = self._step
        count = len(self._tokenizer.encode(draft.text(step.part), add_special_tokens=False).ids)
        self.found["tokens"] += count
        for bucket in _BUCKETS:
            if count <= bucket:
                self.found[f"rows_to_{bucket:04}_tokens"] += 1
                break
        else:
            self.found["rows_with_more_tokens"] += 1
        if step.max_tokens and count > step.max_tokens:
            raise RowRefused(
                RefusalReason.WRONG_LENGTH, f"has {count} tokens; the recipe wants at most {step.max_tokens}"
            )
        return draft
