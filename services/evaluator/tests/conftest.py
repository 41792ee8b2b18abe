"""What tests of the process share."""

import pytest

from mainspring_testkit.neighbours import ServeNeighbours
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import Surroundings

from .plane import SERVICES, Plane
from .processes import Evaluator, start_evaluator


@pytest.fixture
async def plane(neighbours: ServeNeighbours) -> tuple[Plane, str]:
    """What the evaluator asks, on one port."""
    made = Plane()
    return made, (await neighbours(made, *SERVICES)).address


@pytest.fixture
async def evaluator(
    surroundings: Surroundings, postgres: PostgresServer, artifact_url: str, plane: tuple[Plane, str]
) -> Evaluator:
    database = await postgres.new_database("mainspring_evaluator")
    return await start_evaluator(surroundings, database, artifact_url, plane)
