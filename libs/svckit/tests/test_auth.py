import base64
import json
import time

import jwt
import pytest

from mainspring_svckit.auth import AUDIENCE, LocalIssuer, Principal, TokenVerifier
from mainspring_svckit.errors import PermissionDenied, Unauthenticated


def forge(claims: dict[str, object], *, alg: str = "none", kid: str = "x", key: str = "") -> str:
    header = base64.urlsafe_b64encode(json.dumps({"alg": alg, "kid": kid}).encode()).rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{header}.{body}.{key}"


def test_a_token_names_its_caller(issuer: LocalIssuer, verifier: TokenVerifier) -> None:
    caller = verifier.verify(issuer.issue("ann", ["p", "q"], ["releaser"], 60))
    assert caller == Principal("ann", frozenset({"p", "q"}), frozenset({"releaser"}))
    assert caller.may_see("q")
    assert not caller.may_see("r")


@pytest.mark.parametrize("alg", ["none", "HS256"])
def test_a5_forged_algorithms_are_refused(verifier: TokenVerifier, issuer: LocalIssuer, alg: str) -> None:
    good = issuer.issue("ann", ["p"], ["admin"], 60)
    kid = jwt.get_unverified_header(good)["kid"]
    claims = jwt.decode(good, options={"verify_signature": False})
    with pytest.raises(Unauthenticated):
        verifier.verify(forge(claims, alg=alg, kid=kid))


def test_a5_another_issuers_key_is_refused(verifier: TokenVerifier) -> None:
    with pytest.raises(Unauthenticated, match="does not know"):
        verifier.verify(LocalIssuer.create().issue("ann", ["p"], ["admin"], 60))


def test_a5_wrong_issuer_and_audience_are_refused(issuer: LocalIssuer) -> None:
    token = issuer.issue("ann", ["p"], ["admin"], 60)
    with pytest.raises(Unauthenticated):
        TokenVerifier(issuer.jwks(), "somebody-else").verify(token)
    assert AUDIENCE in str(jwt.decode(token, options={"verify_signature": False})["aud"])


def test_f14_tokens_allow_sixty_seconds_of_skew_and_no_more(issuer: LocalIssuer, verifier: TokenVerifier) -> None:
    assert verifier.verify(issuer.issue("ann", ["p"], ["admin"], -30)).subject == "ann"
    with pytest.raises(Unauthenticated, match="expired"):
        verifier.verify(issuer.issue("ann", ["p"], ["admin"], -90))


def test_f14_a_token_that_was_verified_before_ends_all_the_same(
    issuer: LocalIssuer, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, now = issuer.issue("ann", ["p"], ["admin"], 60), time.time()
    monkeypatch.setattr("mainspring_svckit.auth.time.time", lambda: now + 110)
    assert verifier.verify(token).subject == "ann"
    monkeypatch.setattr("mainspring_svckit.auth.time.time", lambda: now + 130)
    with pytest.raises(Unauthenticated, match="expired"):
        verifier.verify(token)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic abc", "Bearer not-a-token", "Bearer a.b.c"])
def test_a_missing_or_malformed_header_is_refused(verifier: TokenVerifier, header: str | None) -> None:
    with pytest.raises(Unauthenticated):
        verifier.verify_header(header)


@pytest.mark.parametrize(
    ("held", "needed", "allowed"),
    [
        ("admin", "releaser", True),
        ("contributor", "annotator", True),
        ("contributor", "viewer", True),
        ("viewer", "contributor", False),
        ("releaser", "contributor", False),
        ("annotator", "viewer", False),
        ("admin", "service", False),
        ("service", "admin", True),
    ],
)
def test_roles_include_what_they_say(held: str, needed: str, allowed: bool) -> None:
    caller = Principal("ann", frozenset({"p"}), frozenset({held}))
    if allowed:
        caller.require(needed)
    else:
        with pytest.raises(PermissionDenied):
            caller.require(needed)


def test_unknown_roles_in_a_token_give_nothing(issuer: LocalIssuer, verifier: TokenVerifier) -> None:
    with pytest.raises(ValueError, match="no such role"):
        issuer.issue("ann", ["p"], ["root"], 60)


def test_the_local_key_is_made_once_and_only_its_owner_reads_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    first = LocalIssuer.load_or_create(tmp_path)
    again = LocalIssuer.load_or_create(tmp_path)
    assert first.jwks() == again.jwks()
    assert (tmp_path / "issuer.json").stat().st_mode & 0o077 == 0
    assert "private" not in (tmp_path / "jwks.json").read_text()
    token = again.issue("ann", ["p"], ["viewer"], 60)
    claims = TokenVerifier.from_file(tmp_path / "jwks.json", "mainspring-local").verify(token)
    assert claims.subject == "ann"
    assert jwt.decode(token, options={"verify_signature": False})["iat"] <= time.time()
