"""Drawing in a child process: what draws is large, and is not needed otherwise."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from mainspring_data_ingest.domain.report import Report
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.logs import get_logger

MODULE = "mainspring_data_ingest.adapters.plot_process"
TIMEOUT_S = 60.0
log = get_logger(__name__)


class ChildPlotter:
    """`Plotter` by way of a child process for each picture, one at a time."""

    def __init__(self) -> None:
        self._one = asyncio.Semaphore(1)

    async def draw(self, title: str, report: Report) -> bytes:
        """See `Plotter`."""
        body = json.dumps({"title": title, "report": report.as_bytes().decode()}).encode()
        async with self._one:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                MODULE,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={key: value for key, value in os.environ.items() if not key.startswith("MAINSPRING_")},
            )
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    picture, errors = await child.communicate(body)
            except TimeoutError as err:
                raise Unavailable("PLOT_FAILED", f"the report was not drawn in {TIMEOUT_S:.0f} s; try again") from err
            finally:
                if child.returncode is None:
                    child.kill()
                    await child.wait()
        if child.returncode:
            log.error("plot_failed", status=child.returncode, stderr=errors.decode(errors="replace")[-2000:])
            raise Unavailable("PLOT_FAILED", "the report could not be drawn; the service's log tells more")
        return picture
