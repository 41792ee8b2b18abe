"""Signing and verifying: an in-toto statement in a DSSE envelope in a Sigstore bundle, as model-signing writes them.

Formats: in-toto Attestation Framework v1, DSSE v1.0.2, Sigstore bundle v0.3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError

from mainspring_proof.keys import Signer, TrustedKeys
from mainspring_svckit.errors import PreconditionFailed, Unavailable

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BYTES = 16 << 20
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


@dataclass(frozen=True)
class Statement:
    """What somebody signed.

    Attributes:
        subject: Name of what it is about.
        sha256: Digest of what it is about.
        predicate_type: What kind of statement it is.
        predicate: The statement.
        key_id: Who signed it: SHA-256 of the public key's PEM; empty before it is signed.
    """

    subject: str
    sha256: str
    predicate_type: str
    predicate: Mapping[str, Any]
    key_id: str = ""


def sign(statement: Statement, signer: Signer) -> bytes:
    """The statement as a signed bundle, of which is seen that the signer's public key verifies it.

    Raises:
        Unavailable: SIGNER_NOT_TRUSTED, whoever signed has another key than the trusted one.
        Exception: As the signer's own library; a local key raises none.
    """
    body = {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": statement.subject, "digest": {"sha256": statement.sha256}}],
        "predicateType": statement.predicate_type,
        "predicate": statement.predicate,
    }
    envelope = Envelope(canonical(body), _PAYLOAD_TYPE, {})
    signature = envelope.sign(signer)
    try:
        envelope.verify([signer.public_key], threshold=1)
    except VerificationError as err:
        message = "what the signing key signs is not verified by the first trusted key; put its public key there"
        raise Unavailable("SIGNER_NOT_TRUSTED", message) from err
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": signature.keyid}, "tlogEntries": []},
        "dsseEnvelope": envelope.to_dict(),
    }
    return canonical(bundle)


def verify(bundle: bytes, trusted: TrustedKeys) -> Statement:
    """What a trusted key has signed.

    Raises:
        PreconditionFailed: PROOF_INVALID, it is no such bundle; PROOF_UNTRUSTED, no trusted key has signed these bytes.
    """
    if len(bundle) > MAX_BYTES:
        raise _invalid(f"it is larger than {MAX_BYTES} bytes")
    try:
        read = _mapping(json.loads(bundle))
        if read.get("mediaType") != MEDIA_TYPE:
            raise _invalid(f"its media type is not {MEDIA_TYPE}")
        envelope = Envelope.from_dict(dict(_mapping(read["dsseEnvelope"])))
        if envelope.payload_type != _PAYLOAD_TYPE:
            raise _invalid(f"its payload is not {_PAYLOAD_TYPE}")
        (key_id,) = envelope.verify(list(trusted.keys), threshold=1)
        return _statement(_mapping(json.loads(envelope.payload)), key_id)
    except VerificationError as err:
        message = "the signed manifest was changed after it was signed, or none of the trusted keys has signed it"
        raise PreconditionFailed("PROOF_UNTRUSTED", message) from err
    except (ValueError, KeyError, TypeError, AttributeError, FormatError, RecursionError) as err:
        raise _invalid(f"{type(err).__name__}: {str(err)[:200]}") from err


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and without spaces, as UTF-8: the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _statement(body: Mapping[str, Any], key_id: str) -> Statement:
    if body["_type"] != _STATEMENT_TYPE:
        raise _invalid("its payload is no in-toto statement (v1)")
    (subject,) = body["subject"]
    return Statement(
        str(subject["name"]),
        str(subject["digest"]["sha256"]),
        str(body["predicateType"]),
        _mapping(body["predicate"]),
        key_id,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _invalid("a part of it that must be an object is none")
    return cast("dict[str, Any]", value)


def _invalid(why: str) -> PreconditionFailed:
    return PreconditionFailed("PROOF_INVALID", f"this is no signed manifest: {why}")
