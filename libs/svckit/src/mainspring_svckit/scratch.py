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
from typing import BinaryIO

from mainspring_svckit.errors import InsufficientStorage

_KEYED = "of-"
_LOCK = ".lock"
_GRACE_S, _KEPT_S = 60.0, 86_400.0


class Scratch:
    """Makes folders below one root, which replicas on one machine may share."""

    def __init__(self, name: str, root: Path | None) -> None:
        """Takes a word for the names of folders, which nobody else below this root has, and the root; None for the
        system's folder of temporary files.
        """
        self._prefix, self._root = f"mainspring-{name}-", root or Path(tempfile.gettempdir())

    @contextmanager
    def folder(self, key: str = "") -> Iterator[Path]:
        """A folder that is removed at the end of the block. With a key it is the one that a killed process left for
        this key, if there is one; when somebody works in that one, another.

        Raises:
            InsufficientStorage: The disk is full; also when that shows inside the block.
        """
        with no_space(str(self._root)):
            self._root.mkdir(parents=True, exist_ok=True)
            folder, lock = self._locked(key)
            with lock:
                try:
                    yield folder
                finally:
                    shutil.rmtree(folder, ignore_errors=True)

    def _locked(self, key: str) -> tuple[Path, BinaryIO]:
        if key:
            folder = self._root / f"{self._prefix}{_KEYED}{key}"
            folder.mkdir(exist_ok=True)
            lock = (folder / _LOCK).open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
            else:
                return folder, lock
        folder = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self._root))
        lock = (folder / _LOCK).open("ab")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return folder, lock

    def sweep(self) -> int:
        """Removes folders whose process is gone, as their lock shows; those with a key after a day, since their work
        may go on. Returns how many.
        """
        removed = 0
        for folder in self._root.glob(f"{self._prefix}*"):
            try:
                grace_s = _KEPT_S if folder.name.startswith(f"{self._prefix}{_KEYED}") else _GRACE_S
                if time.time() - folder.stat().st_mtime < grace_s:
                    continue  # Its owner may be about to lock it, or somebody to go on with it.
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
