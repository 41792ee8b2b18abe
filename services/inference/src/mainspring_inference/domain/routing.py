"""From deployments and traffic to a routing table."""

from __future__ import annotations

from collections.abc import Sequence

from mainspring_answers.domain import Route, RoutingTable
from mainspring_inference.domain.deployments import Deployment
from mainspring_inference.domain.rollouts import Served, Traffic

_NOBODY = Served("", "")


def routing_table(traffic: Traffic, deployments: Sequence[Deployment]) -> RoutingTable:
    """The table of a model: every deployment that can be reached, with its share of the traffic, under each release."""
    routes: list[Route] = []
    for deployment in sorted(deployments, key=lambda d: d.name):
        if not deployment.routable:
            continue
        for percent, served in traffic.shares_of(deployment.model_version) or [(0, _NOBODY)]:
            routes.append(
                Route(
                    model_version=deployment.model_version,
                    release=served.release,
                    percent=percent,
                    triton_model=deployment.triton_model,
                    context_tokens=deployment.serving.context_tokens,
                    chat_template=deployment.serving.chat_template,
                    bos_token=deployment.serving.bos_token,
                    eos_token=deployment.serving.eos_token,
                    dimensions=deployment.serving.dimensions,
                    cycle=served.cycle,
                    unit=served.unit,
                )
            )
    return RoutingTable(traffic.name, traffic.revision, tuple(routes))
