"""A real S3 server on loopback: moto's, in a process of its own, from packages that `make setup` puts beside ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PACKAGES = Path(sys.prefix) / "s3"
_PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """Its endpoint. It has no buckets, and takes any key.

    Raises:
        RuntimeError: It is not installed, or ended.
    """
    if not _PACKAGES.is_dir():
        raise RuntimeError(f"{_PACKAGES} is missing; run `make setup`")
    env = {**os.environ, "PYTHONPATH": str(_PACKAGES)}
    # What it logs of requests is of no use here.
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"the S3 server ended with status {process.wait()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()
