"""The workers of a run on the cluster, as the process beside the trainer sees them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from mainspring_training_worker.cluster.node import CHUNK, Node, Said, code_digest
from mainspring_training_worker.cluster.shipping import Shipment
from mainspring_training_worker.process import REFUSED, STOPPED
from mainspring_training_worker.progress import Progress
from mainspring_training_worker.spec import Refused

_POLL_S = 0.5
_FAREWELL_S = 10.0
_CALLS_AT_ONCE = 4
_CALL_S = 300.0


class Lost(Exception):
    """A worker has died, or its node, or the way to it."""

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Wanted:
    """What a run asks of the cluster.

    Attributes:
        workers: Processes that learn together.
        cpus: Processors of each.
        wait_s: Longest wait for all of them; after that those that are there begin.
        limits: What each may take; see `Node`.
    """

    workers: int
    cpus: int
    wait_s: float
    limits: Mapping[str, int]


@dataclass
class Heard:
    """What the driver keeps of what workers tell.

    Attributes:
        checkpoint: The newest, or None.
        step: Its step.
        cpu_s: Processor time of workers that have gone.
    """

    checkpoint: Path | None = None
    step: int = 0
    cpu_s: float = 0.0


class Crew:
    """Workers that were started together and end together."""

    def __init__(self, members: Sequence[Any]) -> None:
        self._members = members

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self._members)

    @classmethod
    def gather(cls, wanted: Wanted, progress: Progress, stopping: Callable[[], bool]) -> Crew | None:
        """Workers on as many nodes as there are; fewer than wanted when no more come in time. None: stop was asked.

        Raises:
            Lost: None has come.
            Refused: CLUSTER_MISMATCH, nodes have another release.
        """
        made: Any = ray.remote(Node)
        kind = made.options(num_cpus=wanted.cpus, max_concurrency=_CALLS_AT_ONCE, scheduling_strategy="SPREAD")
        members = [kind.remote(dict(wanted.limits)) for _ in range(wanted.workers)]
        greetings = {member.hello.remote(): member for member in members}
        until = time.monotonic() + wanted.wait_s
        ready: list[Any] = []
        waiting = list(greetings)
        try:
            while waiting and time.monotonic() < until and not stopping():
                progress.tick()
                ready, waiting = ray.wait(list(greetings), num_returns=len(greetings), timeout=_POLL_S)
            if stopping():
                ready = []
                return None
            known = [(greetings[ref], _got(ref)) for ref in ready]
            if not known:
                raise Lost(f"no node with {wanted.cpus} free processors came within {wanted.wait_s:.0f} s")
            if any(said["code"] != code_digest() for _, said in known):
                message = "nodes of the cluster have another release of the training worker; give all one image"
                raise Refused("CLUSTER_MISMATCH", message)
            return cls([member for member, _ in known])
        finally:
            chosen = [greetings[ref] for ref in ready]
            for member in members:
                if member not in chosen:
                    ray.kill(member)

    def begin(self, shipment: Shipment) -> None:
        """Sends the files that they lack and starts them.

        Raises:
            Lost: One has died.
        """
        for member in self._members:
            self._send(member, shipment)
        size = len(self._members)
        address = _got(self._members[0].address.remote()) if size > 1 else ""
        for rank, member in enumerate(self._members):
            team = {"rank": rank, "size": size, "address": address} if size > 1 else None
            _got(member.start.remote({**shipment.spec, "team": team}))

    def follow(self, output: Path, heard: Heard, progress: Progress, stopping: Callable[[], bool]) -> int:
        """Relays what they tell and brings here what they make, until they have ended; returns the exit status.

        Raises:
            Lost: One has died.
        """
        asked = {member.told.remote(): rank for rank, member in enumerate(self._members)}
        used: dict[int, Said] = {}
        status, stopped = STOPPED, False
        while asked:
            if stopping() and not stopped:
                stopped = True
                for member in self._members:
                    member.stop.remote()
            ready, _ = ray.wait(list(asked), num_returns=1, timeout=_POLL_S)
            for ref in ready:
                rank = asked.pop(ref)
                said: Said = _got(ref)
                used[rank] = said
                for line in said.lines:
                    self._relay(rank, line, output, heard, progress)
                cpu_s = heard.cpu_s + sum(one.cpu_s for one in used.values())
                memory = sum(one.memory_bytes for one in used.values())
                progress.tell("usage", cpu_s=cpu_s, memory_bytes=memory)
                if said.status is None:
                    asked[self._members[rank].told.remote()] = rank
                elif said.status not in (0, REFUSED, STOPPED):
                    heard.cpu_s = cpu_s
                    raise Lost(f"a worker ended with status {said.status}: {said.errors[-2000:]}", said.status)
                elif rank == 0 or said.status == REFUSED:
                    status = said.status
                    if status == REFUSED:
                        return status
        return status

    def end(self) -> None:
        """Ends what is left of them."""
        farewells = [member.end.remote() for member in self._members]
        ray.wait(farewells, num_returns=len(farewells), timeout=_FAREWELL_S)
        for member in self._members:
            ray.kill(member)

    def _send(self, member: Any, shipment: Shipment) -> None:
        wanted = {name: sent.sha256 for name, sent in shipment.files.items()}
        sources = {sent.sha256: sent.source for sent in shipment.files.values()}
        for digest in dict.fromkeys(_got(member.missing.remote(wanted))):
            left = sources[digest].stat().st_size
            with sources[digest].open("rb") as file:
                while True:
                    chunk = file.read(CHUNK)
                    left -= len(chunk)
                    _got(member.receive.remote(digest, chunk, last=left <= 0))
                    if left <= 0:
                        break
        if _got(member.missing.remote(wanted)):
            raise Lost("a node does not keep the files that it is sent")

    def _relay(self, rank: int, line: bytes, output: Path, heard: Heard, progress: Progress) -> None:
        told: dict[str, Any] = json.loads(line)
        kind = told.pop("type")
        if kind == "checkpoint":
            path = self._fetch(rank, str(told["file"]), output)
            # A second name, since the trainer takes the first one away.
            newest = output / ".newest.safetensors"
            newest.unlink(missing_ok=True)
            os.link(path, newest)
            heard.checkpoint, heard.step = newest, int(told["step"])
        elif kind == "result":
            for name in sorted(set(told["files"].values())):
                self._fetch(rank, str(name), output)
        progress.tell(kind, **told)

    def _fetch(self, rank: int, name: str, output: Path) -> Path:
        path = (output / name).resolve()
        if not path.is_relative_to(output.resolve()):
            raise Refused("WORKER_UNKNOWN", f"a worker named a file outside its folder: {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            chunk = b"x" * CHUNK
            while len(chunk) == CHUNK:
                chunk = _got(self._members[rank].take.remote(name, file.tell()))
                file.write(chunk)
        partial.rename(path)
        return path


def _got(ref: Any) -> Any:
    """A call's result.

    Raises:
        Lost: Who was called has died.
    """
    try:
        return ray.get(ref, timeout=_CALL_S)
    except (RayError, ConnectionError) as err:
        raise Lost(f"a worker is gone: {err}"[:500]) from err
