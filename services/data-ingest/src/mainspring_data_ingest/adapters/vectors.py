"""How a refining process gets vectors: it writes texts down and asks the service that started it, which alone may
call the embedder. What was made once lies beside the texts, also for a run that goes on after a kill.
"""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections.abc import AsyncIterator, Callable
from itertools import islice
from pathlib import Path
from typing import Any

from mainspring_data_ingest.application.measurements import Embeddings
from mainspring_svckit.errors import InvalidInput, MainspringError, PreconditionFailed, Unavailable

TEXTS_PER_CALL = 64
LOADING, LOADING_S = "MODEL_LOADING", 120.0
"""Reason with which the embedder says that it loads a model now, and how long that is waited for."""
_LOOK_AGAIN_S = 0.5
_SHORTEST = 100
"""Characters below which a text is not cut further for a model with a short context."""


def vectors_of(texts: Path) -> Path:
    """The file of the vectors of a file of texts: 32-bit floats, little-endian, text by text."""
    return texts.with_suffix(".f32")


class AskedVectors:
    """`Vectors` from whoever hears `say` and answers."""

    def __init__(self, say: Callable[[dict[str, Any]], None], wait: Callable[[], object]) -> None:
        """Takes how to ask, and how to wait until it is done."""
        self._say, self._wait = say, wait

    def __call__(self, texts: Path, model: str) -> Path:
        """See `Vectors`."""
        path = vectors_of(texts)
        if not path.exists():
            self._say({"embed": texts.name, "model": model})
            self._wait()
        return path


async def embed_file(embeddings: Embeddings, project: str, model: str, texts: Path) -> None:
    """Makes the vectors of a file of texts, whole or not at all.

    Raises:
        MainspringError: The embedder cannot be asked, or refuses; the message says so.
    """
    path = vectors_of(texts)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        async for vectors in _embedded(embeddings, project, model, texts):
            for vector in vectors:
                values = array("f", vector)
                file.write(values.tobytes())
    partial.rename(path)


async def _embedded(embeddings: Embeddings, project: str, model: str, texts: Path) -> AsyncIterator[list[list[float]]]:
    with texts.open("rb") as lines:
        while batch := [json.loads(line) or " " for line in islice(lines, TEXTS_PER_CALL)]:
            yield await embed_texts(embeddings, project, model, batch)


async def embed_texts(embeddings: Embeddings, project: str, model: str, texts: list[str]) -> list[list[float]]:
    """Vectors of texts; they are cut in half while the model's context is too short for them. A model that nobody used
    yet is waited for.

    Raises:
        Unavailable: EMBEDDER_UNREACHABLE.
        PreconditionFailed: EMBEDDING_REFUSED.
    """
    until = time.monotonic() + LOADING_S
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
            if longest <= _SHORTEST:
                raise PreconditionFailed("EMBEDDING_REFUSED", f"the embedder: {err.message}") from err
            texts = [text[: longest // 2] for text in texts]
        except MainspringError as err:
            raise PreconditionFailed("EMBEDDING_REFUSED", f"the embedder, of {model}: {err.message}") from err
