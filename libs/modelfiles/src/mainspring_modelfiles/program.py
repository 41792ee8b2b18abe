"""How this package's programs are asked: a request on stdin, one answer on stdout. Standard library only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from mainspring_modelfiles.refusal import Refused

REFUSED = 2
"""Exit status when the answer is a refusal: `{"reason": "", "message": ""}`."""


def answer(make: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Reads the request, prints what is made of it, or why it is refused; returns the exit status."""
    # Whatever a library prints must not mix with the answer.
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    status = 0
    try:
        made = make(json.load(sys.stdin))
    except Refused as err:
        made, status = {"reason": err.reason, "message": err.message}, REFUSED
    with os.fdopen(answer_fd, "w", encoding="utf-8") as out:
        json.dump(made, out)
    return status
