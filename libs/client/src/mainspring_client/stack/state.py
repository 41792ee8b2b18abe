"""What the supervisor knows, as it stands in `state.json`. Holds no secrets."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import psutil

from mainspring_client.stack.component import same_process
from mainspring_client.stack.folder import write_private

NOTICES_KEPT = 50


class Phase(StrEnum):
    """Where the stack as a whole stands."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Health(StrEnum):
    """Where one process stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    RESTARTING = "restarting"
    FAILING = "failing"
    STOPPED = "stopped"


@dataclass
class ProcessState:
    """One process of the stack.

    Attributes:
        name: Its name, which is also that of its log file.
        health: Where it stands.
        pid: Process id, 0 while there is none.
        create_time: When that process was started, in seconds since the epoch; tells it from a later one with its id.
        restarts: How often it was started again since the stack was.
        detail: Why it stands where it stands, in words.
    """

    name: str
    health: Health = Health.WAITING
    pid: int = 0
    create_time: float = 0.0
    restarts: int = 0
    detail: str = ""

    @property
    def alive(self) -> bool:
        """Whether the process exists now."""
        return self.pid > 0 and same_process(self.pid, self.create_time)


@dataclass
class Notice:
    """Something that a person should know, with the time in seconds since the epoch."""

    time: float
    text: str


@dataclass
class StackState:
    """The whole stack.

    Attributes:
        phase: Where it stands as a whole.
        supervisor_pid: Process id of the supervisor.
        supervisor_create_time: As for processes.
        start_time: When the supervisor began, in seconds since the epoch.
        ports: Port by name; kept from one start to the next.
        addresses: Address by what listens there.
        options: How it was started; kept from one start to the next.
        processes: The processes in the order in which they are stopped, reversed.
        notices: The newest notices, oldest first.
    """

    phase: Phase = Phase.STOPPED
    supervisor_pid: int = 0
    supervisor_create_time: float = 0.0
    start_time: float = 0.0
    ports: dict[str, int] = field(default_factory=dict[str, int])
    addresses: dict[str, Any] = field(default_factory=dict[str, Any])
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    processes: dict[str, ProcessState] = field(default_factory=dict[str, ProcessState])
    notices: list[Notice] = field(default_factory=list[Notice])

    @property
    def supervised(self) -> bool:
        """Whether the supervisor lives."""
        return self.supervisor_pid > 0 and same_process(self.supervisor_pid, self.supervisor_create_time)

    @property
    def ready(self) -> bool:
        """Whether every process can do its work."""
        return self.phase is Phase.RUNNING and all(p.health is Health.READY for p in self.processes.values())

    def claim(self) -> None:
        """Says that this process is the supervisor."""
        self.supervisor_pid = os.getpid()
        self.supervisor_create_time = psutil.Process().create_time()
        self.start_time = time.time()

    def add_notice(self, text: str) -> None:
        """Adds a notice and forgets old ones."""
        self.notices = [*self.notices, Notice(time.time(), text)][-NOTICES_KEPT:]

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        write_private(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> StackState:
        """Reads the file; a missing or unreadable one is a stack that was never started."""
        try:
            stored: Any = json.loads(path.read_text())
        except (OSError, ValueError):
            return cls()
        if not isinstance(stored, dict):
            return cls()
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: v for k, v in cast("dict[str, Any]", stored).items() if k in known}
        values["phase"] = Phase(values.get("phase", Phase.STOPPED))
        processes: dict[str, Any] = values.get("processes", {})
        for entry in processes.values():
            entry["health"] = Health(entry["health"])
        values["processes"] = {name: ProcessState(**entry) for name, entry in processes.items()}
        values["notices"] = [Notice(**notice) for notice in values.get("notices", [])]
        return cls(**values)
