"""What commands of prompts and guard policies have in common: both are lines of versions with labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mainspring_client.cli.options import Data

if TYPE_CHECKING:
    from mainspring_client.client import Mainspring
    from mainspring_client.guards import Guards
    from mainspring_client.prompts import Prompts


def write_version(
    area: Callable[[Mainspring], Prompts | Guards], line: str, wish: Any, label: str, data: Data, *, as_json: bool
) -> None:
    """Writes a version, points the label at it where there is one, and prints its name."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client

    async def body(mainspring: Mainspring) -> Any:
        made = await area(mainspring).write(line, wish)
        if label:
            await area(mainspring).label(made.name, label)
        return made

    made = with_client(data, body)
    if as_json:
        print_json(made)
    else:
        print(made.name)
