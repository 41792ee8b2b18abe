"""Keys and tokens in texts, by the form that their makers gave them and by their checksum where they have one.

Guesses by entropy are left out on purpose: in prose and code they find hashes and identifiers.
"""

from __future__ import annotations

import binascii
import json
import re
import zlib
from base64 import urlsafe_b64decode
from collections.abc import Callable

from mainspring_data_ingest.adapters.steps.base import BaseStep
from mainspring_data_ingest.adapters.steps.replacing import replaced
from mainspring_data_ingest.domain.records import RefusalReason, RowRefused
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import PersonalDataAction, Secrets

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _checksum62(token: str) -> bool:
    """Whether a token ends with the CRC-32 of its middle in base 62, as GitHub's and npm's do."""
    body, check = token.split("_", 1)[1][:-6], token[-6:]
    value = zlib.crc32(body.encode())
    digits = ""
    for _ in range(6):
        value, digit = divmod(value, 62)
        digits = _BASE62[digit] + digits
    return digits == check


def _is_web_token(token: str) -> bool:
    """Whether the first part of a JSON Web Token is its header."""
    head = token.split(".", 1)[0]
    try:
        header = json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, binascii.Error):
        return False
    return isinstance(header, dict) and "alg" in header


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool] | None], ...] = (
    (
        "PRIVATE_KEY",
        re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[\s\S]*?-----END [A-Z0-9 ]+-----)?"),
        None,
    ),
    ("AWS_ACCESS_KEY", re.compile(r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"), None),
    ("GITHUB_TOKEN", re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36}\b"), _checksum62),
    ("GITHUB_TOKEN", re.compile(r"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}\b"), None),
    ("GITLAB_TOKEN", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}"), None),
    ("NPM_TOKEN", re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"), _checksum62),
    ("PYPI_TOKEN", re.compile(r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}"), None),
    ("SLACK_TOKEN", re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"), None),
    ("STRIPE_KEY", re.compile(r"\b[rs]k_live_[A-Za-z0-9]{20,}\b"), None),
    ("GOOGLE_API_KEY", re.compile(r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"), None),
    ("HUGGING_FACE_TOKEN", re.compile(r"\bhf_[A-Za-z]{34}\b"), None),
    ("OPENAI_KEY", re.compile(r"\bsk-(?:[A-Za-z0-9]+-)?[A-Za-z0-9_-]*T3BlbkFJ[A-Za-z0-9_-]{20,}"), None),
    ("JSON_WEB_TOKEN", re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{10,}"), _is_web_token),
    ("URL_PASSWORD", re.compile(r"(?<=://)[^\s/:@]{1,100}:[^\s/:@]{1,100}(?=@[^\s/@]+)"), None),
)
_SIGN = re.compile(
    r"-----BEGIN|AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|npm_|pypi-|xox|_live_|AIza|hf_|sk-|eyJ|://[^\s/]*@"
)


class SecretsStep(BaseStep):
    """Masks, hashes, drops or refuses secrets."""

    name = "secrets"

    def __init__(self, step: Secrets) -> None:
        super().__init__()
        self._step = step

    def apply(self, draft: Draft) -> Draft:
        """See `Step`."""
        return draft.changed(self._step.part, self._treated)

    def _treated(self, text: str) -> str:
        # Nearly all texts hold none, and are not searched kind by kind.
        if not _SIGN.search(text):
            return text
        for kind, form, check in _KINDS:
            for match in reversed(list(form.finditer(text))):
                if check is not None and not check(match.group()):
                    continue
                self.found[kind] += 1
                if self._step.action is PersonalDataAction.REFUSE:
                    raise RowRefused(RefusalReason.SECRET, f"holds {kind}, which the recipe refuses")
                if self._step.action is not PersonalDataAction.KEEP:
                    text = (
                        text[: match.start()] + replaced(match.group(), kind, self._step.action) + text[match.end() :]
                    )
        return text
