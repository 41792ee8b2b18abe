"""Who does the tasks of an ingestion: this process, or some beside it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache, partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from mainspring_data_ingest.adapters.children import (
    OUT_OF_MEMORY,
    collect_rarely,
    ended,
    may_lack_memory,
    out_of_memory,
    watch_memory,
)
from mainspring_data_ingest.adapters.jobs import JOB
from mainspring_data_ingest.adapters.workshop import Done, Task, Workshop
from mainspring_data_ingest.application.refining import RecordChunk
from mainspring_svckit.errors import InsufficientStorage, InvalidInput, MainspringError, Unavailable

ATTEMPTS = 2
"""How often a task is tried whose process dies of it."""
Answer = tuple[Any, ...]
"""A kind of outcome, and what belongs to it."""


class Executor(Protocol):
    """Does tasks."""

    def run(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """What came of each, in any order. Takes a task from the iterator when somebody can do it soon.

        Raises:
            MainspringError: A task cannot be done; the reason says why.
        """
        ...

    def close(self) -> None:
        """Ends what it started; a later `run` starts it anew."""
        ...


class Inline:
    """Does everything in this process."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    def run(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """See `Executor`."""
        return map(self._workshop.do, tasks)

    def close(self) -> None:
        """See `Executor`."""


class _Helper:
    """A process with the task that it does."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, str(folder)), daemon=True)
        self.process.start()
        theirs.close()
        self.tasks: deque[Task] = deque()

    def give(self, task: Task) -> None:
        self.tasks.append(task)
        with suppress(ConnectionError):  # It has died; whoever waits for its answer finds out.
            self.connection.send(task)

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


class Processes:
    """Does tasks in several processes. One that dies costs what it did a second try."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder, count
        self._helpers: list[_Helper] = []
        self._attempts: dict[int, int] = {}

    def run(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """See `Executor`."""
        waiting, again = iter(tasks), deque[Task]()
        exhausted = False
        while True:
            while len(self._helpers) < self._count:
                self._helpers.append(_Helper(self._folder))
            for helper in sorted(self._helpers, key=lambda helper: len(helper.tasks)):
                # One in work and one that waits for it, so that nobody is idle while we read.
                while len(helper.tasks) < 2 and not exhausted:
                    task = again.popleft() if again else next(waiting, None)
                    if task is None:
                        exhausted = True
                    else:
                        helper.give(task)
            busy = {helper.connection: helper for helper in self._helpers if helper.tasks}
            if not busy:
                return
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                helper = busy[connection]
                try:
                    told = connection.recv()
                except (EOFError, ConnectionError):
                    again.extend(self._bury(helper))
                    exhausted = False
                    continue
                helper.tasks.popleft()
                yield outcome(told, self._folder)

    def close(self) -> None:
        """See `Executor`."""
        for helper in self._helpers:
            helper.end()
        self._helpers.clear()

    def _bury(self, helper: _Helper) -> Iterable[Task]:
        """The tasks of a process that died, to be done again."""
        self._helpers.remove(helper)
        helper.process.join()
        status = helper.process.exitcode or 0
        helper.end()
        if status == OUT_OF_MEMORY:
            raise out_of_memory()
        first = helper.tasks[0]
        key = id(first)
        self._attempts[key] = self._attempts.get(key, 0) + 1
        if self._attempts[key] >= ATTEMPTS:
            hint = "; it may have run out of memory" if may_lack_memory(status) else ""
            message = f"a process that refined {named(first)} {ended(status)}, {ATTEMPTS} times{hint}"
            raise Unavailable("REFINING_WORKER_DIED", message)
        return helper.tasks


def named(task: Task) -> str:
    """What a person may know a task by."""
    if isinstance(task, RecordChunk):
        records = task.records
        return f"lines {records[0].line} to {records[-1].line} of source {task.source_index}"
    return f"shard {task.number} of {task.split.value.lower()}"


def answer(do: Callable[[], Any]) -> Answer:
    """What is done, or why it cannot be, so that it can be told to another process; what it quotes is no data."""
    try:
        return "done", do()
    except MainspringError as err:
        return "refused", err.reason, err.message
    except MemoryError:
        err = out_of_memory()
        return "refused", err.reason, err.message
    except Exception as err:  # noqa: BLE001 - the other process reports it.
        if isinstance(err, OSError) and err.errno in {errno.ENOSPC, errno.EDQUOT}:
            return ("no_space",)
        return "failed", f"{''.join(traceback.format_tb(err.__traceback__)[-3:])}{type(err).__name__}"


def outcome(answer: Answer, folder: Path) -> Any:
    """What was done, as `answer` told.

    Raises:
        MainspringError: It cannot be done.
        WorkerFailed: It failed.
    """
    match answer:
        case ("done", done):
            return done
        case ("refused", reason, message):
            raise InvalidInput(message, reason=reason)
        case ("no_space",):
            raise InsufficientStorage(str(folder))
        case _:
            raise WorkerFailed(answer[1])


class WorkerFailed(Exception):
    """A task failed in a way that nobody foresaw; the message says where, and quotes no data."""


def _serve(connection: Connection, folder: str) -> None:
    """Runs in a helping process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    watch_memory()
    collect_rarely()
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    # Tasks are taken off the connection as they come: were both ends to wait until their words are heard, nobody would
    # listen.
    tasks: SimpleQueue[Task | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, tasks), daemon=True).start()
    workshop = cache(lambda: Workshop(JOB.validate_json((Path(folder) / "job.json").read_bytes()), Path(folder)))
    while (task := tasks.get()) is not None:
        connection.send(answer(partial(_do, workshop, task)))


def _do(workshop: Callable[[], Workshop], task: Task) -> Done:
    return workshop().do(task)


def _listen(connection: Connection, tasks: SimpleQueue[Task | None]) -> None:
    with suppress(EOFError, OSError):
        while True:
            tasks.put(connection.recv())
    tasks.put(None)


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
