"""Large files against their digests (faults.md F10), beside whatever else the service does.

Whoever decides waits a while; what was not read by then is read on, and the next decision knows it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from mainspring_registry.application.ports import FileStore
from mainspring_svckit.errors import MainspringError, NotFound, PreconditionFailed
from mainspring_svckit.logs import get_logger
from mainspring_svckit.values import ArtifactRef

KEEP_S = 600.0
"""How long the word counts that a file was whole."""
_AT_A_TIME = 2
log = get_logger(__name__)
_File = tuple[str, str]
"""Project and digest."""


class Comparing:
    """`Comparisons` that reads files and remembers what it found; one in each process."""

    def __init__(self, files: FileStore, *, wait_s: float, now: Callable[[], float] = time.monotonic) -> None:
        """Takes the store, how long one who decides waits at most, and a clock for this process alone."""
        self._files, self._wait_s, self._now = files, wait_s, now
        self._reading: dict[_File, asyncio.Task[None]] = {}
        self._whole: dict[_File, float] = {}
        self._damaged: set[_File] = set()
        self._place = asyncio.Semaphore(_AT_A_TIME)

    async def look(self, project: str, files: Collection[ArtifactRef]) -> None:
        """Has files compared that were not found whole of late, and waits for that, but not for long."""
        now = self._now()
        self._whole = {file: seen for file, seen in self._whole.items() if now - seen < KEEP_S}
        wanted = {(project, file.sha256): file for file in files}
        for key, file in wanted.items():
            if key not in self._whole and key not in self._reading:
                task = asyncio.create_task(self._read(project, file), name=f"comparison of {file.sha256}")
                self._reading[key] = task
                task.add_done_callback(lambda _, key=key: self._reading.pop(key, None))
        reading = [self._reading[key] for key in wanted if key in self._reading]
        if reading:
            _, late = await asyncio.wait(reading, timeout=self._wait_s)
            if late:
                log.info("files_still_being_compared", files=len(late), of=len(wanted), waited_s=self._wait_s)

    def is_damaged(self, project: str, file: ArtifactRef) -> bool:
        """Whether a file held other bytes when it was last read whole."""
        return (project, file.sha256) in self._damaged

    async def _read(self, project: str, file: ArtifactRef) -> None:
        key = project, file.sha256
        async with self._place:
            try:
                async for _ in self._files.stream(project, file):
                    pass
            except (NotFound, PreconditionFailed) as err:
                self._damaged.add(key)
                log.error("file_damaged", project=project, sha256=file.sha256, reason=err.reason)
            except MainspringError as err:  # Nothing is known of it; the next one who decides has it read again.
                log.warning("file_not_compared", project=project, sha256=file.sha256, reason=err.reason)
            else:
                self._damaged.discard(key)
                self._whole[key] = self._now()
