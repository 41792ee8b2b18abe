"""Enforces the constraints that stand in the contracts (protovalidate); the one place where requests are checked."""

from __future__ import annotations

import protovalidate
from google.protobuf.message import Message

from mainspring_svckit.errors import FieldViolation, InvalidInput


def validate(message: Message) -> None:
    """Checks a message against its own rules.

    Raises:
        InvalidInput: With every violation, each with the field's path.
    """
    found = protovalidate.collect_violations(message)
    if not found:
        return
    violations = [FieldViolation(_path(violation), violation.proto.message) for violation in found]
    listed = "; ".join(f"{v.field or 'request'}: {v.description}" for v in violations[:5])
    more = f"; and {len(violations) - 5} more" if len(violations) > 5 else ""
    raise InvalidInput(listed + more, violations=violations)


def _path(violation: protovalidate.Violation) -> str:
    parts: list[str] = []
    for element in violation.proto.field.elements if violation.proto.field else ():
        subscript = "" if element.subscript is None else f"[{element.subscript.value}]"
        parts.append(f"{element.field_name}{subscript}")
    return ".".join(parts)
