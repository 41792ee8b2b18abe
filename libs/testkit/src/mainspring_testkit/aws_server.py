"""A real server of AWS's interfaces on loopback, for S3, KMS and IAM: moto's, in a process of its own, from packages
that `make setup` puts beside ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = Path(sys.prefix) / "s3"
"""Where moto and boto3 are; in front of a process's PYTHONPATH they make it a client."""
# AWS signs a digest as it is when it is told that it is one; moto takes it for a message and hashes it once more.
_PROGRAM = """
import sys
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from moto.kms import models, responses, utils
from moto.server import ThreadedMotoServer

sign_message, respond = utils.ECDSAPrivateKey.sign, responses.KmsResponse.sign

def sign_digest(self, message, signing_algorithm):
    return self.private_key.sign(message, ec.ECDSA(Prehashed(hashes.SHA256())))

def sign(self):
    digest = self._get_param("MessageType") == "DIGEST"
    utils.ECDSAPrivateKey.sign = sign_digest if digest else sign_message
    return respond(self)

responses.KmsResponse.sign = sign
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def aws_server() -> Iterator[str]:
    """Its endpoint. It has no buckets and no keys, and lets everybody in.

    Raises:
        RuntimeError: It is not installed, or ended.
    """
    if not PACKAGES.is_dir():
        raise RuntimeError(f"{PACKAGES} is missing; run `make setup`")
    env = {**os.environ, "PYTHONPATH": str(PACKAGES)}
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
            raise RuntimeError(f"the AWS server ended with status {process.wait()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()
