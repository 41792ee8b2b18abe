"""Folders for files in the making; what a killed process left behind is removed by the next one that starts."""

from __future__ import annotations

import errno
import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mainspring_svckit.errors import InsufficientStorage

_PREFIX = "mainspring-ingestion-"
_LOCK = ".lock"
_GRACE_S = 60.0


class Scratch:
    """Makes folders below one root, which replicas on one machine may share."""

    def __init__(self, root: Path | None) -> None:
        """Takes the root; None for the system's folder of temporary files."""
        self._root = root or Path(tempfile.gettempdir())

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder that is removed at the end of the block.

        Raises:
            InsufficientStorage: The disk is full; also when that shows inside the block.
        """
        with no_space(str(self._root)):
            self._root.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._root))
            try:
                with (folder / _LOCK).open("wb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> int:
        """Removes folders whose process is gone, as their lock shows; returns how many."""
        removed = 0
        for folder in self._root.glob(f"{_PREFIX}*"):
            try:
                if time.time() - folder.stat().st_mtime < _GRACE_S:
                    continue  # Its owner may be about to lock it.
                with (folder / _LOCK).open("ab") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
            except OSError:
                continue  # Somebody works in it, or has just removed it, or it is another user's.
        return removed


@contextmanager
def no_space(where: str) -> Iterator[None]:
    """Turns a full disk into `InsufficientStorage`."""
    try:
        yield
    except OSError as err:
        if err.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise InsufficientStorage(where) from err
        raise
