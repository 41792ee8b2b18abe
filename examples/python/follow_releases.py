"""Hears of every release once, in order, also of those that came while it was not running.

    python follow_releases.py demo my-backend

The second argument is the name under which the bus remembers our place. Events are acknowledged when the next one is
asked for, so one that was in hand when the program died comes again.
"""

from __future__ import annotations

import asyncio
import sys

from mainspring.events.v1 import registry_events_pb2
from mainspring_client import Mainspring


async def main(project: str, durable: str) -> None:
    """Runs until it is interrupted."""
    async with Mainspring.connect() as mainspring:
        async for event in mainspring.subscribe(project, durable=durable):
            match event.data:
                case registry_events_pb2.ModelReleased(release=release, model_version=version, manifest=manifest):
                    print(
                        f"{event.time:%H:%M:%S} released {release}: {version}, manifest {manifest.sha256}", flush=True
                    )
                case registry_events_pb2.ReleaseRevoked(release=release, reason=reason):
                    print(f"{event.time:%H:%M:%S} revoked {release}: {reason}", flush=True)
                case other:
                    print(f"{event.time:%H:%M:%S} {other.DESCRIPTOR.name}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
