"""The registry's signature, by a local key or a key management service."""

from __future__ import annotations

import asyncio

from mainspring_proof import bundles, statements
from mainspring_proof.bundles import Statement
from mainspring_proof.keys import Signer
from mainspring_registry.domain.records import ReleaseRecord
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.logs import get_logger

_TIMEOUT_S = 10.0
log = get_logger(__name__)


class SigningNotary:
    """`Notary` with one key."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

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

    async def _sign(self, statement: Statement) -> bytes:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await asyncio.to_thread(bundles.sign, statement, self._signer)
        except Exception as err:  # Each vendor's library has errors of its own.
            log.warning("signing_failed", error=type(err).__name__)
            message = f"the signing key cannot be used now ({type(err).__name__}); it is tried again"
            raise Unavailable("SIGNER_UNAVAILABLE", message) from err
