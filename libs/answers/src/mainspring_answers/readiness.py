"""Whether a door can answer: not whether Triton's port is open, but whether an inference works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mainspring_answers.routing import RoutingFollower
from mainspring_answers.triton import TritonClient
from mainspring_svckit.errors import Unavailable


def answering(triton: TritonClient, routes: RoutingFollower) -> Callable[[], Awaitable[None]]:
    """A probe for readiness: the server is there and, where models are routed, one of them answers.

    One is enough: a single model that cannot answer must not take a door away from all the others. A model that is too
    busy to answer the probe counts as one that answers. The probe raises `Unavailable`.
    """

    async def check() -> None:
        await triton.check_server()
        failure: Unavailable | None = None
        for table in routes.all_tables():
            route = table.main_route
            if route is None:
                continue
            try:
                await triton.probe(route.triton_model)
            except Unavailable as err:
                if err.reason != "MODEL_NOT_READY":
                    return
                failure = err
            else:
                return
        if failure is not None:
            raise failure

    return check
