"""Refining on a Ray cluster: chunks of records go out as tasks, their files come back and are written here.

Only the refining process imports this, and only when the service's engine is Ray. Ray's own protocol carries pickles in
both directions, so the cluster is as trusted as the service itself (docs/adr/0019).
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before Ray is imported, which reads them then: it tells nobody how it is used, and a cluster ends the tasks of a
# client that was killed this many seconds after it lost the connection.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "5")

import ray
from ray.exceptions import RayError, RayTaskError

from mainspring_data_ingest.adapters.children import collect_rarely
from mainspring_data_ingest.adapters.chunks import ChunkFolder
from mainspring_data_ingest.adapters.executors import Answer, WorkerFailed, answer, named, outcome
from mainspring_data_ingest.adapters.jobs import JOB, Job
from mainspring_data_ingest.adapters.workshop import Done, Task, Workshop
from mainspring_data_ingest.application.refining import RecordChunk
from mainspring_svckit.errors import InvalidInput, Unavailable

_RETRIES = 3
"""How often a chunk is done again whose worker, or whose machine, is lost."""
_CONNECT_S = 10.0
_SCHEME = "ray://"


@dataclass(frozen=True)
class Kit:
    """What a worker needs to know once.

    Attributes:
        key: Digest of the rest.
        release: Version of this package; another one might refine differently.
        job: The job.
        files: The files of the job's steps, as `Job.held_out` has them.
    """

    key: str
    release: str
    job: bytes
    files: tuple[tuple[bytes, ...], ...]

    @classmethod
    def of(cls, job: Job) -> Kit:
        """What a worker needs for a job."""
        files = tuple(tuple(source.path.read_bytes() for source in step) for step in job.held_out)
        body, release = JOB.dump_json(job), version("mainspring-data-ingest")
        digest = hashlib.sha256(release.encode() + body)
        for data in (data for step in files for data in step):
            digest.update(hashlib.sha256(data).digest())
        return cls(digest.hexdigest(), release, body, files)


class Cluster:
    """An `Executor` of chunks: does them as tasks of a Ray cluster."""

    def __init__(self, job: Job, folder: Path, address: str) -> None:
        """Connects to `host:port` of a cluster that this machine is part of, or to `ray://host:port` of any other.

        Raises:
            Unavailable: Nobody answers there.
        """
        self._folder, self._chunks = folder, ChunkFolder(folder / "chunks")
        self._running: dict[Any, RecordChunk] = {}
        _connect(address)
        self._key = (kit := Kit.of(job)).key
        self._kit = ray.put(kit)
        self._refine: Any = ray.remote(num_cpus=1, max_retries=_RETRIES)(refined)

    def run(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """See `Executor`."""
        waiting = iter(tasks)
        while True:
            room = self._room()
            while len(self._running) < room and (task := next(waiting, None)) is not None:
                assert isinstance(task, RecordChunk)
                # In a list, Ray hands the reference on, and the kit only to workers that do not have it.
                self._running[self._refine.remote([self._kit], self._key, task)] = task
            if not self._running:
                return
            done, _ = ray.wait(list(self._running), num_returns=1)
            for reference in done:
                chunk = self._running.pop(reference)
                yield self._chunks.put(chunk.number, outcome(_told(reference, chunk), self._folder))

    def close(self) -> None:
        """See `Executor`; only that it does not run again."""
        with suppress(RayError, ConnectionError):
            for reference in self._running:
                ray.cancel(reference, force=True)
        ray.shutdown()

    def _room(self) -> int:
        """Chunks that may be out: one in work and one that waits for each processor, so that a cluster that can grow
        sees what there is to do. Those that are out are all that is in memory here.
        """
        return max(4, 2 * int(ray.cluster_resources().get("CPU", 0)))


def _connect(address: str) -> None:
    host, _, port = address.removeprefix(_SCHEME).rpartition(":")
    try:
        # Ray itself would try for minutes.
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, namespace="mainspring-data-ingest")
    except (OSError, ValueError, RuntimeError) as err:
        message = f"no Ray cluster of this version of Ray and Python answers at {address} ({type(err).__name__})"
        raise Unavailable("REFINING_CLUSTER_UNREACHABLE", message) from err


def _told(reference: Any, chunk: RecordChunk) -> Answer:
    try:
        return ray.get(reference)
    except RayTaskError as err:  # Not `refined`, which answers; what the error says may quote data.
        raise WorkerFailed(f"Ray could not do a task: {type(err.cause).__name__}") from err
    except RayError as err:
        message = f"workers that refined {named(chunk)} were lost {1 + _RETRIES} times ({type(err).__name__})"
        raise Unavailable("REFINING_WORKER_DIED", message) from err


_workshops: dict[str, tuple[Workshop, Any]] = {}
"""The workshop of this worker's newest job, with the folder of its files."""


def refined(kit: list[Any], key: str, chunk: RecordChunk) -> Answer:
    """Runs on the cluster: a chunk's files."""
    return answer(lambda: (_workshops[key][0] if key in _workshops else _workshop(ray.get(kit[0]))).refined(chunk))


def _workshop(kit: Kit) -> Workshop:
    ours = version("mainspring-data-ingest")
    if kit.release != ours:
        message = f"the service is version {kit.release}, its Ray cluster {ours}; both must run the same"
        raise InvalidInput(message, reason="REFINING_CLUSTER_DIFFERS")
    job, home = JOB.validate_json(kit.job), tempfile.TemporaryDirectory(prefix="mainspring-refining-")
    folder = Path(home.name)
    held_out = tuple(
        tuple(
            replace(source, path=_put(folder / f"step-{step}-{number}", kit.files[step][number]))
            for number, source in enumerate(sources)
        )
        for step, sources in enumerate(job.held_out)
    )
    workshop = Workshop(replace(job, held_out=held_out), folder)
    collect_rarely()
    _workshops.clear()
    _workshops[kit.key] = workshop, home
    return workshop


def _put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
