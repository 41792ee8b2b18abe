"""A real Ray cluster on loopback, with machines that can be lost. Needs Ray in the interpreter that runs the cluster.

Run as a program it is the process that holds the cluster: it writes the address to standard output, loses a machine for
each line on standard input, and ends everything when that ends. Whoever started it does not wait for that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import psutil

_STORE_BYTES = 80 << 20
_STOP_S = 30.0


class RayCluster:
    """A cluster of machines with one processor each, and a head without.

    Attributes:
        address: Where a driver on this machine finds it.
        env: What a driver needs in its environment.
    """

    def __init__(self, process: subprocess.Popen[str], address: str, env: dict[str, str]) -> None:
        self._process, self.address, self.env = process, address, env

    def lose_machine(self) -> None:
        """Kills everything on one of its machines."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("lose\n")
        self._process.stdin.flush()
        _read(self._process)

    def processes(self, word: str) -> list[psutil.Process]:
        """Processes of the cluster with that word in their command."""
        return self._whose_command(lambda words: word in words)

    def running(self, task: str) -> list[psutil.Process]:
        """The workers that do a task of that name now."""
        return self._whose_command(lambda words: words[:1] == [f"ray::{task}"])

    def _whose_command(self, fits: Callable[[list[str]], bool]) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # It ends while we look.
                if fits(process.cmdline()):
                    found.append(process)
        return found


@contextlib.contextmanager
def ray_cluster(machines: int = 2, python: str = sys.executable) -> Iterator[RayCluster]:
    """Starts a cluster and ends it with the block. Its ports are free ones on loopback, callers need its token, it has
    no dashboard, and it reports to nobody.

    Args:
        machines: How many have a processor.
        python: Interpreter of the cluster's environment, in which tasks run.
    """
    # A short path: sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        env = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            # The one setting with which Ray uses the loopback address for everything.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        # By its path, since another environment does not have this package; -P keeps its folder from being searched.
        command = [python, "-P", __file__, str(machines)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **env})
        try:
            yield RayCluster(process, _read(process), env)
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Kills everything at once: to be asked to end takes Ray a quarter of a minute, and nothing of it is needed."""
    everything: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        everything = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for left in everything:  # Those who would start others come before these.
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
    psutil.wait_procs(everything, _STOP_S)


def _read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("cluster: "):
            return line.removeprefix("cluster: ").strip()
    raise RuntimeError("the Ray cluster ended")


def main() -> None:
    """Holds a cluster."""
    from ray.cluster_utils import Cluster

    options: dict[str, Any] = {
        "include_dashboard": False,
        "include_log_monitor": False,
        "object_store_memory": _STORE_BYTES,
    }
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **options})
    try:
        machines = [cluster.add_node(num_cpus=1, **options) for _ in range(int(sys.argv[1]))]
        _tell(cluster.address)
        for _ in sys.stdin:
            cluster.remove_node(machines.pop(), allow_graceful=False)
            _tell("one less")
    finally:
        cluster.shutdown()


def _tell(what: str) -> None:
    sys.stdout.write(f"cluster: {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
