"""The registry's signature, by a local key or a key management service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, cast

from mainspring_proof import bundles, statements
from mainspring_proof.bundles import Statement
from mainspring_proof.keys import Signer
from mainspring_registry.domain.records import ReleaseRecord
from mainspring_svckit.errors import MainspringError, Unavailable
from mainspring_svckit.logs import get_logger

_PROBE = Statement("probe", "0" * 64, "https://mainspring.dev/proof/probe/v1", {})
"""What is signed to see whether the key can be used again; it says nothing of any file."""
log = get_logger(__name__)


class SigningNotary:
    """`Notary` with one key."""

    def __init__(self, signer: Signer, *, pause_s: float = 2.0, timeout_s: float = 10.0) -> None:
        """Takes the key, how long to wait before it is asked again after it failed, and how long for a signature."""
        self._signer, self._pause_s, self._timeout_s = signer, pause_s, timeout_s
        self._usable, self._probing = True, asyncio.Lock()

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
            async with self._probing:
                if self._usable:
                    return
                await asyncio.sleep(self._pause_s)
                with suppress(MainspringError):
                    await self._sign(_PROBE)

    async def _sign(self, statement: Statement) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s):
                signed = await _aside(partial(bundles.sign, statement, self._signer))
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


async def _aside(sign: Callable[[], bytes]) -> bytes:
    """What a call returns, by a thread of its own: a service that hangs keeps it for minutes, and neither the next
    signature nor the end of the process waits for that.
    """
    loop = asyncio.get_running_loop()
    signed: asyncio.Future[bytes] = loop.create_future()

    def settle(result: bytes | None, error: Exception | None) -> None:
        if signed.done():
            return  # Nobody waits any more.
        if error is not None:
            signed.set_exception(error)
        elif result is not None:
            signed.set_result(result)

    def run() -> None:
        result, error = None, None
        try:
            result = sign()
        except Exception as err:  # noqa: BLE001 - whoever waits is told.
            error = err
        with suppress(RuntimeError):  # The loop has ended.
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="signing", daemon=True).start()
    return await signed


def _cause(error: Exception) -> str:
    """What a key management service says, without its words, which name accounts and keys."""
    response: Any = getattr(error, "response", None)  # As botocore's ClientError has it.
    if isinstance(response, Mapping):
        details = cast("Mapping[str, Any]", response).get("Error")
        if isinstance(details, Mapping):
            return str(cast("Mapping[str, Any]", details).get("Code", type(error).__name__))
    return type(error).__name__
