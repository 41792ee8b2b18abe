"""Compares a domain's state machine with what the contracts' comments promise."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from mainspring_svckit.states import StateMachine

S = TypeVar("S", bound=StrEnum)
PROTOS = Path(__file__).resolve().parents[5] / "protos" / "mainspring"


def declared_transitions(proto: str, message: str) -> dict[str, set[str]]:
    """The transitions that the comments of `message.State` declare.

    Args:
        proto: File below `protos/mainspring`, for example `registry/v1/model.proto`.
        message: The message that holds the enum.
    """
    text = (PROTOS / proto).read_text()
    start = re.search(rf"^message {message} \{{$.*?^  enum State \{{$(.*?)^  \}}$", text, re.MULTILINE | re.DOTALL)
    assert start is not None, f"{proto} has no {message}.State"
    declared: dict[str, set[str]] = {}
    for comment, name in re.findall(r"((?:    // .*\n)+)    STATE_(\w+) = [1-9]\d*;", start[1]):
        words = " ".join(line.strip(" /") for line in comment.splitlines())
        if re.search(r"\bTerminal\.", words):
            declared[name] = set()
            continue
        # "May go to READY, FAILED, UNLOADING." and "May go to LOADING after Triton restarted, or to UNLOADING."
        sentence = re.search(r"May go to (.*)$", words)
        assert sentence is not None, f"{message}.STATE_{name} says neither 'May go to' nor 'Terminal.'"
        declared[name] = set(re.findall(r"\b[A-Z][A-Z_]{3,}\b", sentence[1]))
    return declared


def assert_as_declared(machine: StateMachine[S], proto: str, message: str) -> None:
    """Fails unless the machine and the comments say the same."""
    ours = {state.value: {target.value for target in targets} for state, targets in machine.transitions.items()}
    assert ours == declared_transitions(proto, message)
