"""The registry's signature, by a local key or a key management service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, cast

from mainspring_proof import bundles, statements
from mainspring_proof.bundles import Statement
from mainspring_proof.keys import Signer
from mainspring_registry.domain.records import ReleaseRecord
from mainspring_svckit.errors import MainspringError, Unavailable
from mainspring_svckit.logs import get_logger

_TIMEOUT_S = 10.0
_PROBE = Statement("probe", "0" * 64, "https://mainspring.dev/proof/probe/v1", {})
"""What is signed to see whether the key can be used again; it says nothing of any file."""
log = get_logger(__name__)


class SigningNotary:
    """`Notary` with one key."""

    def __init__(self, signer: Signer, *, pause_s: float = 2.0) -> None:
        """Takes the key, and how long to wait before it is asked again after it has failed."""
        self._signer, self._pause_s = signer, pause_s
        # Threads of its own: a service that hangs keeps them for minutes, and nobody else shall wait for that.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="signing")
        self._usable = True

    async def sign_version(self, manifest: bytes) -> bytes:
        return await self._sign(statements.version_statement(manifest))

    async def sign_release(self, record: ReleaseRecord) -> bytes:
        return await self._sign(
            statements.release_statement(
                release=record.release,
                model_version=record.model_version,
                manifest_sha256=record.manifest_sha256,
                policy=record.policy,
                policy_sha256=record.policy_sha256,
                evidence=record.evidence,
                time=record.time,
                details=record.details,
            )
        )

    async def usable(self) -> None:
        """Returns when the key can be used, as far as is known; after it has failed it is tried until it signs.

        Whoever reacts to events by signing waits for this before he takes one, so that an outage of hours does not use
        up their attempts.
        """
        while not self._usable:
            await asyncio.sleep(self._pause_s)
            with suppress(MainspringError):
                await self._sign(_PROBE)

    async def _sign(self, statement: Statement) -> bytes:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                loop = asyncio.get_running_loop()
                signed = await loop.run_in_executor(self._threads, bundles.sign, statement, self._signer)
        except MainspringError as err:
            self._usable = False
            log.warning("signing_failed", reason=err.reason)
            raise
        except Exception as err:  # Each vendor's library has errors of its own.
            self._usable = False
            cause = _cause(err)
            log.warning("signing_failed", cause=cause)
            message = f"the signing key cannot be used now ({cause}); nothing goes on without it, and it is tried again"
            raise Unavailable("SIGNER_UNAVAILABLE", message, metadata={"cause": cause}) from err
        self._usable = True
        return signed


def _cause(error: Exception) -> str:
    """What a key management service says, without its words, which name accounts and keys."""
    response: Any = getattr(error, "response", None)  # As botocore's ClientError has it.
    if isinstance(response, Mapping):
        details = cast("Mapping[str, Any]", response).get("Error")
        if isinstance(details, Mapping):
            return str(cast("Mapping[str, Any]", details).get("Code", type(error).__name__))
    return type(error).__name__
