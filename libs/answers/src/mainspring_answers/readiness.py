"""Whether a door can answer: not whether Triton's port is open, but whether an inference works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mainspring_answers.routing import RoutingFollower
from mainspring_answers.triton import TritonClient
from mainspring_svckit.errors import Unavailable

# An inference costs some 30 ms of processor time, also when nobody asks anything; every second look takes one.
_FRESH_S = 3.0


def answering(
    triton: TritonClient, routes: RoutingFollower, *, embeddings: bool = False
) -> Callable[[], Awaitable[None]]:
    """A probe for readiness: the server is there and, where models are routed, one of them answers.

    Looks at models that generate text or, for `embeddings`, at those that make vectors. One is enough: a single
    model that cannot answer must not take a door away from all the others. A model that is too busy to answer the
    probe counts as one that answers. The probe raises `Unavailable`.
    """

    async def check() -> None:
        states = await triton.index()
        failure: Unavailable | None = None
        for table in routes.all_tables():
            route = table.main_route
            if route is None or (route.dimensions > 0) is not embeddings:
                continue
            if states.get(route.triton_model) != "READY":
                failure = Unavailable("MODEL_NOT_READY", f"{route.model_version} is not loaded yet")
                continue
            try:
                await triton.probe(route.triton_model, fresh_s=_FRESH_S)
            except Unavailable as err:
                if err.reason != "MODEL_NOT_READY":
                    return
                failure = err
            else:
                return
        if failure is not None:
            raise failure

    return check
