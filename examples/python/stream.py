"""Prints an answer while it is written.

python stream.py projects/demo/models/summaries "def add(a, b): ..."
"""

from __future__ import annotations

import asyncio
import sys

from mainspring_client import Mainspring


async def main(model: str, question: str) -> None:
    """The last thing that comes is the whole answer; a stream that breaks before raises `Unavailable`."""
    async with Mainspring.connect() as mainspring:
        async for part in mainspring.inference.stream(model, question):
            if isinstance(part, str):
                print(part, end="", flush=True)
            else:
                print(f"\n{part.name}", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
