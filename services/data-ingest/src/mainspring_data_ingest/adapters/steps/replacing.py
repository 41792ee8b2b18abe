"""What stands where something was found that must not stay."""

from __future__ import annotations

import hashlib
import hmac

from mainspring_data_ingest.domain.steps import PersonalDataAction

_HASH_KEY = b"mainspring.personal_data.v1"


def replaced(value: str, kind: str, action: PersonalDataAction) -> str:
    """What an action makes of a value of that kind."""
    match action:
        case PersonalDataAction.HASH:
            digest = hmac.new(_HASH_KEY, value.encode(), hashlib.sha256).hexdigest()[:12]
            return f"<{kind}:{digest}>"
        case PersonalDataAction.DROP:
            return ""
        case PersonalDataAction.KEEP:
            return value
        case _:
            return f"<{kind}>"
