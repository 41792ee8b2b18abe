"""Vectors of texts, which an embedding model makes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from mainspring_svckit.errors import InvalidInput, MainspringError, PreconditionFailed, Unavailable

TEXTS_PER_CALL = 64
LOADING, LOADING_S = "MODEL_LOADING", 120.0
"""Reason with which the embedder says that it loads a model now, and how long that is waited for."""
TOO_LONG = "CONTEXT_LENGTH_EXCEEDED"
"""Reason with which the embedder refuses a text that its model has no room for."""
_LOOK_AGAIN_S = 0.5
_LONGEST = 100_000
"""Characters of a text that the embedder takes at most, whatever the model."""
_SHORTEST = 100
"""Characters below which a text is not cut further for a model with a short context."""


class Embeddings(Protocol):
    """Makes vectors of texts."""

    async def embed(self, project: str, model: str, texts: list[str]) -> tuple[list[list[float]], str]:
        """A vector for each text, and the model version that made them.

        Raises:
            MainspringError: As the embedder says.
        """
        ...


async def embed_sample(embeddings: Embeddings, project: str, model: str, texts: Sequence[str]) -> list[list[float]]:
    """Vectors of a sample of texts, as `embed_texts` makes them."""
    vectors: list[list[float]] = []
    for start in range(0, len(texts), TEXTS_PER_CALL):
        vectors += await embed_texts(embeddings, project, model, list(texts[start : start + TEXTS_PER_CALL]))
    return vectors


async def embed_texts(embeddings: Embeddings, project: str, model: str, texts: list[str]) -> list[list[float]]:
    """Vectors of texts; they are cut in half while the model's context is too short for them. A model that nobody used
    yet is waited for.

    Raises:
        Unavailable: EMBEDDER_UNREACHABLE.
        PreconditionFailed: EMBEDDING_REFUSED.
    """
    until = time.monotonic() + LOADING_S
    texts = [text[:_LONGEST] for text in texts]
    while True:
        try:
            return (await embeddings.embed(project, model, texts))[0]
        except Unavailable as err:
            if err.reason == LOADING and time.monotonic() < until:
                await asyncio.sleep(_LOOK_AGAIN_S)
                continue
            message = f"the embedder cannot be asked for vectors of {model} ({err.message}); see that it runs"
            raise Unavailable("EMBEDDER_UNREACHABLE", message) from err
        except InvalidInput as err:
            longest = max(map(len, texts))
            if err.reason != TOO_LONG or longest <= _SHORTEST:
                raise PreconditionFailed("EMBEDDING_REFUSED", f"the embedder, of {model}: {err.message}") from err
            texts = [text[: longest // 2] for text in texts]
        except MainspringError as err:
            raise PreconditionFailed("EMBEDDING_REFUSED", f"the embedder, of {model}: {err.message}") from err
