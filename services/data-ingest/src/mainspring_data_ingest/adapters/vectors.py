"""How a refining process gets vectors: it writes texts down and asks the service that started it, which alone may
call the embedder. What was made once lies beside the texts, also for a run that goes on after a kill.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import AsyncIterator, Callable
from itertools import islice
from pathlib import Path
from typing import Any

from mainspring_data_ingest.application.embedding import TEXTS_PER_CALL, Embeddings, embed_texts


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
