"""Embedding models in Triton, found through the routing tables."""

from __future__ import annotations

from collections.abc import Sequence

from mainspring_answers.domain import choose_route, model_of
from mainspring_answers.ports import Routes
from mainspring_answers.triton import TritonClient
from mainspring_embedder.application.ports import Embedded


class TritonEmbeddings:
    """`Embeddings` by way of Triton."""

    def __init__(self, triton: TritonClient, routes: Routes) -> None:
        self._triton, self._routes = triton, routes

    async def embed(self, model_version: str, texts: Sequence[str]) -> Embedded:
        route = choose_route(self._routes.table(model_of(model_version)), model_version, "")
        vectors, tokens = await self._triton.embed(route.triton_model, texts)
        return Embedded(vectors, tokens)
