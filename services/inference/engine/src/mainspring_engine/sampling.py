"""Reads sampling parameters: a JSON object with vLLM's names. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from mainspring_engine.engine import EngineError, Reason, Sampling

_TEXT_BYTES_MAX = 64 << 10
MAX_TOKENS_MAX = 131_072
LOGPROBS_MAX = 1_000
_STOPS_MAX, _STOP_CHARACTERS_MAX = 16, 1_000
_KNOWN = ("temperature", "top_p", "max_tokens", "seed", "stop", "logprobs", "ignore_eos")


def parse_sampling(text: str) -> Sampling:
    """Reads sampling parameters; an empty text stands for vLLM's defaults.

    Raises:
        EngineError: INVALID_SAMPLING, the message says which value would be right.
    """
    if not text:
        return Sampling()
    if len(text) > _TEXT_BYTES_MAX:
        raise _invalid(f"sampling_parameters has {len(text)} characters, at most {_TEXT_BYTES_MAX} are read")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise _invalid("sampling_parameters is not JSON") from err
    if not isinstance(values, dict):
        raise _invalid("sampling_parameters is not a JSON object")
    given: Mapping[str, Any] = {key: value for key, value in values.items() if value is not None}
    unknown = sorted(given.keys() - set(_KNOWN))
    if unknown:
        raise _invalid(f"{unknown[0]!r} is unknown; there are {', '.join(_KNOWN)}")
    usual = Sampling()
    return Sampling(
        temperature=_number(given, "temperature", usual.temperature, 0, 2),
        top_p=_top_p(given),
        max_tokens=_count(given, "max_tokens", usual.max_tokens, 1, MAX_TOKENS_MAX) or usual.max_tokens,
        seed=_count(given, "seed", None, 0, (1 << 32) - 1),
        stop=_stop(given.get("stop", ())),
        logprobs=_count(given, "logprobs", 0, 0, LOGPROBS_MAX) or 0,
        ignore_eos=given.get("ignore_eos", False) is True,
    )


def _number(given: Mapping[str, Any], key: str, default: float, low: float, high: float) -> float:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _invalid(f"{key} is not a number")
    if not low <= value <= high:
        raise _invalid(f"{key} is {value}; it must be between {low} and {high}")
    return float(value)


def _top_p(given: Mapping[str, Any]) -> float:
    value = _number(given, "top_p", 1.0, 0, 1)
    if value == 0:
        raise _invalid("top_p is 0; it must be above 0")
    return value


def _count(given: Mapping[str, Any], key: str, default: int | None, low: int, high: int) -> int | None:
    value = given.get(key, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid(f"{key} is not a whole number")
    if not low <= value <= high:
        raise _invalid(f"{key} is {value}; it must be between {low} and {high}")
    return value


def _stop(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or len(texts) > _STOPS_MAX:
        raise _invalid(f"stop is not a list of at most {_STOPS_MAX} texts")
    for text in texts:
        if not isinstance(text, str) or not 1 <= len(text) <= _STOP_CHARACTERS_MAX:
            raise _invalid(f"stop holds something else than texts of 1 to {_STOP_CHARACTERS_MAX} characters")
    return tuple(texts)


def _invalid(message: str) -> EngineError:
    return EngineError(Reason.INVALID_SAMPLING, message)
